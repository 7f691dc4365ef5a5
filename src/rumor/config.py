"""rumor.toml + environment + flags -> one frozen `Config`.

A flag wins over the environment, the environment over the file, the file over the default. Every error names the key,
the file and the line, and says what would be right. Read by `cli`, `local` and `agent` alone: each part of rumor is
handed its own small settings and never meets the whole.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from rumor.config_lines import key_lines, line_of
from rumor.errors import ConfigError, PeerError
from rumor.model import Seconds
from rumor.names import Endpoint, ServiceName, parse_endpoint, parse_service_name
from rumor.swim.sealing import parse_key

GOSSIP_PORT = 7946
RPC_PORT = 7373
BALANCES = ("roundrobin", "leastconn", "first", "random", "source", "uri")
"""What HAProxy accepts together with servers that come and go; source and uri use a consistent hash."""
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h|d)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_PATH = re.compile(r"/[A-Za-z0-9_./~%@!*()+,=-]{0,255}", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,31}", re.ASCII)
DISCOVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}", re.ASCII)
"""What fits into a label of DNS with Serf's mark before it."""
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_FILE_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Check:
    """How an app is checked; an empty path means that a TCP connection is enough."""

    http_path: str = ""
    interval: Seconds = Seconds(1.0)
    timeout: Seconds = Seconds(0.5)
    rise: int = 2
    fall: int = 2


@dataclass(frozen=True, slots=True)
class Route:
    host: str = "*"
    path: str = "/"

    def __str__(self) -> str:
        return f"{self.host}{self.path}"


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """One `[service.NAME]`."""

    name: ServiceName
    command: str = ""
    port: int = 0
    replicas: int = 1
    check: Check = Check()
    drain: Seconds = Seconds(10.0)
    balance: str = "leastconn"
    sticky: bool = False
    routes: tuple[Route, ...] = (Route(),)
    retries: int = 3
    repeat_post: bool = False
    floor: int = 0
    weight: int = 100
    version: str = ""
    role: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """`[cluster]`."""

    name: str = "rumor"
    join: tuple[Endpoint, ...] = ()
    preset: str = ""
    """`lan`, `wan` or `local`; empty where the file leaves it to the command."""
    bind: Endpoint = Endpoint("0.0.0.0", GOSSIP_PORT)  # noqa: S104 - agents of other hosts must reach it
    advertise: Endpoint | None = None
    key: bytes | None = field(default=None, repr=False)
    """Seals the gossip: 16, 24 or 32 raw bytes."""
    compression: bool = False
    discover: str = ""
    """The name under which nodes of one network find one another by multicast DNS; empty for not at all."""


@dataclass(frozen=True, slots=True)
class SerfConfig:
    """`[serf]`: what an agent does for Serf's clients and scripts. The second half comes by Serf's own flags alone."""

    rpc: Endpoint | None = None
    rpc_token: str = field(default="", repr=False)
    handlers: tuple[str, ...] = ()
    handler_timeout: Seconds = Seconds(60.0)
    tags: Mapping[str, str] = field(default_factory=dict)
    keyring_file: Path | None = None
    replay: bool = False
    rejoin_after_leave: bool = False

    snapshot: Path | None = None
    tags_file: Path | None = None
    start_join: tuple[str, ...] = ()
    """Addresses of which one must answer, or the agent does not start."""
    retry_max: int = 0
    """After how many tries in vain the agent gives up; 0 for never."""
    retry_interval: Seconds = Seconds(1.0)
    protocol: int = 5
    event_limit: int = 512
    has_coordinates: bool = True
    votes_on_name: bool = True
    leave_on_terminate: bool = True
    skip_leave_on_interrupt: bool = False
    leave_timeout: Seconds | None = None
    """How long to wait until a leave has been told; None for the preset's."""


