"""The load of bench/churn.py: open-loop, of every kind that a reload is known to hurt, from clients that never retry.

GET and POST on new and kept connections come from the demo's load; here are uploads, slow downloads, tunnels
(websockets as HAProxy sees them) and HTTP/2.
"""

import asyncio
import contextlib
import ssl
import struct
import time
import uuid
from collections.abc import Awaitable, Callable
from random import Random

from rumor.demo.load import Result
from rumor.model import Seconds

UPLOAD_BYTES = 100_000
TUNNEL_SECONDS = (3.0, 12.0)
DEADLINE = 30.0
_NONCE = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
"""The example of RFC 6455; the app answers what belongs to it."""


class Kinds:
    """Sends each kind at its own rate, and keeps what became of each request."""

    def __init__(self, port: int, secure: int, seed: int) -> None:
        self._port = port
        self._secure = secure
        self._random = Random(seed)
        self.results: list[Result] = []
        self._h2: H2 | None = None
        self._h2_all: list[H2] = []
        self._is_over = False
        self.running = 0
        """Requests without an end yet."""

    async def end(self, patience: float) -> None:
        """Send no more, and wait until what runs has come to its end."""
        self._is_over = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.running:  # noqa: ASYNC110 - many writers, rarely
                    await asyncio.sleep(0.05)

    async def run(self, rates: dict[str, float]) -> None:
        """Send until cancelled."""
        deeds: dict[str, Callable[[str], Awaitable[None]]] = {
            "upload": self._upload, "slow": self._slow, "tunnel": self._tunnel, "h2": self._ask_h2,
        }  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            try:
                for kind, rate in rates.items():
                    tasks.create_task(self._keep_sending(kind, deeds[kind], rate, tasks))
                await asyncio.Event().wait()
            finally:
                for connection in self._h2_all:
                    connection.close()

    async def _keep_sending(
        self, kind: str, deed: Callable[[str], Awaitable[None]], rate: float, tasks: asyncio.TaskGroup
    ) -> None:
        began, number = time.monotonic(), 0
        while not self._is_over:
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            tasks.create_task(self._one(kind, deed))
            number += 1

    async def _one(self, kind: str, deed: Callable[[str], Awaitable[None]]) -> None:
        request, sent_at, error = uuid.uuid4().hex, time.monotonic(), ""
        self.running += 1
        try:
            async with asyncio.timeout(DEADLINE):
                await deed(request)
        except TimeoutError:
            error = f"no end within {DEADLINE:g} s"
        except (OSError, ValueError, asyncio.IncompleteReadError) as failure:
            error = str(failure) or type(failure).__name__
        finally:
            self.running -= 1
        took = Seconds(time.monotonic() - sent_at)
        self.results.append(Result(request, kind, False, sent_at, took, 0 if error else 200, "", error))

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _upload(self, request: str) -> None:
        reader, writer = await self._open()
        try:
            writer.write(_head("POST", "/upload", request, f"Content-Length: {UPLOAD_BYTES}"))
            for _ in range(10):
                writer.write(b"u" * (UPLOAD_BYTES // 10))
                await writer.drain()
                await asyncio.sleep(0.02)
            await _status(reader, 200)
        finally:
            writer.transport.abort()

    async def _slow(self, request: str) -> None:
        reader, writer = await self._open()
        try:
            writer.write(_head("GET", "/slow", request, "Connection: close"))
            await _status(reader, 200)
            size = len(await reader.read(-1))
            if size != 100_000:
                raise ValueError(f"cut off after {size} of 100000 bytes")
        finally:
            writer.transport.abort()

    async def _tunnel(self, request: str) -> None:
        reader, writer = await self._open()
        try:
            writer.write(_head("GET", "/ws", request, "Connection: Upgrade", "Upgrade: websocket", *_NONCE))
            await _status(reader, 101)
            end = time.monotonic() + self._random.uniform(*TUNNEL_SECONDS)
            while time.monotonic() < end:
                writer.write(b"ping")
                if await reader.readexactly(4) != b"ping":
                    raise ValueError("the tunnel answered something else")
                await asyncio.sleep(0.3)
        finally:
            writer.transport.abort()

    async def _ask_h2(self, request: str) -> None:
        if self._h2 is None or not self._h2.is_usable:
            self._h2 = await H2.open(self._secure)
            self._h2_all.append(self._h2)
        await self._h2.ask(request)


class H2:
    """One HTTP/2 connection with streams side by side; as much of the protocol as a GET needs (RFC 9113, 7541)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._next = 1
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self.is_usable = True
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, port: int) -> "H2":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="bench.test")
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0))
        return cls(reader, writer)

    def close(self) -> None:
        self._listener.cancel()

    async def ask(self, request: str) -> None:
        stream, self._next = self._next, self._next + 2
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = answer
        # :method GET, :scheme https, :path /, then :authority and x-request-id as literals without indexing.
        headers = b"\x82\x87\x84" + b"\x01" + _text("bench.test") + b"\x00" + _text("x-request-id") + _text(request)
        self._writer.write(_frame(1, 0x5, stream, headers))
        first = await answer
        if first != 0x88:
            raise ValueError(f"HTTP/2 answered with header byte {first:#x}")

    async def _listen(self) -> None:
        words = "the HTTP/2 connection was closed"
        try:
            while True:
                head = await self._reader.readexactly(9)
                (size,) = struct.unpack("!I", b"\0" + head[:3])
                kind, flags, stream = head[3], head[4], struct.unpack("!I", head[5:9])[0]
                payload = await self._reader.readexactly(size)
                if kind == 4 and not flags & 1:
                    self._writer.write(_frame(4, 1, 0))
                elif kind == 6 and not flags & 1:
                    self._writer.write(_frame(6, 1, 0, payload))
                elif kind == 7:
                    # Streams up to the last one that is named are still answered; new ones go elsewhere.
                    self.is_usable = False
                elif kind == 3:
                    self._settle(stream, None, f"HTTP/2 reset the stream: {payload.hex()}")
                elif kind == 1:
                    self._settle(stream, payload[0], "")
        except (OSError, asyncio.IncompleteReadError) as error:
            words = f"{words}: {type(error).__name__}"
        finally:
            self.is_usable = False
            for stream in list(self._waiting):
                self._settle(stream, None, words)
            self._writer.transport.abort()

    def _settle(self, stream: int, first: int | None, error: str) -> None:
        answer = self._waiting.pop(stream, None)
        if answer is None or answer.done():
            return
        if first is None:
            answer.set_exception(ValueError(error))
        else:
            answer.set_result(first)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes((kind, flags)) + struct.pack("!I", stream) + payload


def _text(text: str) -> bytes:
    return bytes((len(text),)) + text.encode()


def _head(method: str, path: str, request: str, *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: bench.test", f"X-Request-Id: {request}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _status(reader: asyncio.StreamReader, wanted: int) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status != wanted:
        raise ValueError(f"status {status}")
