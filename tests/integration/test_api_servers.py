"""The two carriers of the API: a UNIX socket with h11, and TCP with aiohttp and a token."""

# ruff: noqa: ASYNC240 - socket files are looked at between requests, and nothing else runs in this loop

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from rumor.errors import ConfigError
from rumor.model import Seconds
from rumor.names import Endpoint
from rumor.web.api import Request, Response, failure, reply
from rumor.web.app import TcpServer, TcpSettings
from rumor.web.unix_server import PATH_LIMIT_BYTES, ServerLimits, UnixServer

DEADLINE = 20.0
TOKEN = "a word"
BIG = "x" * 3_000_000


async def answer(request: Request) -> Response:
    """Say what was asked; `/big` is more than any socket buffer holds."""
    if request.path == "/big":
        return reply(200, {"big": BIG})
    if request.path == "/sized":
        return reply(200, {"x": "x" * int(request.query["n"])})
    if request.path == "/crash":
        raise RuntimeError("a bug")
    if request.path == "/missing":
        return failure(404, "nothing here", headers=(("Allow", "GET"),))
    return reply(200, {"method": request.method, "path": request.path, "query": dict(request.query)})


@pytest.fixture
def run_directory() -> Iterator[Path]:
    """Yield a directory whose name is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="rumor-", dir="/tmp") as name:
        yield Path(name)


@asynccontextmanager
async def serving(path: Path, limits: ServerLimits | None = None) -> AsyncIterator[UnixServer]:
    server = UnixServer(path, answer, limits=limits)
    await server.start()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.run())
        try:
            yield server
        finally:
            task.cancel()
    await server.aclose()


class Client:
    """A raw connection: sends bytes, reads one answer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, text: str) -> None:
        self.writer.write(text.encode())
        await self.writer.drain()

    async def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:-2])}
        body = await self.reader.readexactly(int(headers["content-length"])) if has_body else b""
        return int(head[0].split()[1]), headers, body

    async def ask(self, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        await self.send(f"{method} {target} HTTP/1.1\r\nHost: agent\r\n\r\n")
        return await self.answer(has_body=method != "HEAD")

    async def is_closed(self) -> bool:
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 22)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
def path(run_directory: Path) -> Path:
    return run_directory / "agent.sock"


async def test_several_requests_are_answered_on_one_connection(path: Path) -> None:
    async with serving(path), connected(path) as client:
        for number in range(3):
            status, headers, body = await client.ask(f"/v1/x%20y?n={number}")
            assert (status, headers["content-type"]) == (200, "application/json")
            assert json.loads(body) == {"method": "GET", "path": "/v1/x y", "query": {"n": str(number)}}
        status, headers, body = await client.ask("/missing")
        assert (status, headers["allow"], json.loads(body)) == (404, "GET", {"error": "nothing here"})


async def test_head_has_the_length_of_the_body_and_no_body(path: Path) -> None:
    async with serving(path), connected(path) as client:
        _, headers, _ = await client.ask("/v1/x", "HEAD")
        assert int(headers["content-length"]) > 10
        assert (await client.ask("/v1/x"))[0] == 200


async def test_pipelined_requests_are_answered_in_order(path: Path) -> None:
    async with serving(path), connected(path) as client:
        await client.send("".join(f"GET /{number} HTTP/1.1\r\nHost: agent\r\n\r\n" for number in range(5)))
        paths = [json.loads((await client.answer())[2])["path"] for _ in range(5)]
    assert paths == ["/0", "/1", "/2", "/3", "/4"]


async def test_connection_is_closed_after_an_old_client_or_one_that_says_so(path: Path) -> None:
    async with serving(path):
        for request in ("GET /x HTTP/1.0\r\n\r\n", "GET /x HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"):
            async with connected(path) as client:
                await client.send(request)
                assert (await client.answer())[0] == 200
                assert await client.is_closed()


