"""Plan a cluster on this machine: look at its ports and programs, and let `plan.py` think. And plan it again.

Again means: by what rumor.toml says now, beside what runs. Ports that programs hold stay theirs.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rumor.config import Config
from rumor.host.plan import Tools
from rumor.host.run import tools_of as tools_of_host
from rumor.local.plan import BALANCER, LocalPlan, Numbers, make_plan, node_names, numbers_beside
from rumor.local.ports import LOOPBACK, Ports
from rumor.names import Endpoint, ServiceName
from rumor.places import places
from rumor.supervise.inventory import Inventory

_DEFAULT_BIND, _DEFAULT_STATS = 8080, 1936


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Which cluster, and where."""

    config: Config
    file: Path
    """rumor.toml, absolute."""
    data: Path
    """The data directory, absolute."""
    standby: Mapping[str, int]
    """By service, how many nodes are planned but not started."""
    join: bool = True
    """Whether the agents are told of one another."""
    settings: tuple[str, ...] = ()
    """KEY=VALUE for every agent, over the file."""
    app_directory: Path | None = None
    """Where the apps run; beside the file if nothing is said."""
    joins: tuple[str, ...] | None = None
    """Whom every agent is told of, from an earlier plan of this cluster."""
    numbers: Numbers | None = None
    """Which numbers nodes have, beside those of an earlier plan."""


def tools_of(file: Path, environ: Mapping[str, str]) -> Tools:
    """Return what there is on this machine; an app may also lie beside its rumor.toml.

    Raises:
        ConfigError: there is no HAProxy.
    """

    def find_program(name: str) -> str | None:
        beside = file.parent / name
        return shutil.which(name, path=environ.get("PATH")) or (shutil.which(beside) if beside.is_file() else None)

    return replace(tools_of_host((BALANCER,), environ), find_program=find_program)


def plan_cluster(settings: ClusterSettings, ports: Ports, tools: Tools) -> LocalPlan:
    """Lay out the cluster, and take the ports it needs.

    Raises:
        ConfigError: an app's command cannot be run, or a port is taken.
    """
    config = settings.config
    binds, stats = _haproxy_addresses(config, ports)
    names = node_names(config, settings.standby, settings.numbers)
    app_ports = {}
    for name, service, number, _ in names:
        if service.port and number == 1:
            app_ports[name] = ports.fixed(f"{name}/app", service.port, f"service.{service.name}.port", host=LOOPBACK)
        else:
            app_ports[name] = ports.free(f"{name}/app")
    gossip_ports = {
        name: ports.free(f"{name}/gossip", also_udp=True) for name in (BALANCER, *(name for name, *_ in names))
    }
    return make_plan(
        config,
        file=settings.file,
        data=settings.data,
        gossip_ports=gossip_ports,
        app_ports=app_ports,
        binds=binds,
        stats=stats,
        standby=settings.standby,
        tools=tools,
        joins=settings.joins if settings.join else (),
        numbers=settings.numbers,
        settings=settings.settings,
        app_directory=settings.app_directory,
    )


def make_directories(data: Path, nodes: Iterable[str]) -> None:
    """Make the directories of nodes.

    Raises:
        ConfigError: they cannot be made.
    """
    for node in nodes:
        place = places(data, node)
        place.make()
        for directory in (place.logs, place.exits):
            directory.mkdir(exist_ok=True)


def origin_of(settings: ClusterSettings, plan: LocalPlan) -> dict[str, Any]:
    """Return what `settings_again` needs."""
    return {
        "file": str(settings.file),
        "settings": list(settings.settings),
        "standby": dict(settings.standby),
        "app_directory": str(settings.app_directory) if settings.app_directory else "",
        "joins": list(plan.joins),
    }


def settings_again(config: Config, data: Path, inventory: Inventory) -> ClusterSettings:
    """Return the settings of a cluster that runs, with the configuration as it is now."""
    origin = inventory.origin
    return ClusterSettings(
        config,
        Path(origin["file"]),
        data,
        standby=dict(origin["standby"]),
        settings=tuple(origin["settings"]),
        app_directory=Path(origin["app_directory"]) if origin["app_directory"] else None,
        joins=tuple(origin["joins"]),
        numbers=numbers_beside(config, numbers_there(config, inventory)),
    )


def numbers_there(config: Config, inventory: Inventory) -> Numbers:
    """Return which numbers the nodes of each service have that are supervised now."""
    nodes = {program.node for program in inventory.programs}
    found: dict[ServiceName, list[int]] = {service.name: [] for service in config.services}
    for node in nodes:
        service, _, number = node.rpartition("-")
        if service in found and number.isdecimal():
            found[ServiceName(service)].append(int(number))
    return found


def ports_again(data: Path, inventory: Inventory) -> Ports:
    """Return the ports of a cluster that runs: what its programs hold is theirs."""
    nodes = {program.node for program in inventory.programs}
    held = {f"{node}/{use}" for node in nodes for use in ("app", "gossip", "stats", "http")}
    return Ports(data / "ports.json", held=held | {f"{BALANCER}/http-{number}" for number in range(1, 100)})


def _haproxy_addresses(config: Config, ports: Ports) -> tuple[tuple[Endpoint, ...], Endpoint | None]:
    balancer = config.balancer
    for number, bind in enumerate(balancer.binds, start=1):
        ports.fixed(f"{BALANCER}/http-{number}", bind.port, "balancer.bind", host=bind.host)
    binds = balancer.binds or (Endpoint(LOOPBACK, ports.free(f"{BALANCER}/http", preferred=_DEFAULT_BIND)),)
    if balancer.stats is None:
        return binds, Endpoint(LOOPBACK, ports.free(f"{BALANCER}/stats", preferred=_DEFAULT_STATS))
    ports.fixed(f"{BALANCER}/stats", balancer.stats.port, "balancer.stats", host=balancer.stats.host)
    return binds, balancer.stats
