"""Read a rendered configuration as far as the differ must: its server lines, and all the rest.

Two texts whose rest is equal differ in servers only, and those the Runtime API can change. The form of a server line
is the template's side of the bargain: `server NAME ADDR:PORT weight W [disabled] KEYWORDS…`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

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

_SECTION = re.compile(
    r"(global|defaults|frontend|backend|listen|resolvers|peers|userlist|cache|ring|program)\b\s*(\S*)"
)
_SERVER = re.compile(r"\s+server\s+(\S+)\s+(\S+)\s+weight\s+(\S+)((?:\s+disabled)?)\s*(.*)")


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


def read_config(text: str) -> ConfigText:
    """Take a rendered configuration apart.

    Raises:
        Refused: a server line is not of the agreed form, or a server stands twice in one backend.
    """
    base: list[str] = []
    servers: dict[ServerKey, ServerLine] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        heading = _SECTION.match(line)
        if heading is not None:
            section = heading[2] if heading[1] in ("backend", "listen") else ""
        if section and line.lstrip().startswith("server "):
            server = _read_server(line, section, number)
            if server.key in servers:
                raise Refused(f"haproxy.cfg line {number}: server {server.name} stands twice in backend {section}")
            servers[server.key] = server
        elif f"set-var {REVISION_VARIABLE} " not in line:
            base.append(line)
    return ConfigText("\n".join(base), servers)


def _read_server(line: str, section: str, number: int) -> ServerLine:
    match = _SERVER.fullmatch(line)
    if match is None:
        raise Refused(
            f"haproxy.cfg line {number}: rumor steers servers by lines of the form "
            f"`server NAME ADDR:PORT weight W [disabled] KEYWORDS`, and this is none: {line.strip()[:120]!a}"
        )
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
    except PeerError as error:
        raise Refused(f"haproxy.cfg line {number}: {error}") from error


def carried_revision(text: str) -> str:
    """Return the id that a configuration's own line carries, empty if it has none."""
    match = re.search(rf"^\s*set-var {re.escape(REVISION_VARIABLE)} str\(([0-9a-f]{{64}})\)", text, re.MULTILINE)
    return match[1] if match else ""
