"""The `[service.NAME]` sections of rumor.toml."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from rumor.config.values import Reader
from rumor.errors import PeerError
from rumor.model import Seconds
from rumor.names import ServiceName, parse_service_name

BALANCES = ("roundrobin", "leastconn", "first", "random", "source", "uri")
"""What HAProxy accepts together with servers that come and go; source and uri use a consistent hash."""
SERVICE_KEYS = (
    "command", "port", "replicas", "check", "drain", "balance", "sticky", "route", "retries", "repeat_post",
    "floor", "weight", "version", "members", "environment", "scale",
)  # fmt: skip
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_PATH = re.compile(r"/[A-Za-z0-9_./~%@!*()+,=-]{0,255}", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,31}", re.ASCII)


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


def read_services(reader: Reader, raw: Mapping[str, object], warnings: list[str]) -> tuple[ServiceConfig, ...]:
    """Read all services in order of their names; what is read and not acted on yet is told in `warnings`.

    Raises:
        ConfigError: names what is wrong, where, and what would be right.
    """
    services = tuple(_read_service(reader, name, table, warnings) for name, table in sorted(raw.items()))
    _refuse_shared_routes(reader, services)
    return services


def _read_service(reader: Reader, name: str, raw: object, warnings: list[str]) -> ServiceConfig:
    key: tuple[str, ...] = ("service", name)
    try:
        service = parse_service_name(name)
    except PeerError as error:
        reader.fail(key, str(error))
    if service.startswith("rumor"):
        reader.fail(key, "names that begin with rumor are rumor's own in haproxy.cfg")
    table = reader.table(raw, key, SERVICE_KEYS)
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
        environment=reader.texts(table.get("environment", {}), (*key, "environment")),
    )
    if config.role and not config.port:
        reader.fail((*key, "members"), "members found by their role need the service's port")
    return config


def _read_check(reader: Reader, raw: object, key: tuple[str, ...]) -> Check:
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


def _read_routes(reader: Reader, raw: object, key: tuple[str, ...]) -> tuple[Route, ...]:
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


def _refuse_shared_routes(reader: Reader, services: Iterable[ServiceConfig]) -> None:
    owners: dict[Route, ServiceName] = {}
    for service in services:
        for route in service.routes:
            owner = owners.setdefault(route, service.name)
            if owner != service.name:
                reader.fail(
                    ("service", service.name, "route"),
                    f"{route} is service {owner}'s already: give one of the two another host or path",
                )