@dataclass(frozen=True, slots=True)
class BalancerConfig:
    """`[balancer]`."""

    binds: tuple[Endpoint, ...] = ()
    stats: Endpoint | None = None
    template: Path | None = None
    maxconn: int = 4000
    server_timeout: Seconds = Seconds(30.0)


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """`[api]`: the API over TCP, off without `bind`."""

    bind: Endpoint | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole of one rumor.toml, with what environment and flags changed."""

    cluster: ClusterConfig = ClusterConfig()
    balancer: BalancerConfig = BalancerConfig()
    api: ApiConfig = ApiConfig()
    serf: SerfConfig = SerfConfig()
    services: tuple[ServiceConfig, ...] = ()
    source: Path | None = None
    warnings: tuple[str, ...] = ()

    def service(self, name: str) -> ServiceConfig:
        """Return one service.

        Raises:
            ConfigError: there is no such service.
        """
        for service in self.services:
            if service.name == name:
                return service
        known = ", ".join(service.name for service in self.services) or "none"
        raise ConfigError(f"there is no [service.{name}] in {self.source or 'the configuration'} (known: {known})")


def load(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[tuple[str, ...], object] | None = None
) -> Config:
    """Read the file (none if `path` is None), then the environment, then the flags.

    Args:
        path: rumor.toml.
        environ: `RUMOR_SECTION_KEY` variables are used, `RUMOR_SERVICE_WEB_PORT` among them; values as in TOML or bare.
        overrides: values by path, such as ("cluster", "preset"); these come from flags.

    Raises:
        ConfigError: names what is wrong, where, and what would be right.
    """
    text = "" if path is None else _read(path)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: this is not TOML: {error}") from error
    origins: dict[tuple[str, ...], str] = {}
    _apply_environment(raw, environ, origins)
    for key, value in (overrides or {}).items():
        _put(raw, key, value)
        origins[key] = "a flag"
    reader = _Reader(path, key_lines(text), origins, environ)
    return _read_config(reader, raw, path)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_LIMIT + 1)
        if len(data) > _FILE_LIMIT:
            raise ConfigError(f"{path}: larger than {_FILE_LIMIT} bytes")
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error


def parse_duration(text: str | float) -> Seconds:
    """Parse `500ms`, `1.5s`, `2m`; a bare number counts as seconds.

    Raises:
        ValueError: neither.
    """
    if isinstance(text, bool):
        raise ValueError("a length of time such as 500ms, 1s or 2m")
    if isinstance(text, int | float):
        if not 0 <= text <= 31_536_000:
            raise ValueError("a length of time from 0s to 365d")
        return Seconds(float(text))
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("a length of time such as 500ms, 1s or 2m")
    return parse_duration(float(match[1]) * _UNITS[match[2]])


# --- the environment


_SECTIONS = ("cluster", "balancer", "api", "serf")


def _apply_environment(raw: dict[str, object], environ: Mapping[str, str], origins: dict[tuple[str, ...], str]) -> None:
    services = raw.get("service")
    names = list(services) if isinstance(services, dict) else []
    for variable in sorted(environ):
        key = _variable_path(variable, names)
        if key is not None:
            _put(raw, key, _environment_value(environ[variable]))
            origins[key] = f"the environment variable {variable}"


def _variable_path(variable: str, services: Iterable[str]) -> tuple[str, ...] | None:
    words = variable.removeprefix("RUMOR_").lower()
    if not variable.startswith("RUMOR_"):
        return None
    for section in _SECTIONS:
        if words.startswith(f"{section}_") and words.removeprefix(f"{section}_") in _KEYS[section]:
            return section, words.removeprefix(f"{section}_")
    for service in services:
        prefix = f"service_{re.sub('[^a-z0-9]', '_', service.lower())}_"
        if words.startswith(prefix) and words.removeprefix(prefix) in _KEYS["service"]:
            return "service", service, words.removeprefix(prefix)
    return None


def _environment_value(text: str) -> object:
    """Read a value as TOML would, or else as bare text: RUMOR_CLUSTER_PRESET=lan needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(raw: dict[str, object], path: tuple[str, ...], value: object) -> None:
    table: dict[str, object] = raw
    for part in path[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        table = inner
    table[path[-1]] = value


# --- reading typed values, with errors that say where


@dataclass(frozen=True, slots=True)
class _Reader:
    path: Path | None
    lines: dict[tuple[str, ...], int]
    origins: Mapping[tuple[str, ...], str]
    environ: Mapping[str, str]

    def fail(self, key: tuple[str, ...], text: str) -> NoReturn:
        raise ConfigError(f"{self.where(key)}{'.'.join(key)}: {text}")

    def where(self, key: tuple[str, ...]) -> str:
        if key in self.origins:
            return f"{self.origins[key]}: "
        line = line_of(self.lines, key)
        if self.path is None:
            return ""
        return f"{self.path}, line {line}: " if line is not None else f"{self.path}: "

    def table(self, value: object, key: tuple[str, ...], known: Iterable[str]) -> Mapping[str, object]:
        """Return a table all of whose keys are known."""
        if not isinstance(value, dict):
            self.fail(key, f"wants a table, and this is {_name_of(value)}")
        allowed = list(known)
        for name in value:
            if name not in allowed:
                near = difflib.get_close_matches(name, allowed, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(allowed))}"
                self.fail((*key, name), f"unknown key{hint}")
        return value

    def text(self, table: Mapping[str, object], key: tuple[str, ...], default: str = "") -> str:
        value = table.get(key[-1], default)
        if not isinstance(value, str):
            self.fail(key, f"wants text, and this is {_name_of(value)}")
        if not value.isprintable():
            self.fail(key, "holds a control character")
        return value

    def secret(self, table: Mapping[str, object], key: tuple[str, ...]) -> str:
        text = self.text(table, key)
        if not text.startswith("env:"):
            return text
        variable = text.removeprefix("env:")
        if not self.environ.get(variable):
            self.fail(key, f"the environment variable {variable} is not set")
        return self.environ[variable]

    def flag(self, table: Mapping[str, object], key: tuple[str, ...], default: bool = False) -> bool:
        value = table.get(key[-1], default)
        if not isinstance(value, bool):
            self.fail(key, f"wants true or false, and this is {_name_of(value)}")
        return value

    def number(self, table: Mapping[str, object], key: tuple[str, ...], default: int, low: int, high: int) -> int:
        value = table.get(key[-1], default)
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(key, f"wants a whole number, and this is {_name_of(value)}")
        if not low <= value <= high:
            self.fail(key, f"wants a number from {low} to {high}, and this is {value}")
        return value

    def duration(self, table: Mapping[str, object], key: tuple[str, ...], default: Seconds) -> Seconds:
        value = table.get(key[-1], default)
        if not isinstance(value, str | int | float):
            self.fail(key, f"wants a length of time such as 500ms, and this is {_name_of(value)}")
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(key, f"wants {error}, and this is {value!r}")

    def endpoint(self, value: object, key: tuple[str, ...], default_port: int | None = None) -> Endpoint:
        if not isinstance(value, str):
            self.fail(key, f"wants an address such as 127.0.0.1:8080, and this is {_name_of(value)}")
        try:
            return parse_endpoint(value, default_port=default_port)
        except PeerError as error:
            self.fail(key, str(error))

    def endpoints(self, value: object, key: tuple[str, ...], default_port: int | None = None) -> tuple[Endpoint, ...]:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(self.endpoint(entry, key, default_port) for entry in values)

    def matching(
        self, table: Mapping[str, object], key: tuple[str, ...], pattern: re.Pattern[str], default: str, wants: str
    ) -> str:
        text = self.text(table, key, default)
        if text and not pattern.fullmatch(text):
            self.fail(key, f"wants {wants}, and this is {text!r}")
        return text


