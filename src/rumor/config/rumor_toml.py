"""rumor.toml + environment + flags -> one frozen `Config`.

A flag wins over the environment, the environment over the file, the file over the default. Every error names the key,
the file and the line, and says what would be right. Read by `cli`, `local` and `agent` alone: each part of rumor is
handed its own small settings and never meets the whole.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from rumor.config.environment import read_environment
from rumor.config.lines import key_lines
from rumor.config.programs import PROGRAM_KEYS, ProgramConfig, read_programs
from rumor.config.services import SERVICE_KEYS, ServiceConfig, read_services
from rumor.config.templates import EVERY_PART, TEMPLATE_KEYS, TemplateConfig, read_templates
from rumor.config.traffic import read_error_pages, read_raw
from rumor.config.values import Reader
from rumor.errors import ConfigError
from rumor.model import Seconds
from rumor.names import Endpoint
from rumor.render.settings import BalancerTimeouts, Raw
from rumor.swim.sealing import parse_key

GOSSIP_PORT = 7946
RPC_PORT = 7373
PEERS_PORT = 10_000
TIMEOUTS = tuple(entry.name for entry in fields(BalancerTimeouts))
TLS_VERSIONS = ("TLSv1.0", "TLSv1.1", "TLSv1.2", "TLSv1.3")
DISCOVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}", re.ASCII)
"""What fits into a label of DNS with Serf's mark before it."""
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_FILE_LIMIT = 1024 * 1024


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
class TlsConfig:
    """`[balancer] tls`: TLS for clients."""

    binds: tuple[Endpoint, ...]
    certificates: Path
    """A directory of certificates with their keys: `NAME.pem`, or `NAME.crt` beside `NAME.key`."""
    redirect: bool = False
    oldest: str = "TLSv1.2"


@dataclass(frozen=True, slots=True)
class BalancerConfig:
    """`[balancer]`."""

    binds: tuple[Endpoint, ...] = ()
    stats: Endpoint | None = None
    template: Path | None = None
    maxconn: int = 4000
    timeouts: BalancerTimeouts = field(default_factory=BalancerTimeouts)
    tls: TlsConfig | None = None
    accept_proxy: bool = False
    forwarded_for: bool = True
    request_id: bool = False
    error_pages: Mapping[int, Path] = field(default_factory=dict)
    peers: Endpoint | None = None
    """Where this balancer shares its stick tables with others."""
    raw: Raw = field(default_factory=Raw)


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
    templates: tuple[TemplateConfig, ...] = ()
    programs: tuple[ProgramConfig, ...] = ()
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
    said = read_environment(environ, raw, SECTION_KEYS, path)
    origins, texts = dict(said.origins), dict(said.texts)
    for key, value in said.values.items():
        _put(raw, key, value)
    for key, value in (overrides or {}).items():
        _put(raw, key, value)
        origins[key] = "a flag"
        texts.pop(key, None)
    reader = Reader(path, key_lines(text), origins, environ, texts)
    return _read_config(reader, raw, path, list(said.warnings))


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


