"""Check an app by one HTTP/1.1 GET: an answer of 2xx or 3xx is good, if the settings say nothing else.

h11 over asyncio's streams instead of an HTTP client: it costs a web node 1 MB instead of 9. The whole check has one
deadline; a body is read up to a limit only, and only to see that it comes.
"""

import asyncio
import time

import h11

from rumor.checks.outcome import CheckSettings, Outcome
from rumor.checks.tcp import connect, describe
from rumor.model import Seconds
from rumor.names import HostPort

HEAD_LIMIT_BYTES = 32 * 1024
BODY_LIMIT_BYTES = 64 * 1024
"""A body that goes on past this is taken as good: it comes, and that was the question."""
_CHUNK_BYTES = 16 * 1024


async def check_http(settings: CheckSettings, address: HostPort) -> Outcome:
    """Ask for `settings.path` within `settings.timeout` and judge the answer. Never raises but for cancellation."""
    started = time.monotonic()
    writer: asyncio.StreamWriter | None = None
    status: int | None = None

    def outcome(ok: bool, detail: str) -> Outcome:
        return Outcome(ok, detail, Seconds(time.monotonic() - started))

    try:
        async with asyncio.timeout(settings.timeout):
            reader, writer = await connect(settings, address)
            connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT_BYTES)
            writer.write(_request(connection, settings, address))
            await writer.drain()
            status = await _read_status(connection, reader)
            await _read_body(connection, reader)
    except TimeoutError:
        if writer is None:
            return outcome(False, "L4TOUT")
        return outcome(False, "L7TOUT" if status is None else f"L7TOUT in the body of {status}")
    except h11.RemoteProtocolError as error:
        return outcome(False, f"L7RSP {error}"[:120])
    except OSError as error:
        return outcome(False, f"{'L4CON' if writer is None else 'L7RSP'} {describe(error)}")
    finally:
        if writer is not None:
            writer.transport.abort()
    return outcome(True, f"L7OK {status}") if status in settings.statuses else outcome(False, f"L7STS {status}")


def _request(connection: h11.Connection, settings: CheckSettings, address: HostPort) -> bytes:
    usual = {
        "host": settings.host_header or str(address),
        "user-agent": "rumor-check",
        "accept": "*/*",
        "connection": "close",
    }
    headers = list((usual | {name.lower(): value for name, value in settings.headers}).items())
    request = connection.send(h11.Request(method="GET", target=settings.path, headers=headers)) or b""
    return request + (connection.send(h11.EndOfMessage()) or b"")


async def _read_status(connection: h11.Connection, reader: asyncio.StreamReader) -> int:
    while True:
        event = await _next_event(connection, reader)
        if isinstance(event, h11.Response):
            return int(event.status_code)


async def _read_body(connection: h11.Connection, reader: asyncio.StreamReader) -> None:
    size = 0
    while size <= BODY_LIMIT_BYTES:
        event = await _next_event(connection, reader)
        if isinstance(event, h11.Data):
            size += len(event.data)
        else:
            return


async def _next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Event:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Event):
            return event
        if event is h11.PAUSED:
            raise h11.RemoteProtocolError("the answer changes the protocol")
        connection.receive_data(await reader.read(_CHUNK_BYTES))