def _name_of(value: object) -> str:
    names: dict[type, str] = {
        bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a table",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


# --- the sections


_KEYS: dict[str, tuple[str, ...]] = {
    "cluster": ("name", "join", "discover", "key", "compression", "preset", "bind", "advertise"),
    "serf": (
        "rpc", "rpc_token", "handlers", "handler_timeout", "tags", "keyring_file", "replay", "rejoin_after_leave",
    ),
    "balancer": ("bind", "stats", "template", "maxconn", "server_timeout"),
    "api": ("bind", "token"),
    "service": (
        "command", "port", "replicas", "check", "drain", "balance", "sticky", "route", "retries", "repeat_post",
        "floor", "weight", "version", "members", "environment", "scale",
    ),
}  # fmt: skip


def _read_config(reader: _Reader, raw: Mapping[str, object], path: Path | None) -> Config:
    reader.table(raw, (), ("cluster", "balancer", "api", "serf", "service"))
    services_raw = raw.get("service", {})
    if not isinstance(services_raw, dict):
        reader.fail(("service",), "wants one table for each service: [service.NAME]")
    warnings: list[str] = []
    services = tuple(_read_service(reader, name, table, warnings) for name, table in sorted(services_raw.items()))
    _refuse_shared_routes(reader, services)
    return Config(
        cluster=_read_cluster(reader, raw.get("cluster", {})),
        balancer=_read_balancer(reader, raw.get("balancer", {}), path),
        api=_read_api(reader, raw.get("api", {})),
        serf=_read_serf(reader, raw.get("serf", {}), path),
        services=services,
        source=path,
        warnings=tuple(warnings),
    )


def _read_cluster(reader: _Reader, raw: object) -> ClusterConfig:
    table, default = reader.table(raw, ("cluster",), _KEYS["cluster"]), ClusterConfig()
    preset = reader.text(table, ("cluster", "preset"))
    if preset not in ("", "lan", "wan", "local"):
        reader.fail(("cluster", "preset"), f"wants lan, wan or local, and this is {preset!r}")
    join = reader.endpoints(table.get("join", []), ("cluster", "join"), GOSSIP_PORT)
    advertise = table.get("advertise")
    return ClusterConfig(
        name=reader.matching(table, ("cluster", "name"), _CLUSTER_NAME, default.name, "letters, digits, _ . -"),
        join=join,
        preset=preset,
        bind=reader.endpoint(table.get("bind", str(default.bind)), ("cluster", "bind"), GOSSIP_PORT),
        advertise=None if advertise is None else reader.endpoint(advertise, ("cluster", "advertise"), GOSSIP_PORT),
        key=_read_key(reader, table, ("cluster", "key")),
        compression=reader.flag(table, ("cluster", "compression")),
        discover=reader.matching(table, ("cluster", "discover"), DISCOVER_NAME, "", "letters, digits, _ -"),
    )


def _read_key(reader: _Reader, table: Mapping[str, object], key: tuple[str, ...]) -> bytes | None:
    text = reader.secret(table, key)
    try:
        return parse_key(text) if text else None
    except ConfigError as error:
        reader.fail(key, str(error))


def _read_serf(reader: _Reader, raw: object, path: Path | None) -> SerfConfig:
    table, default = reader.table(raw, ("serf",), _KEYS["serf"]), SerfConfig()
    rpc = table.get("rpc")
    handlers = table.get("handlers", [])
    if not isinstance(handlers, list) or not all(isinstance(one, str) for one in handlers):
        reader.fail(("serf", "handlers"), 'wants a list of texts such as "member-join=notify.sh"')
    keyring_file = reader.text(table, ("serf", "keyring_file"))
    return SerfConfig(
        rpc=None if rpc is None else reader.endpoint(rpc, ("serf", "rpc"), RPC_PORT),
        rpc_token=reader.secret(table, ("serf", "rpc_token")),
        handlers=tuple(handlers),
        handler_timeout=reader.duration(table, ("serf", "handler_timeout"), default.handler_timeout),
        tags=_read_environment(reader, table.get("tags", {}), ("serf", "tags")),
        keyring_file=(path.parent if path else Path()) / keyring_file if keyring_file else None,
        replay=reader.flag(table, ("serf", "replay")),
        rejoin_after_leave=reader.flag(table, ("serf", "rejoin_after_leave")),
    )


def _read_balancer(reader: _Reader, raw: object, path: Path | None) -> BalancerConfig:
    table, default = reader.table(raw, ("balancer",), _KEYS["balancer"]), BalancerConfig()
    template = reader.text(table, ("balancer", "template"))
    stats = table.get("stats")
    return BalancerConfig(
        binds=reader.endpoints(table.get("bind", []), ("balancer", "bind")),
        stats=None if stats is None else reader.endpoint(stats, ("balancer", "stats")),
        template=(path.parent if path else Path()) / template if template else None,
        maxconn=reader.number(table, ("balancer", "maxconn"), default.maxconn, 1, 10_000_000),
        server_timeout=reader.duration(table, ("balancer", "server_timeout"), default.server_timeout),
    )


def _read_api(reader: _Reader, raw: object) -> ApiConfig:
    table = reader.table(raw, ("api",), _KEYS["api"])
    bind = table.get("bind")
    token = reader.secret(table, ("api", "token"))
    if bind is not None and not token:
        reader.fail(("api", "bind"), 'the API over TCP needs a token: set api.token, for example to "env:RUMOR_TOKEN"')
    return ApiConfig(None if bind is None else reader.endpoint(bind, ("api", "bind")), token)


def _read_service(reader: _Reader, name: str, raw: object, warnings: list[str]) -> ServiceConfig:
    key: tuple[str, ...] = ("service", name)
    try:
        service = parse_service_name(name)
    except PeerError as error:
        reader.fail(key, str(error))
    if service.startswith("rumor"):
        reader.fail(key, "names that begin with rumor are rumor's own in haproxy.cfg")
    table = reader.table(raw, key, _KEYS["service"])
    default = ServiceConfig(service)
    balance = reader.text(table, (*key, "balance"), default.balance)
    if balance not in BALANCES:
        reader.fail((*key, "balance"), f"wants one of {', '.join(BALANCES)}, and this is {balance!r}")
    if "scale" in table:
        reader.table(table["scale"], (*key, "scale"), ("min", "max", "target", "cooldown"))
        warnings.append(f"{reader.where((*key, 'scale'))}{'.'.join((*key, 'scale'))}: read, but not acted on yet")
    members = reader.table(table.get("members", {}), (*key, "members"), ("role",))
    command = reader.text(table, (*key, "command"), default.command)
    replicas = reader.number(table, (*key, "replicas"), default.replicas, 0, 1000)
    floor = reader.number(table, (*key, "floor"), default.floor, 0, 1000)
    config = replace(
        default,
        command=command,
        port=reader.number(table, (*key, "port"), default.port, 0, 65535),
        replicas=replicas,
        check=_read_check(reader, table.get("check", {}), (*key, "check")),
        drain=reader.duration(table, (*key, "drain"), default.drain),
        balance=balance,
        sticky=reader.flag(table, (*key, "sticky")),
        routes=_read_routes(reader, table.get("route", {}), (*key, "route")),
        retries=reader.number(table, (*key, "retries"), default.retries, 0, 100),
        repeat_post=reader.flag(table, (*key, "repeat_post")),
        floor=floor,
        weight=reader.number(table, (*key, "weight"), default.weight, 0, 256),
        version=reader.matching(table, (*key, "version"), _VERSION, "", "up to 32 letters, digits, _ . + -"),
        role=reader.text(members, (*key, "members", "role")),
        environment=_read_environment(reader, table.get("environment", {}), (*key, "environment")),
    )
    if config.role and not config.port:
        reader.fail((*key, "members"), "members found by their role need the service's port")
    return config


def _read_check(reader: _Reader, raw: object, key: tuple[str, ...]) -> Check:
    table, default = reader.table(raw, key, ("http", "tcp", "interval", "timeout", "rise", "fall")), Check()
    is_tcp = reader.flag(table, (*key, "tcp"))
    path = reader.matching(table, (*key, "http"), _PATH, "", "a path such as /health")
    if is_tcp and path:
        reader.fail((*key, "tcp"), "a check is http or tcp, not both")
    interval = reader.duration(table, (*key, "interval"), default.interval)
    timeout = reader.duration(table, (*key, "timeout"), default.timeout)
    for name, value in (("interval", interval), ("timeout", timeout)):
        if value < 0.01:
            reader.fail((*key, name), "wants at least 10ms")
    return Check(
        path,
        interval,
        timeout,
        reader.number(table, (*key, "rise"), default.rise, 1, 100),
        reader.number(table, (*key, "fall"), default.fall, 1, 100),
    )


def _read_routes(reader: _Reader, raw: object, key: tuple[str, ...]) -> tuple[Route, ...]:
    entries = raw if isinstance(raw, list) else [raw]
    routes = []
    for entry in entries:
        table = reader.table(entry, key, ("host", "path"))
        host = reader.text(table, (*key, "host"), "*")
        if host != "*" and not _HOST.fullmatch(host):
            reader.fail((*key, "host"), f"wants * or a host name, and this is {host!r}")
        path = reader.matching(table, (*key, "path"), _PATH, "/", "a path such as /api")
        routes.append(Route(host.lower(), path.rstrip("/") or "/"))
    return tuple(routes)


def _read_environment(reader: _Reader, raw: object, key: tuple[str, ...]) -> Mapping[str, str]:
    if not isinstance(raw, dict):
        reader.fail(key, "wants a table of names and texts")
    return {name: reader.text(raw, (*key, name)) for name in raw}


def _refuse_shared_routes(reader: _Reader, services: Iterable[ServiceConfig]) -> None:
    owners: dict[Route, ServiceName] = {}
    for service in services:
        for route in service.routes:
            owner = owners.setdefault(route, service.name)
            if owner != service.name:
                reader.fail(
                    ("service", service.name, "route"),
                    f"{route} is service {owner}'s already: give one of the two another host or path",
                )
