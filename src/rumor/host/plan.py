"""One node's configuration -> the programs of its container or host. Nothing here acts."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rumor.config import Config, ProcessConfig, ProgramConfig, ServiceConfig
from rumor.config.templates import EVERY_PART
from rumor.errors import ConfigError
from rumor.haproxy import launch
from rumor.model import Seconds
from rumor.names import MemberName
from rumor.places import Places, places
from rumor.supervise.base import AGENTS, APPS, HAPROXY, PROGRAMS, Program

BALANCER = "balancer"
AGENT = "agent"
# Higher stops first: the agent drains and leaves, while HAProxy and the app go on.
_AGENT_STOPS, _HAPROXY_STOPS, _APP_STOPS = 900, 700, 500
_LEAVE_SECONDS = 7.0
_ROLES = "RUMOR_ROLE", "ROLE"
_ANY_SERVICE = "backend"
"""What a web node was called where there was one service only."""
_SECRET_KEYS = frozenset({"cluster.key", "api.token", "serf.rpc_token"})
SECRETS = ("RUMOR_KEY", "RUMOR_CLUSTER_KEY", "RUMOR_API_TOKEN", "RUMOR_SERF_RPC_TOKEN", "RUMOR_TOKEN")
"""Variables that are the agent's business alone."""


@dataclass(frozen=True, slots=True)
class Node:
    """The node that one container or host is."""

    name: MemberName
    parts: tuple[str, ...]
    file: Path | None
    """rumor.toml, None where everything comes from the environment."""
    data: Path
    settings: tuple[str, ...] = ()
    """KEY=VALUE for the agent, over the file."""
    app_directory: Path | None = None
    """Where apps run whose section does not say; None for the node's own directory."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the plan needs to know of the container or host."""

    python: str
    haproxy: Path | None
    find_program: Callable[[str], str | None]
    """Returns the path of a program, None if there is none."""
    own_user: str
    """Whose programs these are where nothing else is said."""
    is_root: bool
    """Whether programs can be given to other users."""


@dataclass(frozen=True, slots=True)
class Run:
    """What rumor itself says of a user's program: its name, its order, where its things are."""

    name: str
    group: str
    node: str
    directory: Path
    """Where it runs if its section does not say."""
    log: Path
    exits: Path
    priority: int
    autostart: bool = True


def parts_of(given: Sequence[str], environ: Mapping[str, str], services: Sequence[ServiceConfig]) -> tuple[str, ...]:
    """Return what this node plays: what was said, else RUMOR_ROLE, else ROLE; names with commas.

    A part is `balancer`, a service's name, the role by which a service finds its members, or `backend` for the one
    service that there is.

    Raises:
        ConfigError: nothing is said, or the configuration has no such part.
    """
    named = next((environ[variable] for variable in _ROLES if environ.get(variable)), "")
    parts = tuple(given) or tuple(part.strip() for part in named.split(",") if part.strip())
    known = {BALANCER: BALANCER}
    if len(services) == 1:
        known[_ANY_SERVICE] = services[0].name
    known |= {service.role: service.name for service in services if service.role}
    known |= {service.name: service.name for service in services}
    names = ", ".join([BALANCER, *(service.name for service in services)])
    if not parts:
        raise ConfigError(f"what does this node play? say RUMOR_ROLE=PART, one or more of {names}")
    for part in parts:
        if part not in known:
            raise ConfigError(f"there is no part {part!r} in this configuration (known: {names})")
    return tuple(dict.fromkeys(known[part] for part in parts))


def make_programs(config: Config, node: Node, tools: Tools) -> tuple[Program, ...]:
    """Return the agent, the apps with a command, HAProxy, and other programs, as far as this node plays them.

    Raises:
        ConfigError: a command cannot be run, an app has no port to listen on, a user is out of reach.
    """
    services = [config.service(part) for part in node.parts if part != BALANCER]
    programs = [_agent(node, services, tools)]
    where = f"{config.source}: " if config.source else ""
    programs += [_app(where, service, node, tools) for service in services if service.command]
    if BALANCER in node.parts:
        programs.append(_haproxy(node, tools))
    programs += [
        _other(where, program, node, tools)
        for program in config.programs
        if EVERY_PART in program.parts or set(program.parts) & set(node.parts)
    ]
    names = [program.name for program in programs]
    for program in config.programs:
        if names.count(program.name) > 1:
            raise ConfigError(f"program.{program.name}: the app of a service is called so: choose another name")
    return tuple(programs)


def _agent(node: Node, services: Sequence[ServiceConfig], tools: Tools) -> Program:
    place = places(node.data, node.name)
    drain = max((service.drain for service in services), default=Seconds(0.0))
    command = [tools.python, "-P", "-m", "rumor", "agent", *node.parts, "--data", str(node.data), "--node", node.name]
    if node.file is not None:
        command += ["--file", str(node.file)]
    # A command line can be read by everybody on the machine.
    secret, plain = part_secrets(node.settings)
    for setting in plain:
        command += ["--set", setting]
    return Program(
        name=AGENT,
        group=AGENTS,
        node=node.name,
        command=tuple(command),
        directory=place.directory,
        log=place.logs / f"{AGENT}.log",
        exits=place.exits,
        environment=secret,
        stop_wait=Seconds(drain + _LEAVE_SECONDS),
        notifies=True,
        priority=_AGENT_STOPS,
    )


