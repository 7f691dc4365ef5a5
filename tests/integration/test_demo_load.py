"""The demo's load against a real server: constant, honest, and without a retry."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from rumor.demo.load import Load
from rumor.names import HostPort

ANSWER = b'HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{"tag":"web-1"}'


class Server:
    """Answers each request, or closes the connection instead."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.is_refusing = False
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head)
                if self.is_refusing:
                    break
                writer.write(ANSWER)
                if b"close" in head.lower():
                    break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self.open -= 1


@contextlib.asynccontextmanager
async def running(rate: float) -> AsyncIterator[tuple[Server, Load]]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    load = Load(HostPort("127.0.0.1", listener.sockets[0].getsockname()[1]), rate=rate)
    task = asyncio.create_task(load.run())
    try:
        yield server, load
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()
        await until(lambda: server.open == 0)


async def until(holds: Callable[[], bool], deadline: float = 10.0) -> None:
    async with asyncio.timeout(deadline):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_half_is_posted_and_half_is_kept_alive() -> None:
    async with running(400) as (server, load):
        await until(lambda: len(load.results) >= 400)
        results = load.results[:400]
        assert all(result.is_ok and result.server == "web-1" for result in results)
        assert 140 < sum(result.method == "POST" for result in results) < 260
        assert 140 < sum(result.is_kept_alive for result in results) < 260
        assert server.connections < len(server.requests)


async def test_a_request_that_is_cut_off_is_a_failure_and_is_not_sent_again() -> None:
    async with running(200) as (server, load):
        await until(lambda: len(load.results) >= 20)
        server.is_refusing = True
        before = len(server.requests)
        await until(lambda: sum(not result.is_ok for result in load.results) >= 20)
        server.is_refusing = False
        failed = [result for result in load.results if not result.is_ok]
        assert all(result.error == "closed without an answer" for result in failed)
        seen = b"".join(server.requests[before:])
        assert all(seen.count(result.id.encode()) == 1 for result in failed)


async def test_a_server_that_is_gone_is_a_failure_at_once() -> None:
    async with running(100) as (_, load):
        await until(lambda: len(load.results) >= 10)
    gone = Load(HostPort("127.0.0.1", load._address.port), rate=50)
    task = asyncio.create_task(gone.run())
    await until(lambda: len(gone.results) >= 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(result.error and result.status == 0 for result in gone.results)
