"""Serve the API on TCP with aiohttp, for those who bring the token. Imported only where `[api] bind` is configured.

Everything but `/health` and `/ready` wants `Authorization: Bearer TOKEN`; a server without a token does not start.
"""

import asyncio
import hmac
import logging
from dataclasses import dataclass, field

from aiohttp import web

from rumor.errors import ConfigError
from rumor.log import get_logger
from rumor.model import Seconds
from rumor.names import Endpoint
from rumor.web.api import OPEN_PATHS, Answer, BadRequest, Response, failure, parse_target

log = get_logger("api")

# aiohttp writes a traceback for every malformed request, so anybody could fill the log; what crashes in here is logged
# by `_handle`.
_SILENT = logging.getLogger("rumor.api.aiohttp")
_SILENT.setLevel(logging.CRITICAL + 1)

_CONCURRENT_LIMIT = 64
_BODY_LIMIT_BYTES = 64 * 1024
_HEAD_LINE_LIMIT_BYTES = 8 * 1024
_IDLE = Seconds(30.0)
_CLOSE_DEADLINE = Seconds(2.0)


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """Where to listen, and the word that opens the API."""

    bind: Endpoint
    token: str = field(repr=False)


class TcpServer:
    """Owns the listening socket and the connections on it."""

    def __init__(self, settings: TcpSettings, answer: Answer) -> None:
        """Prepare.

        Raises:
            ConfigError: there is no token.
        """
        if not settings.token:
            raise ConfigError(f'api.bind = "{settings.bind}" needs api.token: set it, for example to "env:RUMOR_TOKEN"')
        self._settings = settings
        self._token = settings.token.encode()
        self._answer = answer
        self._running = 0
        self._runner = web.ServerRunner(
            web.Server(
                self._handle,
                access_log=None,
                logger=_SILENT,
                keepalive_timeout=_IDLE,
                max_line_size=_HEAD_LINE_LIMIT_BYTES,
                max_field_size=_HEAD_LINE_LIMIT_BYTES,
            ),
            shutdown_timeout=_CLOSE_DEADLINE,
        )

    async def start(self) -> None:
        """Listen and answer from here on.

        Raises:
            ConfigError: the address is taken or not this machine's.
        """
        await self._runner.setup()
        bind = self._settings.bind
        try:
            async with asyncio.timeout(5.0):
                await web.TCPSite(self._runner, bind.host or None, bind.port).start()
        except (OSError, TimeoutError) as error:
            await self._runner.cleanup()
            raise ConfigError(f"api.bind: cannot listen on {bind}: {error}; choose another address or port") from error

    async def aclose(self) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        self._running += 1
        try:
            if self._running > _CONCURRENT_LIMIT:
                return _response(failure(503, "too many requests at a time"))
            return _response(await self._respond(request))
        except Exception as error:
            # The one boundary of a request: the others, and the agent, go on.
            log.error("api_request_crashed", exc=error, path=request.path[:200])
            return _response(failure(500, "the agent failed to answer; its log says why"))
        finally:
            self._running -= 1

    async def _respond(self, request: web.BaseRequest) -> Response:
        try:
            asked = parse_target(request.method, request.raw_path)
        except BadRequest as error:
            return failure(400, str(error))
        if asked.path not in OPEN_PATHS and not self._is_allowed(request.headers.get("Authorization", "")):
            return failure(
                401,
                "this needs the header Authorization: Bearer TOKEN, with api.token of rumor.toml",
                headers=(("WWW-Authenticate", 'Bearer realm="rumor"'),),
            )
        if (request.content_length or 0) > _BODY_LIMIT_BYTES:
            return failure(413, f"a body of more than {_BODY_LIMIT_BYTES} bytes is not wanted here")
        return await self._answer(asked)

    def _is_allowed(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        # In constant time, so that the token cannot be guessed letter by letter.
        return scheme.lower() == "bearer" and hmac.compare_digest(
            token.strip().encode(errors="surrogateescape"), self._token
        )


def _response(response: Response) -> web.Response:
    headers = {"Content-Type": response.content_type, "Cache-Control": "no-store", **dict(response.headers)}
    return web.Response(status=response.status, body=response.body, headers=headers)
