"""Table -> revision: one whole configuration, always the same text for the same table.

Jinja2 in its sandbox, with undefined names as errors. What came from the network is a strict type by now; what the
operator wrote passes through the filters `word` and `path`, which refuse whatever could end a word or a statement.
Facts: reference/haproxy.md, sections 7 and 9.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from rumor.errors import Refused
from rumor.model import Cause, Revision, Server, Service, Table
from rumor.names import Endpoint, ServiceName
from rumor.render.sandbox import Filters, render_text
from rumor.render.settings import BackendSettings, RenderSettings, Route, ServerTls
from rumor.render.words import duration, is_word, word

REVISION_VARIABLE = "proc.rumor_revision"
_REVISION_MARK = "0" * 64
_CARRIED = re.compile(rf"(set-var {re.escape(REVISION_VARIABLE)} str\()[0-9a-f]{{64}}(\))")
# Inside '…' only the quote itself ends a word. But addresses expand `$` even there, and split at commas.
_QUOTABLE = re.compile(r"[^\x00-\x1f\x7f'$,\\]+")
# One word in '…', where only the quote would end it; `%` begins a format in some places, and `$` is kept out with it.
_HEADER_VALUE = re.compile(r"[^\x00-\x1f\x7f-\uffff'\"\\$%#]{1,200}")
# Some 64 words fit on a line, and lines without limits are no lines.
_RAW_LINE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]{1,4000}")
_CONTENT_TYPES = {".html": "text/html", ".json": "application/json", ".txt": "text/plain", ".xml": "application/xml"}
_NO_ROUTE = "rumor_no_route"


@dataclass(frozen=True, slots=True)
class _RouteView:
    name: str
    service: ServiceName
    host: str
    path: str
    rewrite: str
    is_default: bool
    """It takes whatever no other route has taken."""

    @property
    def pattern(self) -> str:
        """The path and what follows it, as a regular expression."""
        if self.path == "/":
            return "^(/.*)"
        # Nothing must not become of a path: `/api` rewritten to `/` is `/`.
        return f"^{re.escape(self.path)}{'/?(.*)' if self._rewrite == '' else '(/.*)?$'}"

    @property
    def replacement(self) -> str:
        return f"{self._rewrite}{'/' if not self._rewrite and self.path != '/' else ''}\\1"

    @property
    def _rewrite(self) -> str:
        return self.rewrite.rstrip("/")

    @property
    def conditions(self) -> list[str]:
        host = [f"{self.name}_host"] if self.host != "*" else []
        return host + ([f"{self.name}_path"] if self.path != "/" else [])


@dataclass(frozen=True)
class _BackendView:
    settings: BackendSettings
    servers: tuple[Server, ...]

    @property
    def timeouts(self) -> list[tuple[str, float]]:
        """Those that are not the balancer's own."""
        own = self.settings.timeouts
        named = (("connect", own.connect), ("server", own.server), ("queue", own.queue), ("tunnel", own.tunnel))
        return [(name, value) for name, value in named if value is not None]

    @property
    def check_headers(self) -> list[tuple[str, str]]:
        given = self.settings.check.headers
        named = any(name.lower() == "host" for name in given)
        return [*([] if named else [("Host", str(self.settings.service))]), *sorted(given.items())]

    @cached_property
    def server_keywords(self) -> str:
        """The keywords of every server line. HAProxy applies no default-server to servers added at run time."""
        check = self.settings.check
        fast = min(0.2, check.interval)
        # layer4 on purpose: by layer7 a single URL that always fails would take its servers out.
        words = [
            f"check inter {duration(check.interval)} fastinter {duration(fast)} "
            f"downinter {duration(min(0.5, check.interval))} fall {check.fall} rise {check.rise} "
            "observe layer4 error-limit 1 on-error mark-down"
        ]
        if self.settings.max_connections:
            words.append(f"maxconn {self.settings.max_connections}")
        if self.settings.slow_start is not None:
            words.append(f"slowstart {duration(self.settings.slow_start)}")
        if self.settings.tls is not None:
            words.append(_tls_words(self.settings.tls))
        if self.settings.send_proxy:
            words.append(f"send-proxy{'-v2' if self.settings.send_proxy == 'v2' else ''} check-send-proxy")
        if self.settings.raw.server:
            words.append(_raw_words(self.settings.raw.server))
        return " ".join(words)


def _tls_words(tls: ServerTls) -> str:
    verify = "verify none" if tls.ca_file is None else f"verify required ca-file {word(tls.ca_file)}"
    name = word(tls.name) if tls.name else ""
    if not name:
        return f"ssl {verify}"
    wanted = f" verifyhost {name}" if tls.ca_file is not None else ""
    return f"ssl {verify}{wanted} sni str({name}) check-sni {name}"


