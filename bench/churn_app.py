"""The app behind bench/churn.py: answers, uploads, slow downloads and tunnels, and a log of what reached which process.

    python churn_app.py --port 3001 --tag n1 --log requests.log

On SIGTERM it takes no new connection, lets what runs come to its end (20 s at most), and exits 0.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path

SLOW_SECONDS = 10.0
GRACE_SECONDS = 20.0


class App:
    def __init__(self, tag: str, log: Path) -> None:
        self.tag = tag
        self.log = log.open("a", buffering=1)
        self.running = 0
        self.is_ending = False

    def note(self, head: dict[str, str], method: str, path: str) -> None:
        line = {
            "id": head.get("x-request-id", ""),
            "pid": os.getpid(),
            "method": method,
            "path": path,
            "t": time.time(),
        }
        self.log.write(json.dumps(line) + "\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            while not self.is_ending or self.running:
                raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.running += 1
                try:
                    if not await self.answer(raw, reader, writer):
                        break
                finally:
                    self.running -= 1
        writer.close()

    async def answer(self, raw: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; say whether the connection goes on."""
        first, *lines = raw.split("\r\n")
        method, path, _ = first.split(" ", 2)
        head = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        if path != "/health":
            self.note(head, method, path)
        if head.get("upgrade", "").lower() == "websocket":
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            )
            while data := await reader.read(4096):
                writer.write(data)
            return False
        await reader.readexactly(int(head.get("content-length", "0")))
        if path == "/slow":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(100):
                writer.write(b"x" * 1000)
                await writer.drain()
                await asyncio.sleep(SLOW_SECONDS / 100)
            return not self.is_ending
        if path != "/health":
            await asyncio.sleep(0.005)
        body = json.dumps({"tag": self.tag}).encode()
        last = b"Connection: close\r\n" if self.is_ending else b""
        writer.write(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (last, len(body), body))
        await writer.drain()
        return not self.is_ending


async def run(port: int, tag: str, log: Path) -> None:
    app = App(tag, log)
    server = await asyncio.start_server(app.serve, "127.0.0.1", port, backlog=512)
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await asked.wait()
    app.is_ending = True
    server.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE_SECONDS):
            while app.running:  # noqa: ASYNC110 - a bench's app
                await asyncio.sleep(0.05)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tag", required=True)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(run(options.port, options.tag, options.log))
