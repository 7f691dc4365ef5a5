"""What rumor.toml says of how requests reach servers: routes, TLS, limits, pages, and lines of the operator's own.

Its values are those the renderer takes; nothing is translated twice.
"""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path

from rumor.config.values import Reader
from rumor.model import Seconds
from rumor.render.settings import RateLimit, Raw, Route, ServerTls, Timeouts

PAGE_STATUSES = (400, 401, 403, 404, 405, 407, 408, 410, 413, 425, 429, 500, 501, 502, 503, 504)
"""Those for which HAProxy has an answer of its own."""
PATH = re.compile(r"/[A-Za-z0-9_./~%@!*()+,=-]{0,255}", re.ASCII)
TARGET = re.compile(r"/[A-Za-z0-9_./~%@!*()+,=?&-]{0,255}", re.ASCII)
"""A path with a query or without."""
_REWRITE = re.compile(r"/[A-Za-z0-9_./~@!()+,=-]{0,255}", re.ASCII)
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_STATUS = re.compile(r"[1-5][0-9]{2}(-[1-5][0-9]{2})?", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&*+.^_`|~-]{1,100}", re.ASCII)
SECTIONS = frozenset(
    {
        "global", "defaults", "frontend", "backend", "listen", "peers", "userlist", "resolvers", "cache", "ring",
        "mailers", "http-errors", "program", "fcgi-app", "log-forward",
        # Of HAProxy 3.0 and later.
        "crt-store", "log-profile", "traces", "acme",
    }
)  # fmt: skip
"""The words that begin a section of haproxy.cfg."""
_QUOTING = str.maketrans("", "", "'\"\\")
_NETWORKS_LIMIT = 1000


def read_routes(reader: Reader, raw: object, key: tuple[str, ...]) -> tuple[Route, ...]:
    entries = raw if isinstance(raw, list) else [raw]
    routes = []
    for entry in entries:
        table = reader.table(entry, key, ("host", "path", "rewrite", "priority"))
        host = reader.text(table, (*key, "host"), "*")
        if host != "*" and not _HOST.fullmatch(host):
            reader.fail((*key, "host"), f"wants *, a host name or *.NAME, and this is {host!r}")
        path = reader.matching(table, (*key, "path"), PATH, "/", "a path such as /api")
        rewrite = reader.matching(table, (*key, "rewrite"), _REWRITE, "", "a path such as / or /v2")
        priority = reader.number(table, (*key, "priority"), 0, -1000, 1000)
        routes.append(Route(host.lower(), path.rstrip("/") or "/", rewrite, priority))
    return tuple(routes)


def read_timeouts(reader: Reader, raw: object, key: tuple[str, ...]) -> Timeouts:
    table = reader.table(raw, key, ("connect", "server", "queue", "tunnel"))
    given = {name: reader.length(table, (*key, name)) for name in table}
    return Timeouts(given.get("connect"), given.get("server"), given.get("queue"), given.get("tunnel"))


def read_server_tls(reader: Reader, raw: object, key: tuple[str, ...]) -> ServerTls | None:
    """Read `false`, `true` (any certificate will do), or a table with `ca` and `name`."""
    if isinstance(raw, bool):
        return ServerTls() if raw else None
    table = reader.table(raw, key, ("ca", "name"))
    ca_file = reader.file(table, (*key, "ca"))
    return ServerTls(ca_file, reader.matching(table, (*key, "name"), _NAME, "", "a host name"))


def read_rate_limit(reader: Reader, raw: object, key: tuple[str, ...]) -> RateLimit:
    table = reader.table(raw, key, ("requests", "per"))
    if "requests" not in table:
        reader.fail(key, 'wants { requests = 100, per = "10s" }')
    requests = reader.number(table, (*key, "requests"), 0, 1, 1_000_000_000)
    per = reader.length(table, (*key, "per"), Seconds(1.0))
    if per > 86_400:
        reader.fail((*key, "per"), "wants at most 1d")
    return RateLimit(requests, per)


def read_networks(reader: Reader, raw: object, key: tuple[str, ...]) -> tuple[str, ...]:
    """Read addresses and networks; each comes back in the one form that `ipaddress` prints."""
    values = raw if isinstance(raw, list) else [raw]
    if len(values) > _NETWORKS_LIMIT:
        reader.fail(key, f"holds more than {_NETWORKS_LIMIT} networks")
    networks = []
    for value in values:
        try:
            if not isinstance(value, str):
                raise ValueError(value)
            networks.append(str(ipaddress.ip_network(value)))
        except ValueError:
            reader.fail(key, f"wants addresses and networks such as 10.0.0.0/8, and this is {value!r}")
    return tuple(networks)


def read_error_pages(reader: Reader, raw: object, key: tuple[str, ...]) -> Mapping[int, Path]:
    pages = {}
    for status, file in reader.texts(raw, key).items():
        if not status.isdecimal() or int(status) not in PAGE_STATUSES:
            known = ", ".join(map(str, PAGE_STATUSES))
            reader.fail((*key, status), f"wants a status that HAProxy answers by itself: {known}")
        pages[int(status)] = reader.beside(file)
    return pages


def read_check_status(reader: Reader, table: Mapping[str, object], key: tuple[str, ...]) -> str:
    value = table.get(key[-1], "")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or (value and not _STATUS.fullmatch(value)):
        reader.fail(key, f'wants a status such as 200, or "200-299", and this is {value!r}')
    return value


def read_check_headers(reader: Reader, raw: object, key: tuple[str, ...]) -> Mapping[str, str]:
    headers = reader.texts(raw, key)
    for name in headers:
        if not _HEADER.fullmatch(name):
            reader.fail((*key, name), "is no name of a header")
    return headers


def _first_word(line: str) -> str:
    """Return the word that HAProxy reads first: quotes and backslashes are no part of it."""
    return next(iter(line.translate(_QUOTING).split()), "")


def read_raw(reader: Reader, raw: object, key: tuple[str, ...], known: tuple[str, ...]) -> Raw:
    """Read an operator's own lines for haproxy.cfg; the parts in `known` are taken."""
    table = reader.table(raw, key, known)
    lines = {name: reader.text_lines(table, (*key, name)) for name in table if name != "server"}
    for name, given in lines.items():
        if name != "sections" and any(_first_word(line) in SECTIONS for line in given):
            reader.fail((*key, name), "begins a section: put whole sections into balancer.raw.sections")
    return Raw(
        backend=lines.get("backend", ()),
        frontend=lines.get("frontend", ()),
        server=reader.text(table, (*key, "server")),
        global_=lines.get("global", ()),
        defaults=lines.get("defaults", ()),
        sections=lines.get("sections", ()),
    )