async def test_answer_larger_than_every_buffer_arrives_whole(path: Path) -> None:
    async with serving(path), connected(path) as client:
        await client.send("GET /big HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
        assert json.loads((await client.answer())[2]) == {"big": BIG}


async def test_answer_that_the_kernel_takes_but_for_its_end_arrives_whole(path: Path) -> None:
    async with serving(path), connected(path) as other:
        for size in range(100_000, 300_000, 10_000):
            async with connected(path) as slow:
                slow.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket transport reads
                await slow.send(f"GET /sized?n={size} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
                for _ in range(3):  # by now the server has written what it could
                    assert (await other.ask("/x"))[0] == 200
                slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
                assert len(json.loads((await slow.answer())[2])["x"]) == size


async def test_body_is_read_away_up_to_its_limit(path: Path) -> None:
    async with serving(path, ServerLimits(body_bytes=100_000)), connected(path) as client:
        head = "POST /x HTTP/1.1\r\nHost: agent\r\nContent-Length: {}\r\n\r\n"
        await client.send(head.format(100_000) + "b" * 100_000)
        assert (await client.answer())[0] == 200
        await client.send(head.format(100_001) + "b" * 100_001)
        assert (await client.answer())[0] == 413
        assert await client.is_closed()


async def test_client_that_waits_for_100_continue_gets_it(path: Path) -> None:
    async with serving(path), connected(path) as client:
        await client.send("POST /x HTTP/1.1\r\nHost: agent\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await client.send("{}")
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize(
    "garbage", ["\0\1\2 \r\n\r\n", "GET\r\n\r\n", "GET /x HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nx\r\n\r\n"]
)
async def test_what_is_not_http_gets_400_and_a_closed_connection(path: Path, garbage: str) -> None:
    async with serving(path):
        async with connected(path) as client:
            await client.send(garbage)
            assert (await client.answer())[0] == 400
            assert await client.is_closed()
        async with connected(path) as client:
            assert (await client.ask("/x"))[0] == 200


async def test_head_beyond_its_limit_is_431(path: Path) -> None:
    async with serving(path, ServerLimits(head_bytes=1000)), connected(path) as client:
        await client.send("GET /x HTTP/1.1\r\nHost: agent\r\nx: " + "y" * 2000)
        assert (await client.answer())[0] == 431
        assert await client.is_closed()


async def test_client_that_sends_nothing_is_closed_at_the_idle_limit(path: Path) -> None:
    async with serving(path, ServerLimits(idle=Seconds(0.1))), connected(path) as client:
        assert (await client.ask("/x"))[0] == 200
        assert await client.is_closed()


async def test_client_that_never_reads_its_answer_is_closed(path: Path) -> None:
    async with serving(path, ServerLimits(transfer=Seconds(0.1))), connected(path) as client:
        await client.send("GET /big HTTP/1.1\r\nHost: agent\r\n\r\n" * 3)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket transport reads
        async with connected(path) as other:
            assert (await other.ask("/x"))[0] == 200
        await closed_by_peer(client)


async def closed_by_peer(client: Client) -> None:
    """Wait until the server has let go: writing to it fails."""
    with suppress(OSError):  # which one depends on what was under way
        while True:
            await client.send("x" * 10_000)
            await asyncio.sleep(0)


async def test_connection_beyond_the_limit_is_closed_and_the_others_go_on(path: Path) -> None:
    async with serving(path, ServerLimits(connections=1)), connected(path) as first:
        assert (await first.ask("/x"))[0] == 200
        async with connected(path) as second:
            assert await second.is_closed()
        assert (await first.ask("/x"))[0] == 200


async def test_crash_behind_one_connection_does_not_end_the_server(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path):
        async with connected(path) as client:
            await client.send("GET /crash HTTP/1.1\r\nHost: agent\r\n\r\n")
            assert await client.is_closed()
        async with connected(path) as client:
            assert (await client.ask("/x"))[0] == 200
    assert "api_connection_crashed" in caplog.text


async def test_socket_is_for_its_owner_alone_and_gone_afterwards(path: Path) -> None:
    async with serving(path), connected(path) as client:
        assert path.stat().st_mode & 0o777 == 0o600
        assert (await client.ask("/x"))[0] == 200
    assert not path.exists()


async def test_server_that_was_started_and_never_run_can_be_closed(path: Path) -> None:
    server = UnixServer(path, answer)
    await server.start()
    assert path.exists()
    await server.aclose()
    assert not path.exists()


async def test_stale_socket_is_replaced_and_a_live_one_is_not(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path), connected(path) as client:
        with pytest.raises(ConfigError, match="already answers"):
            await UnixServer(path, answer).start()
        assert (await client.ask("/x"))[0] == 200


async def test_file_in_the_place_of_the_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        await UnixServer(path, answer).start()
    assert path.read_text() == "precious"


async def test_path_beyond_the_kernels_limit_is_a_clear_error(run_directory: Path) -> None:
    room = PATH_LIMIT_BYTES - len(os.fsencode(run_directory)) - 1
    async with serving(run_directory / ("s" * room)):
        pass
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        await UnixServer(run_directory / ("s" * (room + 1)), answer).start()


# --- TCP


@asynccontextmanager
async def tcp(port: int) -> AsyncIterator[aiohttp.ClientSession]:
    server = TcpServer(TcpSettings(Endpoint("127.0.0.1", port), TOKEN), answer)
    await server.start()
    try:
        async with (
            asyncio.timeout(DEADLINE),
            aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(total=DEADLINE)) as session,
        ):
            yield session
    finally:
        await server.aclose()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_token_opens_every_path(free_port: Callable[[], int]) -> None:
    async with tcp(free_port()) as session:
        async with session.get("/v1/x%20y?n=1", headers=bearer(TOKEN)) as response:
            assert response.status == 200
            assert await response.json() == {"method": "GET", "path": "/v1/x y", "query": {"n": "1"}}
        async with session.get("/v1/x", headers={"authorization": f"bearer {TOKEN}"}) as response:
            assert response.status == 200
        async with session.get("/missing", headers=bearer(TOKEN)) as response:
            assert (response.status, response.headers["Allow"]) == (404, "GET")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("another word"),
        bearer(""),
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        bearer("ü"),
    ],
)
@pytest.mark.parametrize("target", ["/v1/members", "/metrics", "/nothing"])
async def test_without_the_token_every_other_path_is_401(
    free_port: Callable[[], int], headers: dict[str, str], target: str
) -> None:
    async with tcp(free_port()) as session, session.get(target, headers=headers) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert "error" in await response.json()


