"""One check against a real socket: what each way of answering, or not answering, is called."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest

from rumor.checks.http import BODY_LIMIT_BYTES, HEAD_LIMIT_BYTES
from rumor.checks.loop import run_check
from rumor.checks.outcome import CheckKind, CheckSettings, Outcome
from rumor.model import Seconds
from rumor.names import HostPort

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HTTP = CheckSettings(kind=CheckKind.HTTP, path="/up?x=1", timeout=Seconds(5.0))
HASTY = CheckSettings(kind=CheckKind.HTTP, timeout=Seconds(0.2))


@asynccontextmanager
async def app(talk: Talk, host: str = "127.0.0.1") -> AsyncIterator[HostPort]:
    """Serve one connection after the other with `talk`, which sends what it likes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the check has seen enough
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0)
    try:
        yield HostPort(host, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


def sends(*chunks: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()

    return talk


def hangs_after(*chunks: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await sends(*chunks)(reader, writer)
        await reader.read()  # until the check gives up

    return talk


async def ask(talk: Talk, settings: CheckSettings = HTTP) -> Outcome:
    async with app(talk) as address:
        return await run_check(settings, address)


@pytest.mark.parametrize("status", [200, 204, 301, 399])
async def test_2xx_and_3xx_are_good(status: int) -> None:
    outcome = await ask(sends(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status))
    assert (outcome.ok, outcome.detail) == (True, f"L7OK {status}")


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_other_statuses_are_bad(status: int) -> None:
    outcome = await ask(sends(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\nno" % status))
    assert (outcome.ok, outcome.detail) == (False, f"L7STS {status}")


async def test_request_asks_for_the_path_at_the_host_and_closes() -> None:
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    await ask(talk, CheckSettings(kind=CheckKind.HTTP, path="/up?x=1", host_header="shop.example", timeout=Seconds(5)))
    (request,) = heard
    assert request.startswith(b"GET /up?x=1 HTTP/1.1\r\n")
    assert b"host: shop.example\r\n" in request.lower()
    assert b"connection: close\r\n" in request.lower()


async def test_old_server_that_ends_its_answer_by_closing_is_good() -> None:
    assert (await ask(sends(b"HTTP/1.0 200 OK\r\n\r\n", b"hello"))).detail == "L7OK 200"


async def test_chunked_answer_after_an_interim_one_is_good() -> None:
    outcome = await ask(
        sends(
            b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\r\n",
        )
    )
    assert outcome.detail == "L7OK 200"


async def test_nobody_listening_is_a_refused_connection(free_port: Callable[[], int]) -> None:
    address = HostPort("127.0.0.1", free_port())
    assert (await run_check(HTTP, address)).detail == "L4CON connection refused"
    assert (await run_check(CheckSettings(), address)).detail == "L4CON connection refused"


async def test_app_that_accepts_and_never_answers_runs_into_the_deadline() -> None:
    outcome = await ask(hangs_after(), HASTY)
    assert (outcome.ok, outcome.detail) == (False, "L7TOUT")
    assert outcome.took >= HASTY.timeout


async def test_app_that_hangs_within_its_answer_runs_into_the_deadline() -> None:
    outcome = await ask(hangs_after(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b"hel"), HASTY)
    assert (outcome.ok, outcome.detail) == (False, "L7TOUT in the body of 200")


async def test_body_beyond_the_limit_is_not_waited_for() -> None:
    endless = b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n" + bytes(BODY_LIMIT_BYTES + 1)
    assert (await ask(hangs_after(endless))).detail == "L7OK 200"


async def test_head_beyond_the_limit_is_no_answer() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * HEAD_LIMIT_BYTES)
        await writer.drain()
        await reader.read()

    outcome = await ask(talk)
    assert not outcome.ok
    assert outcome.detail.startswith("L7RSP ")


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nbroken"])
async def test_what_is_not_http_is_no_answer(answer: bytes) -> None:
    outcome = await ask(sends(answer))
    assert not outcome.ok
    assert outcome.detail.startswith("L7RSP")


async def test_no_bytes_whatever_make_a_check_raise() -> None:
    random = Random(4711)
    lines = (
        b"HTTP/1.1 200 OK\r\n",
        b"content-length: 5\r\n",
        b"transfer-encoding: chunked\r\n",
        b"\r\n",
        b"5\r\n",
        b"x:\0",
    )

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(random.randrange(8)):
            writer.write(random.choice(lines) if random.random() < 0.7 else random.randbytes(random.randrange(200)))
        await writer.drain()

    async with app(talk) as address:
        for _ in range(300):
            outcome = await run_check(HTTP, address)
            assert outcome.detail.split()[0] in {"L7OK", "L7STS", "L7RSP", "L7TOUT"}, "seed 4711"


async def test_tcp_check_is_content_with_a_listener_that_says_nothing() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    outcome = await ask(talk, CheckSettings(timeout=Seconds(5.0)))
    assert (outcome.ok, outcome.detail) == (True, "L4OK")


async def test_listener_with_a_full_backlog_is_a_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = HostPort("127.0.0.1", listener.getsockname()[1])
        waiting = [socket.socket() for _ in range(4)]
        try:
            for client in waiting:
                client.setblocking(False)
                client.connect_ex((address.host, address.port))
            outcome = await run_check(CheckSettings(timeout=Seconds(0.2)), address)
        finally:
            for client in waiting:
                client.close()
    assert (outcome.ok, outcome.detail) == (False, "L4TOUT")


async def test_ipv6_app_is_asked_like_any_other() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    async with app(sends(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), "::1") as address:
        assert (await run_check(HTTP, address)).detail == "L7OK 200"
