"""One node's configuration -> the programs of its container. Nothing here acts."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rumor.config import Config, ServiceConfig
from rumor.errors import ConfigError
from rumor.haproxy import launch
from rumor.model import Seconds
from rumor.names import MemberName
from rumor.places import places
from rumor.supervise.base import Program

BALANCER = "balancer"
AGENT, HAPROXY, APP = "agent", "haproxy", "app"
# Higher stops first: the agent drains and leaves, while HAProxy and the app go on.
_PRIORITY = {AGENT: 900, HAPROXY: 700, APP: 500}
_LEAVE_SECONDS = 5.0
_ROLES = "RUMOR_ROLE", "ROLE"


@dataclass(frozen=True, slots=True)
class Node:
    """The node that one container is."""

    name: MemberName
    parts: tuple[str, ...]
    file: Path | None
    """rumor.toml, None where everything comes from the environment."""
    data: Path
    settings: tuple[str, ...] = ()
    """KEY=VALUE for the agent, over the file."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the plan needs to know of the container."""

    python: str
    haproxy: Path | None
    find_program: Callable[[str], str | None]
    """Returns the path of a program, None if there is none."""


def parts_of(given: Sequence[str], environ: Mapping[str, str], services: Sequence[str]) -> tuple[str, ...]:
    """Return what this node plays: what was said, else RUMOR_ROLE, else ROLE; names with commas.

    Raises:
        ConfigError: nothing is said, or the configuration has no such service.
    """
    named = next((environ[variable] for variable in _ROLES if environ.get(variable)), "")
    parts = tuple(given) or tuple(part.strip() for part in named.split(",") if part.strip())
    known = [BALANCER, *services]
    if not parts:
        raise ConfigError(f"what does this node play? say RUMOR_ROLE={'|'.join(known)}")
    for part in parts:
        if part not in known:
            raise ConfigError(f"there is no part {part!r} in this configuration (known: {', '.join(known)})")
    return parts


def make_programs(config: Config, node: Node, tools: Tools) -> tuple[Program, ...]:
    """Return the agent, the apps with a command, and HAProxy, as far as this node plays them.

    Raises:
        ConfigError: an app's command cannot be run, or has no port to listen on.
    """
    services = [config.service(part) for part in node.parts if part != BALANCER]
    programs = [_agent(node, services, tools)]
    programs += [_app(service, node, tools) for service in services if service.command]
    if BALANCER in node.parts:
        programs.append(_haproxy(node, tools))
    return tuple(programs)


def _agent(node: Node, services: Sequence[ServiceConfig], tools: Tools) -> Program:
    drain = max((service.drain for service in services), default=Seconds(0.0))
    command = [tools.python, "-m", "rumor", "agent", *node.parts, "--data", str(node.data), "--node", node.name]
    if node.file is not None:
        command += ["--file", str(node.file)]
    for setting in node.settings:
        command += ["--set", setting]
    return _program(AGENT, node, command, stop_wait=Seconds(drain + _LEAVE_SECONDS))


def _app(service: ServiceConfig, node: Node, tools: Tools) -> Program:
    key = f"service.{service.name}.command"
    try:
        words = shlex.split(service.command)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    if not service.port:
        raise ConfigError(f"service.{service.name}.port is missing: where does the app listen?")
    host = "0.0.0.0"  # noqa: S104 - balancers reach it over the container's network
    filled = [word.replace("{host}", host).replace("{port}", str(service.port)) for word in words]
    found = tools.find_program(filled[0]) if filled else None
    if found is None:
        raise ConfigError(f"{key}: there is no program {filled[0] if filled else ''!r} in this image")
    environment = {
        "HOST": host,
        "PORT": str(service.port),
        "TAG": node.name,
        "PYTHONUNBUFFERED": "1",
        **service.environment,
    }
    return _program(f"{service.name}-{APP}", node, [found, *filled[1:]], environment=environment, kind=APP)


def _haproxy(node: Node, tools: Tools) -> Program:
    place = places(node.data, node.name)
    command = [
        tools.python, "-I", "-S", launch.__file__,
        str(tools.haproxy), "-W", "-S", f"{place.master_socket},mode,600", "-f", str(place.haproxy_config),
    ]  # fmt: skip
    return _program(HAPROXY, node, command, stop_wait=Seconds(5.0))


def _program(
    name: str,
    node: Node,
    command: Sequence[str],
    *,
    kind: str = "",
    environment: Mapping[str, str] | None = None,
    stop_wait: Seconds = Seconds(10.0),
) -> Program:
    place = places(node.data, node.name)
    return Program(
        name=name,
        group=kind or name,
        command=tuple(command),
        directory=place.directory,
        log=place.logs / f"{name}.log",
        environment=environment or {},
        stop_wait=stop_wait,
        priority=_PRIORITY[kind or name],
    )