def part_secrets(settings: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return which KEY=VALUE settings are secrets, as variables of the environment, and which are not."""
    secret: dict[str, str] = {}
    plain: list[str] = []
    for setting in settings:
        key, _, value = setting.partition("=")
        if key.strip() in _SECRET_KEYS:
            secret[f"RUMOR_{key.strip().upper().replace('.', '_')}"] = value.strip('"')
        else:
            plain.append(setting)
    return secret, plain


def _app(where: str, service: ServiceConfig, node: Node, tools: Tools) -> Program:
    if not service.port:
        raise ConfigError(f"{where}service.{service.name}.port is missing: where does the app listen?")
    host = "0.0.0.0"  # noqa: S104 - balancers reach it over the container's network
    run = _run(node, f"{service.name}-app", APPS)
    fill, environment = app_words(host, service.port, node.name)
    return user_program(
        f"{where}service.{service.name}", service.process, run, tools, fill=fill, environment=environment
    )


def _other(where: str, program: ProgramConfig, node: Node, tools: Tools) -> Program:
    run = replace(_run(node, program.name, PROGRAMS), priority=_APP_STOPS - program.order)
    return user_program(f"{where}program.{program.name}", program.process, run, tools, environment={"TAG": node.name})


def _run(node: Node, name: str, group: str) -> Run:
    place = places(node.data, node.name)
    directory = node.app_directory or place.directory
    return Run(name, group, node.name, directory, place.logs / f"{name}.log", place.exits, _APP_STOPS)


def app_words(host: str, port: int, tag: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return what stands in an app's command for words in braces, and the variables it finds."""
    environment = {"HOST": host, "PORT": str(port), "TAG": tag}
    return {"{host}": host, "{port}": str(port)}, environment


def user_program(
    section: str,
    process: ProcessConfig,
    run: Run,
    tools: Tools,
    *,
    environment: Mapping[str, str],
    fill: Mapping[str, str] | None = None,
) -> Program:
    """Return a program whose command is the user's.

    Args:
        section: where rumor.toml says it, `FILE: service.web`.
        process: what it says.
        run: what rumor says of it.
        tools: the container or host.
        environment: what it finds besides what rumor.toml says.
        fill: what stands for words in braces.

    Raises:
        ConfigError: its command cannot be run, or its user is out of reach.
    """
    key = f"{section}.command"
    try:
        words = shlex.split(process.command)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    if not words:
        raise ConfigError(f"{key}: is empty")
    for sign, value in (fill or {}).items():
        words = [word.replace(sign, value) for word in words]
    found = tools.find_program(words[0])
    if found is None and words[0] in ("python", "python3"):
        found = tools.python
    if found is None:
        raise ConfigError(f"{key}: there is no program {words[0]!r} on this machine")
    if process.user and process.user != tools.own_user and not tools.is_root:
        raise ConfigError(
            f"{section}.user: only root can run it as {process.user}; all of this runs as {tools.own_user}"
        )
    return Program(
        name=run.name,
        group=run.group,
        node=run.node,
        command=(found, *words[1:]),
        directory=process.directory or run.directory,
        log=run.log,
        exits=run.exits,
        environment={"PYTHONUNBUFFERED": "1", **environment, **process.environment},
        forgets=SECRETS,
        user="" if process.user == tools.own_user else process.user,
        stop_signal=process.stop_signal,
        stop_wait=process.stop_wait,
        longest_pause=process.longest_pause,
        priority=run.priority,
        autostart=run.autostart,
    )


def _haproxy(node: Node, tools: Tools) -> Program:
    place = places(node.data, node.name)
    # A balancer without HAProxy serves nobody: no pause of ours.
    return haproxy_program(place, node.name, tools, place.directory, _HAPROXY_STOPS, longest_pause=Seconds(0.0))


def haproxy_program(
    place: Places, node: str, tools: Tools, directory: Path, priority: int, *, longest_pause: Seconds
) -> Program:
    """Return the HAProxy of a balancer, started through the lock on its file."""
    command = (
        tools.python, "-I", "-S", launch.__file__,
        str(tools.haproxy), "-W", "-S", f"{place.master_socket},mode,600", "-f", str(place.haproxy_config),
    )  # fmt: skip
    return Program(
        name=HAPROXY,
        group=HAPROXY,
        node=node,
        command=command,
        directory=directory,
        log=place.logs / f"{HAPROXY}.log",
        exits=place.exits,
        # Softly: what runs may finish, as far as the time goes.
        stop_signal="USR1",
        stop_wait=Seconds(5.0),
        longest_pause=longest_pause,
        priority=priority,
    )
