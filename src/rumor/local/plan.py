"""A configuration -> the nodes and the supervised programs of a cluster on this machine. Nothing here acts."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rumor.config import Config, ProgramConfig, ServiceConfig
from rumor.config.templates import EVERY_PART
from rumor.errors import ConfigError
from rumor.host.plan import Run, Tools, app_words, haproxy_program, part_secrets, user_program
from rumor.model import Seconds
from rumor.names import Endpoint, HostPort, ServiceName
from rumor.places import Places, places
from rumor.supervise.backoff import FIRST_PAUSE
from rumor.supervise.base import AGENTS, APPS, HAPROXY, PROGRAMS, Program

BALANCER = "balancer"
# Nodes drain and leave while the balancer's agent still watches their sessions; then it goes, HAProxy, the apps.
_NODES_STOP, _STEERING_STOPS, _HAPROXY_STOPS, _APPS_STOP = 900, 700, 500, 300
_LEAVE_SECONDS = 8.0
_JOINS = 8


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node: an agent, and the process it speaks for."""

    name: str
    part: str
    gossip: HostPort
    port: int
    """Where its app listens; 0 for the balancer."""
    is_standby: bool
    """Planned, but not started with the cluster."""

    @property
    def agent(self) -> str:
        """The name of its agent's program."""
        return f"{self.name}-agent"

    @property
    def process(self) -> str:
        """The name of its app's program, or HAProxy's."""
        return HAPROXY if self.part == BALANCER else f"{self.name}-app"


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """A whole cluster on this machine."""

    data: Path
    nodes: tuple[NodePlan, ...]
    programs: tuple[Program, ...]
    binds: tuple[Endpoint, ...]
    stats: Endpoint | None
    joins: tuple[str, ...] = ()
    """Whom every agent is told of."""

    def node(self, name: str) -> NodePlan:
        for node in self.nodes:
            if node.name == name:
                return node
        raise ConfigError(f"there is no node {name} in this cluster (known: {', '.join(n.name for n in self.nodes)})")

    @property
    def balancer_places(self) -> Places:
        return places(self.data, BALANCER)


Numbers = Mapping[ServiceName, Sequence[int]]
"""By service, which numbers its nodes have."""


def node_names(
    config: Config, standby: Mapping[str, int], numbers: Numbers | None = None
) -> list[tuple[str, ServiceConfig, int, bool]]:
    """Return name, service, number and standby of each node that runs an app; numbers begin at 1 if nothing is said."""
    return [
        (f"{service.name}-{number}", service, number, place > service.replicas)
        for service in config.services
        if service.command
        for place, number in enumerate(
            range(1, service.replicas + standby.get(service.name, 0) + 1)
            if numbers is None
            else numbers.get(service.name, ()),
            start=1,
        )
    ]


def numbers_beside(config: Config, there: Numbers) -> Numbers:
    """Return which numbers nodes are to have beside those that are there: the lowest stay, free ones are added."""
    found: dict[ServiceName, list[int]] = {}
    for service in config.services:
        kept = sorted(there.get(service.name, ()))[: service.replicas]
        free = (number for number in itertools.count(1) if number not in kept)
        found[service.name] = sorted([*kept, *itertools.islice(free, service.replicas - len(kept))])
    return found


