"""Check an app by connecting to it: a listener that accepts is enough.

Connections without asyncio's streams where no TLS is spoken: a balancer asks a thousand new servers at once, and
streams would cost it several times what the question does.
"""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Protocol

from rumor.checks.outcome import CheckSettings, Outcome
from rumor.model import Seconds
from rumor.names import HostPort

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ECONNRESET: "connection reset",
    errno.EMFILE: "out of file descriptors",
}
# The answer's head and body are read through this much buffer, whatever the app sends.
BUFFER_BYTES = 16 * 1024


class Connection(Protocol):
    """An open connection to an app. The caller sets the deadlines."""

    async def send(self, content: bytes) -> None: ...

    async def receive(self) -> bytes:
        """Return what came, at least a byte; nothing at the end."""

    def close(self) -> None:
        """Let go at once; what was not read is lost."""


async def connect(settings: CheckSettings, address: HostPort) -> Connection:
    """Open a connection as the app wants it; the caller sets the deadline and closes it.

    Raises:
        OSError: refused or unreachable, or TLS came to nothing.
    """
    if settings.tls:
        return await _TlsConnection.open(settings, address)
    connection = await PlainConnection.open(address)
    if settings.preamble:
        try:
            await connection.send(settings.preamble)
        except BaseException:
            connection.close()
            raise
    return connection


class PlainConnection:
    """A connection without TLS, over a socket that does not block and is its own from then on."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened

    @classmethod
    async def open(cls, address: HostPort) -> "PlainConnection":
        opened = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            opened.setblocking(False)
            refusal = opened.connect_ex((address.host, address.port))
            if refusal == errno.EINPROGRESS and not _is_connected(opened):
                loop = asyncio.get_running_loop()
                await _ready(opened.fileno(), loop.add_writer, loop.remove_writer)
                refusal = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if refusal not in (0, errno.EINPROGRESS):
                raise OSError(refusal, os.strerror(refusal))
        except BaseException:
            opened.close()
            raise
        return cls(opened)

    async def send(self, content: bytes) -> None:
        # Nearly always there is room, and no round of the loop is needed to learn so.
        try:
            sent = self._socket.send(content)
        except BlockingIOError:
            sent = 0
        if sent < len(content):
            await asyncio.get_running_loop().sock_sendall(self._socket, content[sent:])

    async def receive(self) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            await _ready(self._socket.fileno(), loop.add_reader, loop.remove_reader)
            try:
                return self._socket.recv(BUFFER_BYTES)
            except BlockingIOError:
                continue

    def close(self) -> None:
        self._socket.close()


class _TlsConnection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, settings: CheckSettings, address: HostPort) -> "_TlsConnection":
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=BUFFER_BYTES)
        try:
            # Before TLS, and in the clear: that is where the PROXY protocol stands.
            writer.write(settings.preamble)
            # A late import: a node whose apps speak no TLS stays smaller without it.
            from rumor.checks.tls import context

            await writer.start_tls(context(), server_hostname=settings.tls_name or address.host)
        except BaseException:
            writer.transport.abort()
            raise
        return cls(reader, writer)

    async def send(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    async def receive(self) -> bytes:
        return await self._reader.read(BUFFER_BYTES)

    def close(self) -> None:
        self._writer.transport.abort()


def _is_connected(opened: socket.socket) -> bool:
    """Say whether a connection is there already, as on this machine it mostly is, or has yet to come."""
    try:
        opened.getpeername()
    except OSError:
        return False
    return True


async def _ready(descriptor: int, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    # By its number: that of a socket the selector would print, and ask the kernel for both its addresses to do so.
    add(descriptor, _wake, waiter)
    try:
        await waiter
    finally:
        remove(descriptor)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def describe(error: OSError) -> str:
    """Return a connect error's reason in a few words, the same on every system."""
    return _WORDS.get(error.errno or 0, type(error).__name__)


async def check_tcp(settings: CheckSettings, address: HostPort) -> Outcome:
    """Connect within `settings.timeout`. Never raises but for cancellation."""
    started = time.monotonic()

    def outcome(ok: bool, detail: str) -> Outcome:
        return Outcome(ok, detail, Seconds(time.monotonic() - started))

    try:
        async with asyncio.timeout(settings.timeout):
            connection = await connect(settings, address)
    except TimeoutError:
        return outcome(False, "L4TOUT")
    except OSError as error:
        return outcome(False, f"L4CON {describe(error)}")
    # Nothing was said, so there is nothing to flush and nothing to wait for.
    connection.close()
    return outcome(True, "L4OK")
