"""The demo's load: open-loop, at a constant rate, from a client that never retries.

Requests leave when their time has come, whatever became of the ones before: half of them GET and half POST, half on
kept-alive connections and half on new ones. What a client that retries would never notice is a failure here.
"""

import asyncio
import json
import time
import uuid
from dataclasses import dataclass
from random import Random

import h11

from rumor.model import Seconds
from rumor.names import HostPort

REQUEST_DEADLINE = Seconds(10.0)
_IN_FLIGHT_LIMIT = 2000
_KEPT_FOR = 3.0
"""HAProxy closes a connection that was idle for 5 s; a request that is sent in that moment is lost on any server."""
_BODY_LIMIT = 64 * 1024
_CHUNK = 16 * 1024


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one request."""

    id: str
    method: str
    is_kept_alive: bool
    sent_at: float
    """On the monotonic clock."""
    took: Seconds
    status: int = 0
    server: str = ""
    """The node that answered, by its tag."""
    error: str = ""

    @property
    def is_ok(self) -> bool:
        return 200 <= self.status < 300 and not self.error


class _Connection:
    """One client connection; good for many requests, one at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h11 = h11.Connection(h11.CLIENT)
        self._last_answer = time.monotonic()

    @classmethod
    async def open(cls, address: HostPort) -> "_Connection":
        return cls(*await asyncio.open_connection(address.host, address.port))

    @property
    def is_usable(self) -> bool:
        """Whether the server has not closed it meanwhile, nor is about to; what every keep-alive client looks at."""
        is_fresh = time.monotonic() - self._last_answer < _KEPT_FOR
        is_open = not self._reader.at_eof() and not self._writer.is_closing()
        return is_fresh and is_open and self._h11.our_state is h11.IDLE

    async def ask(self, method: str, request_id: str, *, keep: bool) -> tuple[int, str]:
        """Send one request; return the status and the node that answered."""
        headers = [("Host", "demo"), ("X-Request-Id", request_id)]
        if method == "POST":
            headers.append(("Content-Length", "0"))
        if not keep:
            headers.append(("Connection", "close"))
        request = h11.Request(method=method, target="/", headers=headers)
        self._writer.write((self._h11.send(request) or b"") + (self._h11.send(h11.EndOfMessage()) or b""))
        await self._writer.drain()
        status, body = 0, bytearray()
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(_CHUNK)
                if not data:
                    raise h11.RemoteProtocolError(
                        "closed before the whole answer" if status else "closed without an answer"
                    )
                self._h11.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > _BODY_LIMIT:
                    raise h11.RemoteProtocolError("a body without end")
            elif isinstance(event, h11.EndOfMessage):
                break
        if keep and self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._last_answer = time.monotonic()
        return status, _server_of(bytes(body)) if status == 200 else ""

    def close(self) -> None:
        self._writer.transport.abort()


class Load:
    """Sends requests until cancelled, and keeps what became of each."""

    def __init__(self, address: HostPort, *, rate: float) -> None:
        self._address = address
        self._rate = rate
        self._idle: list[_Connection] = []
        # A fair coin rather than a fixed order: a pattern could fall into step with HAProxy's choice of servers, and
        # one server would then see no POST at all. Seeded, so that every run sends the same.
        self._coin = Random(1)  # noqa: S311 - a load, not a secret
        self.results: list[Result] = []
        self.sent = 0
        self.in_flight: dict[str, float] = {}
        """Requests without an answer yet, and when they were sent."""
        self.latest: Seconds = Seconds(0.0)
        """How late a request left at worst: a starved client says so."""

    async def run(self) -> None:
        """Send at the rate until cancelled; then let go of the connections."""
        started = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                number = 0
                while True:
                    due = started + number / self._rate
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    if len(self.in_flight) >= _IN_FLIGHT_LIMIT:
                        continue
                    self.latest = Seconds(max(self.latest, time.monotonic() - due))
                    method = self._coin.choice(("GET", "POST"))
                    keep = self._coin.random() < 0.5
                    tasks.create_task(self._request(method, keep=keep), name=f"request {number}")
                    number += 1
        finally:
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    async def settle(self, before: float, deadline: Seconds) -> None:
        """Wait until every request sent before a moment has its result, or the deadline has passed."""
        try:
            async with asyncio.timeout(deadline):
                while any(sent_at < before for sent_at in self.in_flight.values()):  # noqa: ASYNC110 - many writers, rarely
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return

    async def _request(self, method: str, *, keep: bool) -> None:
        request_id = uuid.uuid4().hex
        sent_at = time.monotonic()
        self.in_flight[request_id] = sent_at
        self.sent += 1
        status, server, error = 0, "", ""
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(REQUEST_DEADLINE):
                connection = self._take_idle() if keep else None
                if connection is None:
                    connection = await _Connection.open(self._address)
                status, server = await connection.ask(method, request_id, keep=keep)
            if keep and connection.is_usable:
                self._idle.append(connection)
                connection = None
        except TimeoutError:
            error = f"no answer within {REQUEST_DEADLINE:g} s"
        except h11.RemoteProtocolError as failure:
            error = str(failure)
        except OSError as failure:
            error = failure.strerror or str(failure)
        finally:
            del self.in_flight[request_id]
            if connection is not None:
                connection.close()
        took = Seconds(time.monotonic() - sent_at)
        self.results.append(Result(request_id, method, keep, sent_at, took, status, server, error))

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        return None


def _server_of(body: bytes) -> str:
    try:
        return str(json.loads(body)["tag"])
    except (ValueError, KeyError, TypeError):
        return ""