def make_plan(
    config: Config,
    *,
    file: Path,
    data: Path,
    gossip_ports: Mapping[str, int],
    app_ports: Mapping[str, int],
    binds: Sequence[Endpoint],
    stats: Endpoint | None,
    standby: Mapping[str, int],
    tools: Tools,
    joins: Sequence[str] | None = None,
    numbers: Numbers | None = None,
    settings: Sequence[str] = (),
    app_directory: Path | None = None,
) -> LocalPlan:
    """Lay out the cluster.

    Args:
        config: what the file says.
        file: rumor.toml, absolute; every agent reads it.
        data: the data directory, absolute.
        gossip_ports: by node name, the balancer's included.
        app_ports: by node name.
        binds: where HAProxy serves.
        stats: where it shows its statistics.
        standby: by service, how many more nodes are planned but not started.
        tools: the machine.
        joins: whom every agent is told of; the first nodes where nothing is said, nobody where it is empty.
        numbers: which numbers nodes have; 1 and so on where nothing is said.
        settings: more KEY=VALUE for every agent, over the file.
        app_directory: where apps run; beside the file if nothing is said.

    Raises:
        ConfigError: an app's command cannot be run.
    """
    if joins is None:
        waiting = {name for name, *_, is_standby in node_names(config, standby, numbers) if is_standby}
        joins = [f"127.0.0.1:{port}" for name, port in gossip_ports.items() if name not in waiting][:_JOINS]
    nodes = [NodePlan(BALANCER, BALANCER, HostPort("127.0.0.1", gossip_ports[BALANCER]), 0, False)]
    apps: list[Program] = []
    for name, service, _, is_standby in node_names(config, standby, numbers):
        node = NodePlan(name, service.name, HostPort("127.0.0.1", gossip_ports[name]), app_ports[name], is_standby)
        nodes.append(node)
        apps.append(_app(node, service, file, data, tools, app_directory or file.parent))
    others = [
        _other(node, program, file, data, tools, app_directory or file.parent)
        for program in config.programs
        for node in nodes
        if EVERY_PART in program.parts or node.part in program.parts
    ]
    drain = max((service.drain for service in config.services), default=Seconds(0.0))
    own = [f"balancer.bind={_toml_list([str(bind) for bind in binds])}"]
    if stats is not None:
        own.append(f'balancer.stats="{stats}"')
    agents = [
        _agent(node, file, data, joins, [*settings, *(own if node.part == BALANCER else [])], drain, tools)
        for node in nodes
    ]
    programs = (_haproxy(data, tools), *apps, *others, *agents)
    return LocalPlan(data, tuple(nodes), programs, tuple(binds), stats, tuple(joins))


def _toml_list(texts: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"


def _agent(
    node: NodePlan,
    file: Path,
    data: Path,
    joins: Sequence[str],
    overrides: Sequence[str],
    drain: Seconds,
    tools: Tools,
) -> Program:
    said = [*overrides, *([f"service.{node.part}.port={node.port}"] if node.port else [])]
    # A command line can be read by everybody on the machine.
    secret, settings = part_secrets(said)
    command = [
        tools.python, "-m", "rumor", "agent", node.part,
        "--file", str(file), "--data", str(data), "--node", node.name, "--bind", str(node.gossip),
        "--preset", "local",
    ]  # fmt: skip
    for join in joins:
        if join != str(node.gossip):
            command += ["--join", join]
    for setting in settings:
        command += ["--set", setting]
    return Program(
        name=node.agent,
        group=AGENTS,
        node=node.name,
        command=tuple(command),
        directory=data,
        environment=secret,
        log=places(data, node.name).logs / "agent.log",
        exits=places(data, node.name).exits,
        stop_wait=Seconds(drain + _LEAVE_SECONDS),
        priority=_STEERING_STOPS if node.part == BALANCER else _NODES_STOP,
        autostart=not node.is_standby,
    )


def _app(node: NodePlan, service: ServiceConfig, file: Path, data: Path, tools: Tools, directory: Path) -> Program:
    place = places(data, node.name)
    run = Run(
        node.process, APPS, node.name, directory, place.logs / "app.log", place.exits, _APPS_STOP, not node.is_standby
    )
    fill, environment = app_words("127.0.0.1", node.port, node.name)
    return user_program(
        f"{file}: service.{service.name}", service.process, run, tools,
        fill=fill, environment=environment | _node_variables(node, data),
    )  # fmt: skip


def _other(node: NodePlan, program: ProgramConfig, file: Path, data: Path, tools: Tools, directory: Path) -> Program:
    place = places(data, node.name)
    name = f"{node.name}-{program.name}"
    priority = _APPS_STOP - program.order
    run = Run(
        name,
        PROGRAMS,
        node.name,
        directory,
        place.logs / f"{program.name}.log",
        place.exits,
        priority,
        not node.is_standby,
    )
    environment = {"TAG": node.name} | _node_variables(node, data)
    return user_program(f"{file}: program.{program.name}", program.process, run, tools, environment=environment)


def _node_variables(node: NodePlan, data: Path) -> dict[str, str]:
    return {"RUMOR_NODE": node.name, "RUMOR_NODE_DIRECTORY": str(places(data, node.name).directory)}


def _haproxy(data: Path, tools: Tools) -> Program:
    # A cluster without HAProxy serves nobody: it is tried again each second.
    return haproxy_program(places(data, BALANCER), BALANCER, tools, data, _HAPROXY_STOPS, longest_pause=FIRST_PAUSE)
