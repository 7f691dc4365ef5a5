"""Check an app by one HTTP/1.1 GET: an answer of 2xx or 3xx is good, if the settings say nothing else.

h11 instead of an HTTP client: it costs a web node 1 MB instead of 9. The whole check has one deadline; a body is read
up to a limit only, and only to see that it comes.
"""

import asyncio
import time

import h11

from rumor.checks.answer import request, whole_answer
from rumor.checks.outcome import CheckSettings, Outcome
from rumor.checks.tcp import Connection, connect, describe
from rumor.model import Seconds
from rumor.names import HostPort

HEAD_LIMIT_BYTES = 32 * 1024
BODY_LIMIT_BYTES = 64 * 1024
"""A body that goes on past this is taken as good: it comes, and that was the question."""


async def check_http(settings: CheckSettings, address: HostPort) -> Outcome:
    """Ask for `settings.path` within `settings.timeout` and judge the answer. Never raises but for cancellation."""
    started = time.monotonic()
    connection: Connection | None = None
    status: int | None = None

    def outcome(ok: bool, detail: str) -> Outcome:
        return Outcome(ok, detail, Seconds(time.monotonic() - started))

    try:
        async with asyncio.timeout(settings.timeout):
            connection = await connect(settings, address)
            await connection.send(request(settings, address))
            first = await connection.receive()
            status = whole_answer(first)
            if status is None:
                answer = _Answer(connection, first)
                status = await answer.read_status()
                await answer.read_body()
    except TimeoutError:
        if connection is None:
            return outcome(False, "L4TOUT")
        return outcome(False, "L7TOUT" if status is None else f"L7TOUT in the body of {status}")
    except h11.RemoteProtocolError as error:
        return outcome(False, f"L7RSP {error}"[:120])
    except OSError as error:
        return outcome(False, f"{'L4CON' if connection is None else 'L7RSP'} {describe(error)}")
    finally:
        if connection is not None:
            connection.close()
    return outcome(True, f"L7OK {status}") if status in settings.statuses else outcome(False, f"L7STS {status}")


async def read_answer(connection: Connection, first: bytes) -> int:
    """Read an answer to its end, or to what is enough of it; return its status. The caller sets the deadline.

    Raises:
        h11.RemoteProtocolError: it is none.
        OSError: the connection broke.
    """
    answer = _Answer(connection, first)
    status = await answer.read_status()
    await answer.read_body()
    return status


class _Answer:
    """An answer that comes in pieces, or in a form of its own."""

    def __init__(self, connection: Connection, first: bytes) -> None:
        self._connection = connection
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        # What was asked is known to h11 only so that it knows what may come.
        self._parser.send(h11.Request(method="GET", target="/", headers=[("host", "")]))
        self._parser.send(h11.EndOfMessage())
        self._parser.receive_data(first)

    async def read_status(self) -> int:
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return int(event.status_code)

    async def read_body(self) -> None:
        size = 0
        while size <= BODY_LIMIT_BYTES:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                size += len(event.data)
            else:
                return

    async def _next_event(self) -> h11.Event:
        while True:
            event = self._parser.next_event()
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                raise h11.RemoteProtocolError("the answer changes the protocol")
            self._parser.receive_data(await self._connection.receive())
