"""A configuration by its services: who is to blame for a refusal, and old parts with today's servers.

Works on texts, so with any template. A service's parts are its backend and, in mode tcp, its frontend
`rumor_tcp_NAME`; everything else belongs to all.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rumor.errors import PeerError, Refused
from rumor.haproxy.binds import places_of
from rumor.haproxy.config_text import SECTION, ServerLine, read_config, read_server
from rumor.model import Rotation, Server, Table
from rumor.names import ServiceName, parse_service_name

_TCP_FRONTEND = "rumor_tcp_"
_LINE = re.compile(r"haproxy\.cfg:(\d+)\]")
_NAMED = re.compile(r"(?:[Pp]roxy|[Bb]ackend|[Ff]rontend|[Ss]erver) '([^'/\s]+)|for frontend ([^:\s]+):")
_BIND = re.compile(r"cannot bind (\S+):")
_SUMS_UP = re.compile(r"Fatal errors found|Error\(s\) found|Some protocols failed to start")
"""Ends a list of findings, and is none."""


@dataclass(frozen=True, slots=True)
class _Section:
    kind: str
    name: str
    lines: tuple[str, ...]
    first_line: int

    @property
    def service(self) -> ServiceName | None:
        """Whose part it is; None where it belongs to all."""
        name = self.name.removeprefix(_TCP_FRONTEND) if self.kind == "frontend" else self.name
        if self.kind not in ("backend", "frontend") or (self.kind == "frontend" and name == self.name):
            return None
        try:
            return None if name.startswith("rumor") else parse_service_name(name)
        except PeerError:
            return None


def blamed(words: str, text: str) -> dict[ServiceName, str]:
    """Return the services in whose parts lies all that HAProxy speaks against, each with the first words about it.

    Empty if some of it lies elsewhere or cannot be placed: then the whole text is refused.

    Args:
        words: of `haproxy -c` or a refused reload, one finding on a line, or of a test-bind.
        text: what they were said of.
    """
    sections = _sections(text)
    found: dict[ServiceName, str] = {}
    for line in words.splitlines():
        if not line.startswith(("[ALERT]", "cannot bind")) or _SUMS_UP.search(line):
            continue
        service = _whose(line, sections)
        if service is None:
            return {}
        found.setdefault(service, line.removeprefix("[ALERT] ").strip())
    return found


def _whose(words: str, sections: Sequence[_Section]) -> ServiceName | None:
    if number := _LINE.search(words):
        before = [section for section in sections if section.first_line <= int(number[1])]
        return before[-1].service if before else None
    if bind := _BIND.match(words):
        for section in sections:
            if any(bind[1] in map(str, places_of(line)) for line in section.lines):
                return section.service
    if named := _NAMED.search(words):
        return next((section.service for section in sections if section.name == (named[1] or named[2])), None)
    return None


def without_lines(words: str) -> str:
    """Return HAProxy's words without the numbers of lines, which are others in a text with other servers."""
    return _LINE.sub("haproxy.cfg]", words)


def with_old_parts(text: str, good_text: str, services: Collection[ServiceName], table: Table) -> str:
    """Return `text` with the parts of some services as they stand in `good_text`, and today's servers in them.

    A service that `good_text` does not know is left without a server: it answers 503.
    """
    good = {(section.kind, section.name): section for section in _sections(good_text) if section.service in services}
    lines: list[str] = []
    for section in _sections(text):
        if section.service not in services:
            lines += section.lines
            continue
        old = good.get((section.kind, section.name))
        if old is not None:
            lines += _with_servers(old, table, section)
        elif section.kind == "backend":
            lines += [f"backend {section.name}", ""]
    return "\n".join(lines) + "\n"


def differs_in_servers_only(old: str, new: str) -> bool:
    """Say whether the Runtime API alone leads from one configuration to the other.

    That is: nothing but which servers there are, where, and how heavy.
    """
    try:
        before, after = read_config(old), read_config(new)
    except Refused:
        return False
    known = {(line.service, line.keywords) for line in before.servers.values()}
    return before.base == after.base and all((line.service, line.keywords) in known for line in after.servers.values())


def with_servers(text: str, table: Table, *, like: str = "") -> str:
    """Return a configuration with the servers of a table in its backends; their keywords stay as they were.

    A service that has no server in `text` takes the keywords that it has in `like`, another configuration.
    """
    others = {(section.kind, section.name): section for section in _sections(like)}
    lines: list[str] = []
    for section in _sections(text):
        other = others.get((section.kind, section.name), section)
        lines += section.lines if section.service is None else _with_servers(section, table, other)
    return "\n".join(lines) + "\n"


def served(text: str) -> set[ServiceName]:
    """Return the services that have a server in a configuration."""
    return {section.service for section in _sections(text) if section.service and _servers(section, section.service)}


def _with_servers(section: _Section, table: Table, other: _Section) -> list[str]:
    """Return a section's lines with today's servers; the keywords of one that it never had are another's there.

    Args:
        section: whose lines these are.
        table: today's servers.
        other: the same part in another configuration, for keywords where `section` has no server at all.
    """
    service = section.service
    if section.kind != "backend" or service is None:
        return list(section.lines)
    known = _servers(section, service)
    keywords = {line.name: line.keywords for line in (known or _servers(other, service)).values()}
    usual = next(iter(keywords.values()), "")
    entry = table.service(service)
    servers = [_line(server, keywords.get(server.name, usual)) for server in (() if entry is None else entry.servers)]
    kept = [line for number, line in enumerate(section.lines) if number not in known]
    at = min(known) if known else len(section.lines) - _trailing(section.lines)
    return [*kept[:at], *servers, *kept[at:]]


def _servers(section: _Section, service: ServiceName) -> Mapping[int, ServerLine]:
    """Return the steered server lines of a section, by their place in it."""
    found = {}
    for number, line in enumerate(section.lines):
        if line.split()[:1] == ["server"] and (server := read_server(line, service)) is not None:
            found[number] = server
    return found


def _line(server: Server, keywords: str) -> str:
    weight = 0 if server.rotation is Rotation.DRAIN else server.weight
    words = [word for word in keywords.split() if word != "backup"]
    disabled = ["disabled"] if server.rotation is Rotation.MAINT else []
    backup = ["backup"] if server.is_backup else []
    return " ".join(["    server", server.name, str(server.address), "weight", str(weight), *disabled, *words, *backup])


def _trailing(lines: Sequence[str]) -> int:
    """Return how many lines at the end say nothing."""
    count = 0
    for line in reversed(lines):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        count += 1
    return count


def _sections(text: str) -> list[_Section]:
    sections: list[_Section] = []
    kind, name, lines, first = "", "", list[str](), 1
    for number, line in enumerate(text.splitlines(), start=1):
        heading = SECTION.fullmatch(line)
        if heading is not None:
            sections.append(_Section(kind, name, tuple(lines), first))
            kind, name, lines, first = heading[1], heading[2] or "", [], number
        lines.append(line)
    sections.append(_Section(kind, name, tuple(lines), first))
    return sections
