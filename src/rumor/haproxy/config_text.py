"""Read a configuration as far as the differ must, and as HAProxy does: its server lines, and all the rest.

Two texts whose rest is equal differ in servers only, and those the Runtime API can change; comments, blank lines and
spacing are nothing to HAProxy, and so no difference. A server line is steered if its address is one (no name, no
socket) and its words can stand on HAProxy's command line as they are; any other belongs to the rest: left alone while
HAProxy runs, changed by a reload. Facts: reference/haproxy.md, section 9.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

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
# A word ends at a blank that no quote and no backslash protects; an unprotected # ends the statement.
_WORD = re.compile(r"""(?:[^\s'"\\#]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")+""")
_HAS_MEANING = re.compile(r"['\"\\#]")
# Quotes, escapes, variables and `;` mean other things on HAProxy's command line than in its file.
_NOT_AT_RUN_TIME = re.compile(r"[;'\"\\$]")
_DEFAULT_WEIGHT = 1


@dataclass(frozen=True, slots=True)
class ServerLine:
    """One server as a revision wants it."""

    service: ServiceName
    name: MemberName
    address: HostPort
    weight: int
    rotation: Rotation
    keywords: str
    """All other words, `check` and all; sent again word by word when the server is added at run time."""
    says_weight: bool = True
    """Whether the line has a weight; where it has none every server weighs what HAProxy gives it."""

    @property
    def key(self) -> ServerKey:
        return self.service, self.name


@dataclass(frozen=True, slots=True)
class ConfigText:
    """A configuration taken apart."""

    base: str
    """Everything but server lines and the line that carries the revision's id, one statement a line."""
    servers: Mapping[ServerKey, ServerLine]
    default_keywords: Mapping[ServiceName, str] = field(default_factory=dict)
    """What `default-server` says for each backend: lines in the file inherit it, servers added at run time do not."""
    fixed: frozenset[tuple[str, str]] = frozenset()
    """Backend and name of the servers that are not steered; the name is `*` where a `server-template` makes them."""
    least_loaded: frozenset[str] = frozenset()
    """The backends that say `balance leastconn`."""
    frontends: Mapping[str, int | None] = field(default_factory=dict)
    """The sections that are to listen, but those that are `disabled`, with the connections each may have.

    None where only HAProxy knows how many.
    """

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
    least_loaded: set[str] = set()
    frontends: dict[str, int | None] = {}
    section = listening = kind = ""
    inherited = ""
    limits: dict[str, int | None] = {}
    """Of connections, by `global` and `defaults`, whichever stood last."""
    for number, line in enumerate(text.splitlines(), start=1):
        server = read_server(line, section) if section else None
        if server is not None:
            if server.key in servers:
                raise Refused(f"haproxy.cfg line {number}: server {server.name} stands twice in backend {section}")
            servers[server.key] = server
            continue
        words = words_of(line)
        heading = SECTION.fullmatch(line) if words and words[0] != "server" else None
        if heading is not None:
            section = heading[2] or "" if heading[1] in ("backend", "listen") else ""
            listening = heading[2] or "" if heading[1] in ("frontend", "listen") else ""
            kind = heading[1]
            if listening:
                # From which of several defaults, if it says so, is not looked into.
                unsaid = limits.get("defaults", limits.get("global"))
                frontends[listening] = None if "from" in words else unsaid
            if kind == "defaults":
                inherited = ""
                limits.pop(kind, None)
            defaults[section] = inherited
        if words and words[:2] != ["set-var", REVISION_VARIABLE]:
            base.append(" ".join(words))
        if words[:1] == ["disabled"]:
            frontends.pop(listening, None)
        if words[:1] == ["maxconn"]:
            limit = int(words[1]) if len(words) == 2 and words[1].isascii() and words[1].isdigit() else None
            if listening in frontends:
                frontends[listening] = limit
            else:
                limits[kind] = limit
        match words, section:
            case ["default-server", *more], "":
                inherited = " ".join((inherited, *more)).strip()
            case ["default-server", *more], _:
                defaults[section] = " ".join((defaults[section], *more)).strip()
            case ["balance", "leastconn", *_], str(backend) if backend:
                least_loaded.add(backend)
            case ["server", name, *_], str(backend) if backend:
                fixed.add((backend, name))
            case ["server-template", *_], str(backend) if backend:
                fixed.add((backend, "*"))
            case _:
                pass
    given = {service: defaults[service] for service, _ in servers if defaults[service]}
    return ConfigText("\n".join(base), servers, given, frozenset(fixed), frozenset(least_loaded), frontends)


def words_of(line: str) -> list[str]:
    """Return a statement's words as they are written, quotes and all; none for a blank line or a comment."""
    if _HAS_MEANING.search(line) is None:
        return line.split()
    words: list[str] = []
    at = 0
    while True:
        while at < len(line) and line[at].isspace():
            at += 1
        match = _WORD.match(line, at)
        if match is None:
            # The end, a comment, or a quote that is never closed: then nothing is known of the rest but its text.
            rest = line[at:]
            return words if not rest or rest.startswith("#") else [*words, rest]
        words.append(match[0])
        at = match.end()


@lru_cache(maxsize=16_384)
def read_server(line: str, section: str) -> ServerLine | None:
    """Parse a server line that can be steered; None for any other.

    Of thousands of servers in a configuration nearly all stand there as they stood in the one before.
    """
    words = words_of(line)
    if len(words) < 3 or words[0] != "server" or _NOT_AT_RUN_TIME.search(" ".join(words)):
        return None
    weight, is_disabled, keywords = "", False, list[str]()
    rest = iter(words[3:])
    for word in rest:
        if word == "weight":
            weight = next(rest, "")
        elif word == "disabled":
            is_disabled = True
        else:
            keywords.append(word)
    try:
        number = parse_weight(weight) if "weight" in words[3:] else _DEFAULT_WEIGHT
        rotation = Rotation.MAINT if is_disabled else Rotation.READY if number else Rotation.DRAIN
        return ServerLine(
            parse_service_name(section),
            parse_member_name(words[1]),
            parse_host_port(words[2]),
            number,
            rotation,
            " ".join(keywords),
            "weight" in words[3:],
        )
    except PeerError:
        return None


def carried_revision(text: str) -> str:
    """Return the id that a configuration's own line carries, empty if it has none."""
    match = re.search(rf"^\s*set-var {re.escape(REVISION_VARIABLE)} str\(([0-9a-f]{{64}})\)", text, re.MULTILINE)
    return match[1] if match else ""
