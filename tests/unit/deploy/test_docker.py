"""The engine of Docker, over one in memory: who is an instance, what new ones are like, what is left when it fails."""

import asyncio
from collections.abc import Callable

import pytest
from tests.unit.deploy.fake_docker import Container, FakeDocker, error

from rumor.deploy.docker import DockerEngine
from rumor.deploy.engine import Instance, Spec
from rumor.errors import Refused, Unreachable
from rumor.names import ServiceName

WEB = ServiceName("web")


def table(*names: str, up: bool = True) -> dict[str, object]:
    servers = [{"name": name, "state": "ready", "haproxy": {"is_up": up}} for name in names]
    return {"services": [{"name": "web", "servers": servers}]}


def failing(deed: str, name: str, failure: BaseException) -> Callable[[str, Container], None]:
    def check(done: str, container: Container) -> None:
        if (done, container.name) == (deed, name):
            raise failure

    return check


@pytest.fixture
def docker() -> FakeDocker:
    fake = FakeDocker()
    fake.add("lb", "RUMOR_ROLE=balancer", table=table("host-web-1", "named", "web-elsewhere"))
    fake.add("web-1", "ROLE=web")
    fake.add("web-2", "ROLE=web", "RUMOR_NODE=named")
    fake.add("stranger", project="other")
    return fake


async def test_instances_are_the_containers_that_are_members_and_others_are_named(docker: FakeDocker) -> None:
    engine = DockerEngine(docker.as_docker)
    assert [(it.name, it.id) for it in await engine.instances(WEB)] == [
        ("host-web-1", "id-web-1"),
        ("named", "id-web-2"),
    ]
    assert await engine.elsewhere(WEB) == ("web-elsewhere",)
    assert await engine.in_rotation(WEB) == {"host-web-1", "named", "web-elsewhere"}


async def test_in_rotation_is_what_every_balancer_has_up(docker: FakeDocker) -> None:
    docker.add("lb-2", "ROLE=balancer", table=table("named"))
    assert await DockerEngine(docker.as_docker).in_rotation(WEB) == {"named"}


async def test_a_stranger_that_ends_while_it_is_looked_at_is_no_error(docker: FakeDocker) -> None:
    docker.check = failing("show", "stranger", error(404, "no such container"))
    assert len(await DockerEngine(docker.as_docker).instances(WEB)) == 2


async def test_a_container_is_shown_once_however_often_it_is_asked_for(docker: FakeDocker) -> None:
    engine = DockerEngine(docker.as_docker)
    for _ in range(3):
        await engine.in_rotation(WEB)
    assert sorted(docker.shows) == ["lb", "stranger", "web-1", "web-2"]


@pytest.mark.parametrize(
    "answer", [b"error: no agent runs", error(409, "container is restarting"), TimeoutError(), OSError("broken")]
)
async def test_a_balancer_whose_agent_is_away_is_unreachable(docker: FakeDocker, answer: object) -> None:
    docker.all["id-lb"].table = answer
    with pytest.raises(Unreachable, match="balancer lb"):
        await DockerEngine(docker.as_docker).in_rotation(WEB)


async def test_without_a_balancer_nobody_can_say(docker: FakeDocker) -> None:
    with pytest.raises(Unreachable, match="no container plays the balancer in compose project other"):
        await DockerEngine(docker.as_docker, project="other").in_rotation(WEB)


async def test_of_several_projects_one_must_be_meant(docker: FakeDocker) -> None:
    docker.add("lb-other", "ROLE=balancer", project="other", table=table())
    with pytest.raises(Refused, match=r"\(other, shop\): say which with --project"):
        await DockerEngine(docker.as_docker).instances(WEB)
    assert len(await DockerEngine(docker.as_docker, project="shop").instances(WEB)) == 2


async def test_new_ones_are_like_the_old_with_the_new_image_and_command(docker: FakeDocker) -> None:
    started = await DockerEngine(docker.as_docker).start_new(WEB, Spec("app --new", "shop:2"), 2)
    assert [it.name for it in started] == ["host-web-3", "host-web-4"]
    assert [made["Image"] for made in docker.created] == ["shop:2"] * 2
    assert docker.created[0]["Env"] == ["ROLE=web", "RUMOR_SERVICE_WEB_COMMAND=app --new"]
    assert all(docker.all[it.id].is_running for it in started)


async def test_a_command_of_an_earlier_deploy_stays_and_is_told(docker: FakeDocker) -> None:
    docker.all["id-web-1"].config["Env"].append("RUMOR_SERVICE_WEB_COMMAND=app --old")
    said: list[str] = []
    await DockerEngine(docker.as_docker, say=said.append).start_new(WEB, Spec("", "shop:2"), 2)
    assert docker.created[1]["Env"] == ["ROLE=web", "RUMOR_SERVICE_WEB_COMMAND=app --old"]
    assert said == ["RUMOR_SERVICE_WEB_COMMAND=app --old was said for the container, and stays: --command says another"]


@pytest.mark.parametrize(
    "failure", [error(500, "no such image"), TimeoutError(), OSError("broken"), asyncio.CancelledError()]
)
async def test_what_cannot_be_started_leaves_nothing_behind(docker: FakeDocker, failure: BaseException) -> None:
    before = set(docker.all)
    docker.check = failing("start", "web-4", failure)
    with pytest.raises((Refused, Unreachable, asyncio.CancelledError)):
        await DockerEngine(docker.as_docker).start_new(WEB, Spec("", "shop:2"), 3)
    assert set(docker.all) == before


async def test_one_that_cannot_be_stopped_does_not_keep_the_others(docker: FakeDocker) -> None:
    before = set(docker.all)

    def check(deed: str, container: Container) -> None:
        if (deed, container.name) in (("start", "web-5"), ("stop", "web-3")):
            raise error(500, "no")

    docker.check = check
    with pytest.raises(Refused, match="Docker cannot start web-5 of shop:2: no"):
        await DockerEngine(docker.as_docker).start_new(WEB, Spec("", "shop:2"), 3)
    assert set(docker.all) == before | {"id-web-3"}


async def test_a_drain_has_the_time_it_needs_whatever_docker_would_give_it(docker: FakeDocker) -> None:
    engine = DockerEngine(docker.as_docker)
    for instance in await engine.instances(WEB):
        await engine.restart(instance)
        await engine.stop(instance)
    assert docker.patience == [120] * 4


async def test_one_that_was_started_a_moment_ago_is_not_waited_for_so_long(docker: FakeDocker) -> None:
    engine = DockerEngine(docker.as_docker)
    (new,) = await engine.start_new(WEB, Spec("", "shop:2"), 1)
    await engine.stop(new)
    assert docker.patience == [20]


@pytest.mark.parametrize("failure", [None, error(409, "removal is in progress"), error(404, "no such container")])
async def test_containers_that_docker_removes_by_itself_can_be_stopped(
    docker: FakeDocker, failure: BaseException | None
) -> None:
    made = docker.add("web-9", AutoRemove=True)
    if failure is not None:
        docker.check = failing("delete", "web-9", failure)
    await DockerEngine(docker.as_docker).stop(Instance("host-web-9", made.id, "shop:1"))
    assert made.id not in docker.all


async def test_dockers_no_is_told_in_its_words(docker: FakeDocker) -> None:
    engine = DockerEngine(docker.as_docker)
    instance = (await engine.instances(WEB))[0]
    docker.check = failing("restart", "web-1", error(500, "no space left"))
    with pytest.raises(Refused, match="Docker cannot restart host-web-1: no space left"):
        await engine.restart(instance)
