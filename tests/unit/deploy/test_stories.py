"""A rolling restart and a deploy over an engine in memory: whatever fails, enough stay in rotation."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rumor.deploy import stories
from rumor.deploy.engine import Instance, Spec
from rumor.deploy.stories import deploy, restart_rolling
from rumor.errors import Refused, Unreachable
from rumor.model import Seconds
from rumor.names import ServiceName

WEB = ServiceName("web")
PATIENCE = Seconds(0.1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stories, "_POLL", 0.001)


@dataclass
class Fake:
    """Instances by name; each is in rotation once it has been looked at `slow` times, or never."""

    count: int = 3
    never: frozenset[str] = frozenset()
    """Those that do not come into rotation after a start or restart."""
    unstoppable: frozenset[str] = frozenset()
    slow: int = 2
    running: dict[str, int] = field(default_factory=dict)
    """By name, how many looks it takes yet; -1 for never."""
    fewest: int = 1000
    """How few were in rotation at any look."""
    on_look: Callable[[], None] = lambda: None
    silent: range = range(0)
    """At which looks the balancers do not answer."""
    looked: int = 0
    broken: frozenset[str] = frozenset()
    """Whose restart fails as nothing foresees."""

    def __post_init__(self) -> None:
        self.running = {f"old-{number}": 0 for number in range(self.count)}

    async def instances(self, service: ServiceName) -> tuple[Instance, ...]:
        return tuple(Instance(name, name, "old") for name in sorted(self.running))

    async def elsewhere(self, service: ServiceName) -> tuple[str, ...]:
        return ()

    async def start_new(self, service: ServiceName, spec: Spec, count: int) -> tuple[Instance, ...]:
        if spec.image == "none":
            raise Refused("there is no such image")
        for number in range(count):
            await asyncio.sleep(0.001)
            self._start(f"new-{number}")
        return tuple(Instance(f"new-{number}", f"new-{number}", str(spec)) for number in range(count))

    async def stop(self, instance: Instance) -> None:
        await asyncio.sleep(0)
        if instance.name in self.unstoppable:
            raise Unreachable(f"{instance.name} does not hear")
        self.running.pop(instance.name, None)
        self.look()

    async def restart(self, instance: Instance) -> None:
        await asyncio.sleep(0)
        if instance.name in self.broken:
            raise ValueError(f"a mistake about {instance.name}")
        await asyncio.sleep(0.01)
        self._start(instance.name)

    async def words(self, instance: Instance) -> str:
        return f"the last words of {instance.name}"

    def _start(self, name: str) -> None:
        self.running[name] = -1 if name in self.never else self.slow

    def look(self) -> frozenset[str]:
        found = frozenset(name for name, looks in self.running.items() if looks == 0)
        self.fewest = min(self.fewest, len(found))
        return found

    async def in_rotation(self, service: ServiceName) -> frozenset[str]:
        self.on_look()
        self.looked += 1
        if self.looked in self.silent:
            raise Unreachable("the balancer does not answer")
        found = self.look()
        self.running = {name: max(looks - 1, 0) if looks >= 0 else -1 for name, looks in self.running.items()}
        return found


def silent(text: str) -> None:
    pass


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - a fake tells nobody
            await asyncio.sleep(0.001)


async def test_each_is_waited_for_before_the_next() -> None:
    fake = Fake()
    report = await restart_rolling(fake, fake.in_rotation, WEB, max_unavailable=1, patience=PATIENCE, say=silent)
    assert (report.ok, [step.instance for step in report.steps]) == (True, ["old-0", "old-1", "old-2"])
    assert fake.fewest == 2


async def test_the_first_that_does_not_come_back_ends_it_and_the_others_are_left_alone() -> None:
    fake = Fake(never=frozenset({"old-1"}))
    report = await restart_rolling(fake, fake.in_rotation, WEB, max_unavailable=1, patience=PATIENCE, say=silent)
    assert not report.ok
    assert report.reason == "old-1 did not come back within 0.1 s; 1 were not touched"
    assert report.steps[-1].words == "the last words of old-1"
    assert fake.running["old-2"] == 0


@given(st.integers(1, 6), st.integers(1, 4), st.frozensets(st.sampled_from([f"old-{number}" for number in range(6)])))
@settings(max_examples=40)
def test_never_are_more_out_than_may_be(count: int, allowed: int, never: frozenset[str]) -> None:
    fake = Fake(count, never=never, slow=1)
    asyncio.run(
        restart_rolling(fake, fake.in_rotation, WEB, max_unavailable=allowed, patience=Seconds(0.01), say=silent)
    )
    assert fake.fewest >= count - allowed


async def test_new_ones_come_before_old_ones_go() -> None:
    fake = Fake()
    report = await deploy(fake, fake.in_rotation, WEB, Spec(image="new"), patience=PATIENCE, say=silent)
    assert report.ok, report
    assert sorted(fake.running) == ["new-0", "new-1", "new-2"]
    assert fake.fewest == 3


async def test_new_ones_that_do_not_become_ready_go_and_the_old_stay() -> None:
    fake = Fake(never=frozenset({"new-1"}))
    report = await deploy(fake, fake.in_rotation, WEB, Spec(command="app"), patience=PATIENCE, say=silent)
    assert not report.ok
    assert report.reason == "new-1 did not become ready within 0.1 s; the old ones stay"
    assert report.steps[0].words == "the last words of new-1"
    assert sorted(fake.running) == ["old-0", "old-1", "old-2"]


async def test_what_cannot_be_started_changes_nothing() -> None:
    fake = Fake()
    with pytest.raises(Refused, match="no such image"):
        await deploy(fake, fake.in_rotation, WEB, Spec(image="none"), patience=PATIENCE, say=silent)
    assert sorted(fake.running) == ["old-0", "old-1", "old-2"]


async def test_an_old_one_that_cannot_be_stopped_is_told() -> None:
    fake = Fake(unstoppable=frozenset({"old-1"}))
    report = await deploy(fake, fake.in_rotation, WEB, Spec(image="new"), patience=PATIENCE, say=silent)
    assert [step.words for step in report.steps if not step.ok] == ["old-1 does not hear"]
    assert not report.ok


async def test_new_ones_that_fall_again_keep_the_old_ones() -> None:
    fake = Fake()

    def fall() -> None:
        if "old-0" not in fake.running:
            fake.running["new-0"] = -1

    fake.on_look = fall
    report = await deploy(fake, fake.in_rotation, WEB, Spec(image="new"), patience=PATIENCE, say=silent)
    assert not report.ok
    assert {"old-1", "old-2"} <= set(fake.running)
    assert "new-0 fell again" in report.reason


async def test_a_deploy_that_is_interrupted_takes_the_new_ones_away() -> None:
    fake = Fake(never=frozenset({"new-0"}))
    task = asyncio.create_task(
        deploy(fake, fake.in_rotation, WEB, Spec(image="new"), patience=Seconds(60.0), say=silent)
    )
    await until(lambda: "new-2" in fake.running)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sorted(fake.running) == ["old-0", "old-1", "old-2"]


@pytest.mark.parametrize("times", [1, 3])
async def test_a_deploy_that_is_interrupted_while_new_ones_are_started_takes_them_away(times: int) -> None:
    fake = Fake()
    task = asyncio.create_task(
        deploy(fake, fake.in_rotation, WEB, Spec(image="new"), patience=Seconds(60.0), say=silent)
    )
    await until(lambda: "new-0" in fake.running)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(fake.running) == ["old-0", "old-1", "old-2"]


async def test_balancers_that_do_not_answer_for_a_while_end_neither_a_deploy_nor_a_restart() -> None:
    """The agent of a balancer is started again within a second or two."""
    fake, said = Fake(silent=range(2, 20)), list[str]()
    report = await deploy(fake, fake.in_rotation, WEB, Spec(image="new"), patience=Seconds(10.0), say=said.append)
    assert report.ok, report
    assert sorted(fake.running) == ["new-0", "new-1", "new-2"]
    assert said.count("waiting on: the balancer does not answer") == 1, "told, and once"
    fake = Fake(silent=range(3, 20))
    report = await restart_rolling(fake, fake.in_rotation, WEB, max_unavailable=1, patience=Seconds(10.0), say=silent)
    assert report.ok, report


async def test_balancers_that_fall_silent_while_old_ones_go_keep_the_rest_and_what_was_done_is_told() -> None:
    fake = Fake()

    def fall_silent() -> None:
        if "old-0" not in fake.running:
            fake.silent = range(1_000_000)

    fake.on_look = fall_silent
    report = await deploy(fake, fake.in_rotation, WEB, Spec(image="new"), patience=PATIENCE, say=silent)
    assert not report.ok
    assert [step.instance for step in report.steps] == ["new-0", "new-1", "new-2", "old-0"]
    assert {"old-1", "old-2", "new-0"} <= set(fake.running)


async def test_a_mistake_about_one_does_not_leave_its_siblings_half_way() -> None:
    fake = Fake(broken=frozenset({"old-0"}))
    with pytest.raises(ValueError, match="a mistake about old-0"):
        await restart_rolling(fake, fake.in_rotation, WEB, max_unavailable=3, patience=PATIENCE, say=silent)
    assert fake.running == {"old-0": 0, "old-1": 0, "old-2": 0}, "its siblings were waited for"


async def test_what_is_broken_already_can_be_replaced_by_force() -> None:
    fake = Fake()
    fake.running["old-1"] = -1
    report = await deploy(fake, fake.in_rotation, WEB, Spec(image="new"), patience=PATIENCE, say=silent, force=True)
    assert report.ok, report
    assert sorted(fake.running) == ["new-0", "new-1", "new-2"]
    with pytest.raises(Refused, match="nothing that offers web runs"):
        await deploy(Fake(0), fake.in_rotation, WEB, Spec(image="new"), patience=PATIENCE, say=silent, force=True)


@pytest.mark.parametrize("count", [0, 3])
async def test_it_does_not_begin_where_something_is_wrong_already(count: int) -> None:
    fake = Fake(count)
    if count:
        fake.running["old-1"] = -1
    with pytest.raises(Refused, match="old-1 of web not in rotation" if count else "nothing that offers web runs"):
        await deploy(fake, fake.in_rotation, WEB, Spec(image="new"), patience=PATIENCE, say=silent)
