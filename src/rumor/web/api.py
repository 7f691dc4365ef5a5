"""The HTTP API of an agent: one table of routes for the UNIX socket and for TCP.

Knows no socket and no HTTP library: a `Request` comes in, a `Response` goes out, whatever carries them. HEAD is
answered as GET; the carrier leaves the body out. Errors are JSON objects of one key, `error`.

    GET  /health /ready /metrics
    GET  /v1/members /v1/table /v1/templates /v1/status /v1/journal?subject=&limit=
    GET  /v1/config/history?limit= /v1/config/revisions/PREFIX
    POST /v1/reload /v1/config/rollback?to= /v1/config/release
    POST /v1/operator/drain?server= /v1/operator/ready?server= /v1/operator/weight?server=&weight=
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from rumor.errors import Refused, RumorError, Unreachable
from rumor.log import get_logger
from rumor.web import views
from rumor.web.views import Sample, View

log = get_logger("api")

OPEN_PATHS = frozenset({"/health", "/ready"})
"""What is shown without a token: whether the node lives and whether it is ready, and nothing else."""
DEADLINE = 10.0
"""Seconds within which every request is answered."""
_LIMIT_MAX = 10_000
_QUERY_FIELDS = 16
_BY_LIMIT = 80
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks: the path is decoded, and so is the query, of which the last of equal keys counts."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """What it gets."""

    status: int
    body: bytes
    content_type: str = _JSON
    headers: tuple[tuple[str, str], ...] = ()


class BadRequest(Exception):
    """The request cannot be understood; the text says what to send."""


def parse_target(method: str, target: str) -> Request:
    """Parse what stands in a request line.

    Raises:
        BadRequest: a query of too many fields.
    """
    path, _, query = target.partition("?")
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS)
    except ValueError as error:
        raise BadRequest(f"a query has at most {_QUERY_FIELDS} fields") from error
    return Request(method, unquote(path), dict(fields))


Answer = Callable[[Request], Awaitable[Response]]
"""What the servers call."""
RenderMetrics = Callable[[Sequence[Sample]], tuple[str, bytes]]
"""Returns the content type and the text."""


def reply(status: int, value: views.Json, *, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, json.dumps(value).encode("ascii") + b"\n", headers=headers)


def failure(status: int, text: str, *, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return reply(status, {"error": text}, headers=headers)


class Api:
    """Answers requests about one agent."""

    def __init__(self, view: View, *, render_metrics: RenderMetrics | None = None) -> None:
        """Prepare.

        Args:
            view: the agent.
            render_metrics: writes samples as Prometheus text; None where no scraper can come, so that a node that has
                only its UNIX socket need not load the library: there `/metrics` is 404 and says so.
        """
        self._view = view
        self._render_metrics = render_metrics
        self._routes: dict[str, dict[str, Answer]] = {
            "/health": {"GET": self._health},
            "/ready": {"GET": self._ready},
            "/metrics": {"GET": self._metrics},
            "/v1/members": {"GET": self._members},
            "/v1/table": {"GET": self._table},
            "/v1/templates": {"GET": self._templates},
            "/v1/status": {"GET": self._status},
            "/v1/journal": {"GET": self._journal},
            "/v1/config/history": {"GET": self._history},
            "/v1/config/revisions/": {"GET": self._revision},
            "/v1/config/rollback": {"POST": self._roll_back},
            "/v1/config/release": {"POST": self._release},
            "/v1/reload": {"POST": self._reload},
            "/v1/operator/drain": {"POST": self._operate},
            "/v1/operator/ready": {"POST": self._operate},
            "/v1/operator/weight": {"POST": self._operate},
        }

    async def answer(self, request: Request) -> Response:
        """Answer one request within `DEADLINE`; never raises but for cancellation."""
        # A path with one free word at its end is known by what stands before the word.
        stem = request.path[: request.path.rfind("/") + 1]
        methods = self._routes.get(request.path) or (self._routes.get(stem) if stem.endswith("revisions/") else None)
        if methods is None or request.path.endswith("revisions/"):
            return failure(404, f"there is nothing at {request.path[:200]}")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ", ".join([*methods, "HEAD"] if "GET" in methods else methods)
            return failure(405, f"use {allowed} here", headers=(("Allow", allowed),))
        try:
            async with asyncio.timeout(DEADLINE):
                return await handler(request)
        except BadRequest as error:
            return failure(400, str(error))
        except Refused as error:
            return failure(409, str(error))
        except Unreachable as error:
            return failure(503, str(error))
        except TimeoutError:
            return failure(503, f"no answer within {DEADLINE:.0f} s")
        except Exception as error:
            # The one boundary of the API: a bug in one answer must not end the agent.
            log.error("request_crashed", exc=error, method=request.method, path=request.path[:200])
            return failure(500, "the agent failed to answer; its log says why")

    async def _health(self, request: Request) -> Response:
        return reply(200, views.health_json(self._view.status()))

    async def _ready(self, request: Request) -> Response:
        status = self._view.status()
        return reply(503 if status.not_ready else 200, views.ready_json(status))

    async def _metrics(self, request: Request) -> Response:
        if self._render_metrics is None:
            return failure(404, "this node has no metrics: set [api] bind; its counters are in /v1/status")
        content_type, body = self._render_metrics(views.all_samples(self._view))
        return Response(200, body, content_type)

    async def _members(self, request: Request) -> Response:
        return reply(200, views.members_json(self._view.members()))

    async def _table(self, request: Request) -> Response:
        shown = self._view.table()
        if shown is None:
            return failure(404, "this node steers no HAProxy, so it has no table: ask a balancer")
        return reply(200, views.table_json(shown))

    async def _templates(self, request: Request) -> Response:
        return reply(200, views.templates_json(self._view.templates()))

    async def _status(self, request: Request) -> Response:
        return reply(200, views.status_json(self._view.status(), self._view.members()))

    async def _history(self, request: Request) -> Response:
        revisions = await self._view.history.revisions(_limit(request, 50))
        return reply(200, views.history_json(revisions, self._view.table()))

    async def _revision(self, request: Request) -> Response:
        prefix = request.path.rpartition("/")[2]
        revision = await self._view.history.revision(prefix)
        if revision is None:
            return failure(404, f"no revision begins with {prefix[:80]}")
        return reply(200, views.revision_json(revision))

    async def _journal(self, request: Request) -> Response:
        subject = request.query.get("subject") or None
        records = await self._view.history.records(subject=subject, limit=_limit(request, 200))
        return reply(200, views.journal_json(records))

    async def _reload(self, request: Request) -> Response:
        try:
            return reply(200, {"reloaded": True, "text": await self._view.reload()})
        except RumorError as error:
            return failure(422, str(error))

    async def _roll_back(self, request: Request) -> Response:
        revision = await self._view.roll_back(request.query.get("to", ""), _by(request))
        return _no_balancer() if revision is None else reply(200, {"pinned": revision})

    async def _release(self, request: Request) -> Response:
        revision = await self._view.release(_by(request))
        return _no_balancer() if revision is None else reply(200, {"released": revision})

    async def _operate(self, request: Request) -> Response:
        word, target = request.path.rpartition("/")[2], request.query.get("server", "")
        if not target:
            raise BadRequest("say which: ?server=SERVER, or SERVICE/SERVER")
        servers = await self._view.operate(word, target, weight=_weight(request, word), by=_by(request))
        if servers is None:
            return _no_balancer()
        found = [{"service": service, "server": server} for service, server in servers]
        return reply(200, {"word": word, "servers": found})


def _no_balancer() -> Response:
    return failure(404, "this node steers no HAProxy: ask a balancer")


def _by(request: Request) -> str:
    return "".join(letter for letter in request.query.get("by", "")[:_BY_LIMIT] if letter.isprintable())


def _weight(request: Request, word: str) -> int | None:
    text = request.query.get("weight", "auto")
    if word != "weight" or text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise BadRequest(f"weight is a number from 0 to 256, or auto, not {text[:40]!a}")
    return int(text)


def _limit(request: Request, default: int) -> int:
    text = request.query.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= _LIMIT_MAX):
        raise BadRequest(f"limit is a number from 1 to {_LIMIT_MAX}, not {text[:40]!a}")
    return int(text)
