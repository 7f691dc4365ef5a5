"""Read a rendered configuration as far as the differ must: its server lines, and all the rest.

Two texts whose rest is equal differ in servers only, and those the Runtime API can change. The form of a server line
is the template's side of the bargain: `server NAME ADDR:PORT weight W [disabled] KEYWORDS…`. A server line of any
other form belongs to the rest: left alone while HAProxy runs, changed by a reload.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rumor.errors import PeerError, Refused
from rumor.model import Rotation
from rumor.names import (
    HostPort,
    MemberName,
    ServiceName,
    parse_host_port,
    parse_member_name,
    parse_service_name,
    parse_weight,
)

ServerKey = tuple[ServiceName, MemberName]
REVISION_VARIABLE = "proc.rumor_revision"

SECTION = re.compile(
    r"\s*(global|defaults|frontend|backend|listen|resolvers|peers|userlist|cache|ring|program|mailers|http-errors"
    r"|fcgi-app|log-forward)(?:\s+(\S+).*)?"
)
# Quotes, escapes, comments and `;` mean other things on HAProxy's command line than in its file.
_SERVER = re.compile(r"\s*server\s+(\S+)\s+(\S+)\s+weight\s+(\d+)((?:\s+disabled)?)((?:\s+[^\s;#'\"\\$]+)*)\s*")


@dataclass(frozen=True, slots=True)
class ServerLine:
    """One server as a revision wants it."""

    service: ServiceName
    name: MemberName
    address: HostPort
    weight: int
    rotation: Rotation
    keywords: str
    """What follows the weight, `check` and all; sent again word by word when the server is added at run time."""

    @property
    def key(self) -> ServerKey:
        return self.service, self.name


@dataclass(frozen=True, slots=True)
class ConfigText:
    """A configuration taken apart."""

    base: str
    """Everything but server lines and the line that carries the revision's id."""
    servers: Mapping[ServerKey, ServerLine]
    default_keywords: Mapping[ServiceName, str] = field(default_factory=dict)
    """What `default-server` says for each backend: lines in the file inherit it, servers added at run time do not."""
    fixed: frozenset[tuple[str, str]] = frozenset()
    """Backend and name of the servers that are not steered; the name is `*` where a `server-template` makes them."""

    def is_fixed(self, key: ServerKey) -> bool:
        return key in self.fixed or (key[0], "*") in self.fixed


def read_config(text: str) -> ConfigText:
    """Take a rendered configuration apart.

    Raises:
        Refused: a server stands twice in one backend.
    """
    base: list[str] = []
    servers: dict[ServerKey, ServerLine] = {}
    fixed: set[tuple[str, str]] = set()
    defaults: dict[str, str] = {}
    section = ""
    inherited = ""
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        heading = SECTION.fullmatch(line)
        if heading is not None:
            section = heading[2] or "" if heading[1] in ("backend", "listen") else ""
            inherited = "" if heading[1] == "defaults" else inherited
            defaults[section] = inherited
        server = read_server(line, section) if section and words[:1] == ["server"] else None
        if server is not None:
            if server.key in servers:
                raise Refused(f"haproxy.cfg line {number}: server {server.name} stands twice in backend {section}")
            servers[server.key] = server
            continue
        if f"set-var {REVISION_VARIABLE} " not in line:
            base.append(line)
        match words, section:
            case ["default-server", *more], "":
                inherited = " ".join((inherited, *more)).strip()
            case ["default-server", *more], _:
                defaults[section] = " ".join((defaults[section], *more)).strip()
            case ["server", name, *_], str(backend) if backend:
                fixed.add((backend, name))
            case ["server-template", *_], str(backend) if backend:
                fixed.add((backend, "*"))
            case _:
                pass
    given = {service: defaults[service] for service, _ in servers if defaults[service]}
    return ConfigText("\n".join(base), servers, given, frozenset(fixed))


def read_server(line: str, section: str) -> ServerLine | None:
    """Parse a server line of the agreed form; None for any other."""
    match = _SERVER.fullmatch(line)
    if match is None:
        return None
    name, address, weight, disabled, keywords = match.groups()
    try:
        number_weight = parse_weight(weight)
        rotation = Rotation.MAINT if disabled else Rotation.READY if number_weight else Rotation.DRAIN
        return ServerLine(
            parse_service_name(section),
            parse_member_name(name),
            parse_host_port(address),
            number_weight,
            rotation,
            " ".join(keywords.split()),
        )
    except PeerError:
        return None


def carried_revision(text: str) -> str:
    """Return the id that a configuration's own line carries, empty if it has none."""
    match = re.search(rf"^\s*set-var {re.escape(REVISION_VARIABLE)} str\(([0-9a-f]{{64}})\)", text, re.MULTILINE)
    return match[1] if match else ""