def render(table: Table, settings: RenderSettings, cause: Cause) -> Revision:
    """Return the revision that serves this table.

    Raises:
        Refused: the template is broken, or a value in it could change the configuration's meaning.
    """
    services: Mapping[ServiceName, Service] = {service.name: service for service in table.services}
    values = {
        "table": table,
        "settings": settings,
        "revision": _REVISION_MARK,
        "longest_drain": max((backend.drain for backend in settings.backends), default=0.0),
    }
    try:
        values |= {"routes": _routes(settings), "backends": _backends(settings, services)}
    except ValueError as error:
        raise Refused(f"template {settings.template_name}: {error}") from error
    text = render_text(settings.template_name, settings.template_text, _FILTERS, values)
    _marked(text, settings)
    return identified(text, table, cause)


def _marked(text: str, settings: RenderSettings) -> None:
    """Make sure that the text has a place for its id.

    Raises:
        Refused: it has none, or several.
    """
    marked = [line for line in text.splitlines() if _REVISION_MARK in line]
    if len(marked) != 1 or REVISION_VARIABLE not in marked[0]:
        raise Refused(
            f"template {settings.template_name}: its global section needs the line "
            f"`set-var {REVISION_VARIABLE} str({{{{ revision }}}})`, once, or rumor cannot tell what runs"
        )


def identified(text: str, table: Table, cause: Cause) -> Revision:
    """Return a configuration as a revision, with its own id in the line that carries one."""
    revision = revision_id(text)
    return Revision(revision, _CARRIED.sub(rf"\g<1>{revision}\g<2>", text, count=1), table, cause)


def revision_id(text: str) -> str:
    """Return a configuration's id: the SHA-256 of its text without the line that carries the id."""
    kept = (line for line in text.splitlines(keepends=True) if f"set-var {REVISION_VARIABLE} " not in line)
    return hashlib.sha256("".join(kept).encode()).hexdigest()


def _routes(settings: RenderSettings) -> list[_RouteView]:
    """Return the routes of all http services in order of precedence.

    By priority first; then a named host goes before a wildcard, that before any host, and a longer path before a
    shorter.
    """
    routes = [
        (backend.service, route) for backend in settings.backends if backend.mode == "http" for route in backend.routes
    ]
    for service, route in routes:
        if not route.path.startswith("/") or route.host.startswith("-"):
            raise ValueError(f"the route {route.host}{route.path} of service {service} is not HOST and /PATH")
    routes.sort(key=lambda entry: _precedence(entry[1]))
    return [
        _RouteView(
            f"route_{number}",
            service,
            route.host,
            route.path.rstrip("/") or "/",
            route.rewrite,
            is_default=number == len(routes) - 1 and route.host == "*" and route.path == "/",
        )
        for number, (service, route) in enumerate(routes)
    ]


def _precedence(route: Route) -> tuple[int, int, int, int, str, str]:
    kind = 2 if route.host == "*" else 1 if route.host.startswith("*.") else 0
    wildcard = -len(route.host) if kind == 1 else 0
    return -route.priority, kind, wildcard, -len(route.path), route.host, route.path


def _backends(settings: RenderSettings, services: Mapping[ServiceName, Service]) -> list[_BackendView]:
    """Return a backend for each service, also for one without servers: its requests get 503, not 404."""
    views = []
    for backend in settings.backends:
        if backend.service == _NO_ROUTE:
            raise ValueError(f"a service cannot be called {backend.service}: rumor answers 404 by that name")
        service = services.get(backend.service)
        views.append(_BackendView(backend, () if service is None else service.servers))
    return views


def _path(value: object) -> str:
    """Print a file's path as one word, in quotes where it needs them: a home may have a space in its name."""
    text = str(value)
    if is_word(text) and "," not in text:
        return text
    if not _QUOTABLE.fullmatch(text):
        raise ValueError(f"the path {text[:200]!a} cannot stand in haproxy.cfg: put it where no , ' $ or \\ is in it")
    return f"'{text}'"


def _quoted(value: object) -> str:
    """Print a header's value as one word in quotes."""
    text = str(value)
    if not _HEADER_VALUE.fullmatch(text):
        raise ValueError(f"{text[:80]!a} cannot stand in haproxy.cfg: use printable ASCII without quotes, \\ $ % and #")
    return f"'{text}'"


def _raw_words(value: str) -> str:
    if not _RAW_LINE.fullmatch(value):
        raise ValueError(f"{value[:80]!a} cannot stand on a line of haproxy.cfg")
    return value


def _content_type(file: object) -> str:
    return _CONTENT_TYPES.get(PurePath(str(file)).suffix.lower(), "text/html")


def _bind(endpoint: object) -> str:
    if not isinstance(endpoint, Endpoint):
        raise ValueError(f"{endpoint!r} is no address to bind")
    if not endpoint.host:
        return f":{endpoint.port}"
    if ":" in endpoint.host:
        return f"[{word(endpoint.host)}]:{endpoint.port}"
    return f"{word(endpoint.host)}:{endpoint.port}"


_FILTERS: Filters = (
    ("word", word), ("path", _path), ("duration", duration), ("bind", _bind), ("quoted", _quoted),
    ("content_type", _content_type),
)  # fmt: skip