@pytest.mark.parametrize("target", ["/health/../v1/members", "//health", "/health/", "/HEALTH", "http://x/health"])
async def test_path_that_only_resembles_an_open_one_is_401(free_port: Callable[[], int], target: str) -> None:
    port = free_port()
    async with tcp(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            assert (await Client(reader, writer).ask(target))[0] == 401
        finally:
            writer.close()
            await writer.wait_closed()


async def test_malformed_request_over_tcp_is_400_and_leaves_no_traceback_in_the_log(
    free_port: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    async with tcp(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            assert (await Client(reader, writer).ask("*"))[0] == 400
        finally:
            writer.close()
            await writer.wait_closed()
    assert "Traceback" not in caplog.text


async def test_crash_behind_one_request_over_tcp_is_500_and_logged(
    free_port: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    async with tcp(free_port()) as session:
        async with session.get("/crash", headers=bearer(TOKEN)) as response:
            assert response.status == 500
        async with session.get("/x", headers=bearer(TOKEN)) as response:
            assert response.status == 200
    assert "api_request_crashed" in caplog.text


async def test_health_and_ready_are_open(free_port: Callable[[], int]) -> None:
    async with tcp(free_port()) as session:
        for target in ("/health", "/ready"):
            async with session.get(target) as response:
                assert response.status == 200
        async with session.head("/ready") as response:
            assert (response.status, await response.read()) == (200, b"")
            assert int(response.headers["Content-Length"]) > 10


async def test_body_beyond_the_limit_is_413(free_port: Callable[[], int]) -> None:
    async with tcp(free_port()) as session:
        async with session.post("/x", data=b"b" * 65_536, headers=bearer(TOKEN)) as response:
            assert response.status == 200
        async with session.post("/x", data=b"b" * 65_537, headers=bearer(TOKEN)) as response:
            assert response.status == 413


async def test_address_that_is_taken_is_a_clear_error(free_port: Callable[[], int]) -> None:
    port = free_port()
    async with tcp(port):
        other = TcpServer(TcpSettings(Endpoint("127.0.0.1", port), TOKEN), answer)
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            await other.start()


def test_server_without_a_token_does_not_start_and_none_is_shown() -> None:
    with pytest.raises(ConfigError, match=r"needs api\.token"):
        TcpServer(TcpSettings(Endpoint("", 8686), ""), answer)
    assert TOKEN not in repr(TcpSettings(Endpoint("", 8686), TOKEN))


@pytest.mark.parametrize(
    "heavy", ["aiohttp", "jinja2", "prometheus_client", "rich", "click", "structlog", "cryptography", "msgspec"]
)
def test_what_every_node_loads_does_not_load(heavy: str) -> None:
    program = (
        "import sys, rumor.checks.loop, rumor.journal, rumor.web.api, rumor.web.unix_server;"
        f"sys.exit({heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0