def _put(raw: dict[str, object], path: tuple[str, ...], value: object) -> None:
    table: dict[str, object] = raw
    for part in path[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        table = inner
    table[path[-1]] = value


# --- the sections


SECTION_KEYS: dict[str, tuple[str, ...]] = {
    "cluster": ("name", "join", "discover", "key", "compression", "preset", "bind", "advertise"),
    "serf": (
        "rpc", "rpc_token", "handlers", "handler_timeout", "tags", "keyring_file", "replay", "rejoin_after_leave",
    ),
    "balancer": (
        "bind", "stats", "template", "maxconn", "timeouts", "tls", "accept_proxy", "forwarded_for", "request_id",
        "error_pages", "peers", "raw",
    ),
    "api": ("bind", "token"),
    "service": SERVICE_KEYS,
    "template": TEMPLATE_KEYS,
    "program": PROGRAM_KEYS,
}  # fmt: skip


def _read_config(reader: Reader, raw: Mapping[str, object], path: Path | None, warnings: list[str]) -> Config:
    reader.table(raw, (), ("cluster", "balancer", "api", "serf", "service", "template", "program"))
    services = read_services(reader, _named_tables(reader, raw, "service"), warnings)
    templates = read_templates(reader, _named_tables(reader, raw, "template"))
    programs = read_programs(reader, _named_tables(reader, raw, "program"))
    known = {"balancer", EVERY_PART, *(service.name for service in services)}
    for kind, sections in (("template", templates), ("program", programs)):
        for section in sections:
            for part in section.parts:
                if part not in known:
                    reader.fail(
                        (kind, section.name, "parts"),
                        f"there is no part {part!r}; there are {', '.join(sorted(known))}",
                    )
    return Config(
        cluster=_read_cluster(reader, raw.get("cluster", {})),
        balancer=_read_balancer(reader, raw.get("balancer", {})),
        api=_read_api(reader, raw.get("api", {})),
        serf=_read_serf(reader, raw.get("serf", {}), path),
        services=services,
        templates=templates,
        programs=programs,
        source=path,
        warnings=tuple(warnings),
    )


def _named_tables(reader: Reader, raw: Mapping[str, object], section: str) -> Mapping[str, object]:
    tables = raw.get(section, {})
    if not isinstance(tables, dict):
        reader.fail((section,), f"wants one table for each {section}: [{section}.NAME]")
    return tables


def _read_cluster(reader: Reader, raw: object) -> ClusterConfig:
    table, default = reader.table(raw, ("cluster",), SECTION_KEYS["cluster"]), ClusterConfig()
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


def _read_key(reader: Reader, table: Mapping[str, object], key: tuple[str, ...]) -> bytes | None:
    text = reader.secret(table, key)
    try:
        return parse_key(text) if text else None
    except ConfigError as error:
        reader.fail(key, str(error))


def _read_serf(reader: Reader, raw: object, path: Path | None) -> SerfConfig:
    table, default = reader.table(raw, ("serf",), SECTION_KEYS["serf"]), SerfConfig()
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
        tags=reader.texts(table.get("tags", {}), ("serf", "tags")),
        keyring_file=(path.parent if path else Path()) / keyring_file if keyring_file else None,
        replay=reader.flag(table, ("serf", "replay")),
        rejoin_after_leave=reader.flag(table, ("serf", "rejoin_after_leave")),
    )


def _read_balancer(reader: Reader, raw: object) -> BalancerConfig:
    table, default = reader.table(raw, ("balancer",), SECTION_KEYS["balancer"]), BalancerConfig()
    stats, peers = table.get("stats"), table.get("peers")
    timeouts = reader.table(table.get("timeouts", {}), ("balancer", "timeouts"), TIMEOUTS)
    parts = ("global", "defaults", "frontend", "sections")
    return BalancerConfig(
        binds=reader.endpoints(table.get("bind", []), ("balancer", "bind")),
        stats=None if stats is None else reader.endpoint(stats, ("balancer", "stats")),
        template=reader.file(table, ("balancer", "template")),
        maxconn=reader.number(table, ("balancer", "maxconn"), default.maxconn, 1, 10_000_000),
        timeouts=BalancerTimeouts(
            **{name: reader.length(timeouts, ("balancer", "timeouts", name)) for name in timeouts}
        ),
        tls=_read_tls(reader, table["tls"], ("balancer", "tls")) if "tls" in table else None,
        accept_proxy=reader.flag(table, ("balancer", "accept_proxy")),
        forwarded_for=reader.flag(table, ("balancer", "forwarded_for"), default.forwarded_for),
        request_id=reader.flag(table, ("balancer", "request_id")),
        error_pages=read_error_pages(reader, table.get("error_pages", {}), ("balancer", "error_pages")),
        peers=None if peers is None else reader.endpoint(peers, ("balancer", "peers"), PEERS_PORT),
        raw=read_raw(reader, table.get("raw", {}), ("balancer", "raw"), parts),
    )


def _read_tls(reader: Reader, raw: object, key: tuple[str, ...]) -> TlsConfig:
    table = reader.table(raw, key, ("bind", "certificates", "redirect", "oldest"))
    certificates = reader.file(table, (*key, "certificates"))
    if certificates is None or "bind" not in table:
        reader.fail(key, 'wants { bind = ":443", certificates = "certificates/" }')
    oldest = reader.text(table, (*key, "oldest"), "TLSv1.2")
    if oldest not in TLS_VERSIONS:
        reader.fail((*key, "oldest"), f"wants one of {', '.join(TLS_VERSIONS)}, and this is {oldest!r}")
    binds = reader.endpoints(table["bind"], (*key, "bind"))
    if not binds:
        reader.fail((*key, "bind"), 'wants an address such as ":443"')
    return TlsConfig(binds, certificates, reader.flag(table, (*key, "redirect")), oldest)


def _read_api(reader: Reader, raw: object) -> ApiConfig:
    table = reader.table(raw, ("api",), SECTION_KEYS["api"])
    bind = table.get("bind")
    token = reader.secret(table, ("api", "token"))
    if bind is not None and not token:
        reader.fail(("api", "bind"), 'the API over TCP needs a token: set api.token, for example to "env:RUMOR_TOKEN"')
    return ApiConfig(None if bind is None else reader.endpoint(bind, ("api", "bind")), token)
