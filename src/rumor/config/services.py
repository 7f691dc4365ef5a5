"""The `[service.NAME]` sections of rumor.toml."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rumor.config.programs import PROCESS_KEYS, ProcessConfig, read_process
from rumor.config.traffic import (
    TARGET,
    read_check_headers,
    read_check_status,
    read_error_pages,
    read_networks,
    read_rate_limit,
    read_raw,
    read_routes,
    read_server_tls,
    read_timeouts,
)
from rumor.config.values import Reader
from rumor.errors import PeerError
from rumor.model import Seconds
from rumor.names import Endpoint, ServiceName, parse_service_name
from rumor.render.settings import RateLimit, Raw, Route, ServerTls, Timeouts

BALANCES = ("roundrobin", "leastconn", "first", "random", "source", "uri")
"""What HAProxy accepts together with servers that come and go; source and uri use a consistent hash."""
SERVICE_KEYS = (
    *PROCESS_KEYS, "port", "replicas", "check", "drain", "balance", "sticky", "route", "retries", "repeat_post",
    "floor", "weight", "version", "members", "scale", "backup", "split", "mode", "bind", "timeouts",
    "max_connections", "slow_start", "tls", "send_proxy", "rate_limit", "allow", "deny", "error_pages", "raw",
)  # fmt: skip
_CHECK_KEYS = ("http", "tcp", "interval", "timeout", "rise", "fall", "status", "headers")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Check:
    """How an app is checked; an empty path means that a TCP connection is enough."""

    http_path: str = ""
    interval: Seconds = Seconds(1.0)
    timeout: Seconds = Seconds(0.5)
    rise: int = 2
    fall: int = 2
    status: str = ""
    """Which answers are good: `200` or `200-299`; empty for 200 to 399."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """One `[service.NAME]`."""

    name: ServiceName
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
    process: ProcessConfig = field(default_factory=ProcessConfig)
    """How its app runs; without a command others run it."""
    is_backup: bool = False
    split: Mapping[str, int] = field(default_factory=dict)
    """Which share of the requests each version gets; empty to go by the weights alone."""
    mode: str = "http"
    binds: tuple[Endpoint, ...] = ()
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_connections: int = 0
    slow_start: Seconds | None = None
    tls: ServerTls | None = None
    send_proxy: str = ""
    rate_limit: RateLimit | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    error_pages: Mapping[int, Path] = field(default_factory=dict)
    raw: Raw = field(default_factory=Raw)

    @property
    def command(self) -> str:
        return self.process.command


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
    replicas = reader.number(table, (*key, "replicas"), default.replicas, 0, 1000)
    floor = reader.number(table, (*key, "floor"), default.floor, 0, 1000)
    config = replace(
        default,
        port=reader.number(table, (*key, "port"), default.port, 0, 65535),
        replicas=replicas,
        check=_read_check(reader, table.get("check", {}), (*key, "check")),
        drain=reader.duration(table, (*key, "drain"), default.drain),
        balance=balance,
        sticky=reader.flag(table, (*key, "sticky")),
        routes=read_routes(reader, table.get("route", {}), (*key, "route")),
        retries=reader.number(table, (*key, "retries"), default.retries, 0, 100),
        repeat_post=reader.flag(table, (*key, "repeat_post")),
        floor=floor,
        weight=reader.number(table, (*key, "weight"), default.weight, 0, 256),
        version=reader.matching(table, (*key, "version"), _VERSION, "", "up to 32 letters, digits, _ . + -"),
        role=reader.text(members, (*key, "members", "role")),
        process=read_process(reader, table, key),
        is_backup=reader.flag(table, (*key, "backup")),
        split=_read_split(reader, table.get("split", {}), (*key, "split")),
        mode=reader.text(table, (*key, "mode"), default.mode),
        binds=reader.endpoints(table.get("bind", []), (*key, "bind")),
        timeouts=read_timeouts(reader, table.get("timeouts", {}), (*key, "timeouts")),
        max_connections=reader.number(table, (*key, "max_connections"), 0, 0, 1_000_000),
        slow_start=reader.length(table, (*key, "slow_start")) if "slow_start" in table else None,
        tls=read_server_tls(reader, table.get("tls", False), (*key, "tls")),
        send_proxy=reader.text(table, (*key, "send_proxy")),
        rate_limit=read_rate_limit(reader, table["rate_limit"], (*key, "rate_limit"))
        if "rate_limit" in table
        else None,
        allow=read_networks(reader, table.get("allow", []), (*key, "allow")),
        deny=read_networks(reader, table.get("deny", []), (*key, "deny")),
        error_pages=read_error_pages(reader, table.get("error_pages", {}), (*key, "error_pages")),
        raw=read_raw(reader, table.get("raw", {}), (*key, "raw"), ("backend", "frontend", "server")),
    )
    if config.role and not config.port:
        reader.fail((*key, "members"), "members found by their role need the service's port")
    if config.send_proxy not in ("", "v1", "v2"):
        reader.fail((*key, "send_proxy"), f"wants v1 or v2, and this is {config.send_proxy!r}")
    _refuse_wrong_mode(reader, config, table)
    return config


def _refuse_wrong_mode(reader: Reader, config: ServiceConfig, table: Mapping[str, object]) -> None:
    """Refuse what HAProxy would read and not do, or would not read."""
    key: tuple[str, ...] = ("service", config.name)
    match config.mode:
        case "http":
            if "bind" in table:
                reader.fail((*key, "bind"), "is for mode tcp; http services share balancer.bind and have a route")
            if config.raw.frontend:
                reader.fail((*key, "raw"), "an http service has no frontend of its own: use balancer.raw.frontend")
        case "tcp":
            if not config.binds:
                reader.fail((*key, "mode"), f'tcp needs an address of its own: service.{config.name}.bind = ":5432"')
            for name in ("route", "sticky", "repeat_post", "error_pages"):
                if table.get(name):
                    reader.fail((*key, name), "means nothing in mode tcp")
            if config.balance == "uri":
                reader.fail((*key, "balance"), "uri means nothing in mode tcp: source, perhaps?")
        case _:
            reader.fail((*key, "mode"), f"wants http or tcp, and this is {config.mode!r}")


def _read_split(reader: Reader, raw: object, key: tuple[str, ...]) -> Mapping[str, int]:
    table = reader.table(raw, key, raw if isinstance(raw, dict) else ())
    for version in table:
        if not _VERSION.fullmatch(version):
            reader.fail((*key, version), "is no version: use up to 32 letters, digits, _ . + -")
    split = {version: reader.number(table, (*key, version), 0, 0, 1_000_000) for version in table}
    if split and not any(split.values()):
        reader.fail(key, "leaves nothing to anybody")
    return split


def _read_check(reader: Reader, raw: object, key: tuple[str, ...]) -> Check:
    table, default = reader.table(raw, key, _CHECK_KEYS), Check()
    is_tcp = reader.flag(table, (*key, "tcp"))
    path = reader.matching(table, (*key, "http"), TARGET, "", "a path such as /health")
    if is_tcp and path:
        reader.fail((*key, "tcp"), "a check is http or tcp, not both")
    for name in ("status", "headers"):
        if name in table and not path:
            reader.fail((*key, name), 'needs a path to ask for: http = "/health"')
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
        read_check_status(reader, table, (*key, "status")),
        read_check_headers(reader, table.get("headers", {}), (*key, "headers")),
    )


def _refuse_shared_routes(reader: Reader, services: Iterable[ServiceConfig]) -> None:
    owners: dict[tuple[str, str], ServiceName] = {}
    for service in (service for service in services if service.mode == "http"):
        for route in service.routes:
            owner = owners.setdefault((route.host, route.path), service.name)
            if owner != service.name:
                reader.fail(
                    ("service", service.name, "route"),
                    f"{route} is service {owner}'s already: give one of the two another host or path",
                )
