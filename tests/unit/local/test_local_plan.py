"""A configuration becomes nodes and supervised programs."""

from pathlib import Path

import pytest

from rumor.config import BalancerConfig, Config, ProcessConfig, ProgramConfig, ServiceConfig
from rumor.errors import ConfigError
from rumor.host.plan import Tools
from rumor.local.plan import LocalPlan, make_plan, node_names, numbers_beside
from rumor.model import Seconds
from rumor.names import Endpoint, ServiceName
from rumor.supervise.base import Program

FILE, DATA = Path("/srv/shop/rumor.toml"), Path("/srv/shop/.rumor")
TOOLS = Tools("/usr/bin/python3", Path("/opt/haproxy"), {"serve": "/usr/bin/serve"}.get, "me", is_root=False)


def service(command: str = "serve --at {host}:{port}", replicas: int = 2, *, drain: float = 10.0) -> ServiceConfig:
    process = ProcessConfig(command, environment={"TAG": "mine"})
    return ServiceConfig(ServiceName("web"), replicas=replicas, drain=Seconds(drain), process=process)


def laid_out(
    *services: ServiceConfig, standby: int = 0, join: bool = True, programs: tuple[ProgramConfig, ...] = ()
) -> LocalPlan:
    config = Config(balancer=BalancerConfig(), services=services, programs=programs)
    waiting = {"web": standby}
    names = [name for name, *_ in node_names(config, waiting)]
    return make_plan(
        config,
        file=FILE,
        data=DATA,
        gossip_ports={"balancer": 7000} | {name: 7001 + number for number, name in enumerate(names)},
        app_ports={name: 3000 + number for number, name in enumerate(names)},
        binds=[Endpoint("127.0.0.1", 8080)],
        stats=Endpoint("127.0.0.1", 1936),
        standby=waiting,
        tools=TOOLS,
        joins=None if join else (),
    )


def program(plan: LocalPlan, name: str) -> Program:
    (found,) = (one for one in plan.programs if one.name == name)
    return found


def values(command: tuple[str, ...], flag: str) -> list[str]:
    return [command[number + 1] for number, word in enumerate(command) if word == flag]


def test_each_node_has_an_agent_and_what_it_speaks_for() -> None:
    plan = laid_out(service())
    assert [node.name for node in plan.nodes] == ["balancer", "web-1", "web-2"]
    assert {one.name for one in plan.programs} == {
        "haproxy", "balancer-agent", "web-1-app", "web-1-agent", "web-2-app", "web-2-agent",
    }  # fmt: skip


def test_an_app_is_told_its_place_in_words_and_environment() -> None:
    app = program(laid_out(service()), "web-2-app")
    assert app.command == ("/usr/bin/serve", "--at", "127.0.0.1:3001")
    assert app.directory == FILE.parent
    assert (app.environment["PORT"], app.environment["TAG"], app.environment["RUMOR_NODE"]) == ("3001", "mine", "web-2")


def test_agents_stop_before_haproxy_and_haproxy_before_the_apps() -> None:
    plan = laid_out(service(drain=20.0))
    agent, haproxy, app = (program(plan, name) for name in ("web-1-agent", "haproxy", "web-1-app"))
    assert agent.priority > haproxy.priority > app.priority
    assert agent.stop_wait > 20.0


def test_agents_are_told_of_the_others_and_never_of_themselves() -> None:
    plan = laid_out(service(replicas=12))
    for node in plan.nodes:
        joins = values(program(plan, node.agent).command, "--join")
        assert joins
        assert str(node.gossip) not in joins
        assert len(joins) <= 8


def test_without_join_each_stays_alone() -> None:
    plan = laid_out(service(), join=False)
    assert not any(values(program(plan, node.agent).command, "--join") for node in plan.nodes)


def test_nodes_on_standby_are_planned_and_not_started() -> None:
    plan = laid_out(service(replicas=1), standby=1)
    assert [(node.name, node.is_standby) for node in plan.nodes] == [
        ("balancer", False), ("web-1", False), ("web-2", True),
    ]  # fmt: skip
    assert not program(plan, "web-2-agent").autostart
    assert not program(plan, "web-2-app").autostart
    assert str(plan.node("web-2").gossip) not in values(program(plan, "web-1-agent").command, "--join")


def test_the_balancers_agent_knows_what_was_chosen_for_it() -> None:
    settings = values(program(laid_out(service()), "balancer-agent").command, "--set")
    assert settings == ['balancer.bind=["127.0.0.1:8080"]', 'balancer.stats="127.0.0.1:1936"']


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-program --fast", "there is no program 'no-such-program' on this machine"),
        ("serve 'oh", "No closing quotation"),
        ("''  ", "there is no program ''"),
        ("   ", "is empty"),
    ],
)
def test_a_command_that_cannot_run_is_an_error_that_names_the_key(command: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"rumor\.toml: service\.web\.command: ") as caught:
        laid_out(service(command))
    assert words in str(caught.value)


def test_a_program_runs_beside_each_app_of_its_parts_and_stops_in_its_order() -> None:
    worker = ProgramConfig("worker", ProcessConfig("serve jobs", stop_signal="INT"), ("web",), order=-1)
    plan = laid_out(service(), programs=(worker,))
    assert {one.name for one in plan.programs if "worker" in one.name} == {"web-1-worker", "web-2-worker"}
    beside = program(plan, "web-1-worker")
    assert (beside.stop_signal, beside.environment["RUMOR_NODE"]) == ("INT", "web-1")
    assert program(plan, "web-1-agent").priority > beside.priority > program(plan, "web-1-app").priority


def test_another_user_is_an_error_where_nobody_can_become_him() -> None:
    stranger = ProgramConfig("worker", ProcessConfig("serve", user="nobody"), ("*",))
    with pytest.raises(ConfigError, match=r"program\.worker\.user: only root can run it as nobody"):
        laid_out(service(), programs=(stranger,))


def test_nodes_beside_others_keep_their_numbers_and_take_free_ones() -> None:
    web = ServiceName("web")
    config = Config(services=(service(replicas=3),))
    assert numbers_beside(config, {web: [4, 5, 6, 7]}) == {web: [4, 5, 6]}
    assert numbers_beside(config, {web: [2]}) == {web: [1, 2, 3]}
    assert numbers_beside(config, {}) == {web: [1, 2, 3]}


def test_python_is_the_one_that_runs_rumor_where_there_is_no_other() -> None:
    assert program(laid_out(service("python3 app.py")), "web-1-app").command == ("/usr/bin/python3", "app.py")


def test_an_unknown_node_is_an_error_that_names_the_known() -> None:
    with pytest.raises(ConfigError, match=r"no node web-9 .*balancer, web-1, web-2"):
        laid_out(service()).node("web-9")
