"""Many apps asked at once, over real sockets: who is well is told, and nobody else."""

import asyncio
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.certificates import certificate

from rumor.checks.outcome import CheckKind, CheckSettings
from rumor.checks.sweep import Question, sweep
from rumor.model import Seconds
from rumor.names import HostPort

HTTP = CheckSettings(CheckKind.HTTP, "/up", timeout=Seconds(5.0))
TCP = CheckSettings(CheckKind.TCP, timeout=Seconds(5.0))
PATIENT = Seconds(5.0)
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass(slots=True)
class App:
    """Answers each connection with its pieces, and keeps it open if it `hangs`."""

    pieces: Sequence[bytes] = (GOOD,)
    hangs: bool = False
    address: HostPort = field(default_factory=lambda: HostPort("127.0.0.1", 1))
    heard: list[bytes] = field(default_factory=list)
    open_now: int = 0
    most_open: int = 0
    pause: float = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            self.heard.append(await reader.readuntil(b"\r\n\r\n"))
            await asyncio.sleep(self.pause)
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
                # So that each piece is a segment of its own.
                await asyncio.sleep(0.02 if len(self.pieces) > 1 else 0.0)
            if self.hangs:
                await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the sweep has seen enough
        finally:
            self.open_now -= 1
            writer.close()


@asynccontextmanager
async def serving(*apps: App, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for app in apps:
            server = await asyncio.start_server(app.serve, app.address.host, 0, ssl=tls, backlog=1024)
            app.address = HostPort(app.address.host, server.sockets[0].getsockname()[1])
            stack.push_async_callback(server.wait_closed)
            stack.callback(server.close)
        yield


async def well(*questions: Question, patience: Seconds = PATIENT) -> set[int]:
    """Return the places of those that are well."""
    found: list[int] = []
    await sweep(questions, found.append, patience=patience)
    assert len(found) == len(set(found))
    return set(found)


async def test_who_answers_well_is_told_and_nobody_else(free_port: Callable[[], int]) -> None:
    apps = [
        App(),
        App((b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",)),
        App((b"SSH-2.0-x\r\n\r\n",)),
        App(()),
        App(),
    ]
    async with serving(*apps):
        nobody = HostPort("127.0.0.1", free_port())
        questions = [Question(HTTP, app.address) for app in apps]
        assert await well(*questions, Question(HTTP, nobody), Question(TCP, nobody), *questions) == {0, 4, 7, 11}
    assert apps[0].heard[0].startswith(b"GET /up HTTP/1.1\r\n")


async def test_answers_that_take_more_than_a_glance_are_read_to_their_end() -> None:
    chunked = App((b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"2\r\nok\r\n", b"0\r\n\r\n"), hangs=True)
    in_pieces = App((b"HTTP/1.1 200 OK\r\ncontent-", b"length: 2\r\n\r\no", b"k"), hangs=True)
    refuses = App((b"HTTP/1.1 503 No\r\n", b"content-length: 0\r\n\r\n"), hangs=True)
    breaks_off = App((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b"half"))
    apps = [chunked, in_pieces, refuses, breaks_off]
    async with serving(*apps):
        assert await well(*(Question(HTTP, app.address) for app in apps)) == {0, 1}
    # Nobody was asked twice.
    assert [len(app.heard) for app in apps] == [1, 1, 1, 1]


async def test_who_is_slow_holds_up_nobody_for_longer_than_the_patience() -> None:
    silent, halting, good = App((), hangs=True), App((b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"), hangs=True), App()
    async with serving(silent, halting, good):
        slow = [Question(HTTP, app.address) for app in (silent, halting)] * 40
        began = time.monotonic()
        assert await well(*slow, Question(HTTP, good.address), patience=Seconds(0.3)) == {80}
        assert time.monotonic() - began < 3.0


async def test_answer_after_the_checks_own_timeout_does_not_count() -> None:
    app = App(pause=0.3)
    async with serving(app):
        hasty = CheckSettings(CheckKind.HTTP, "/up", timeout=Seconds(0.1))
        assert await well(Question(hasty, app.address)) == set()
        assert await well(Question(HTTP, app.address)) == {0}


async def test_at_most_64_are_asked_at_once() -> None:
    app = App(pause=0.02)
    async with serving(app):
        assert len(await well(*(Question(HTTP, app.address) for _ in range(300)))) == 300
    assert 8 < app.most_open <= 64


@contextmanager
def full() -> Iterator[tuple[socket.socket, HostPort]]:
    """A listener that takes no more: who connects waits."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for taker in (first, second):
            taker.setblocking(False)
            taker.connect_ex(listener.getsockname())
        yield listener, HostPort("127.0.0.1", listener.getsockname()[1])


async def test_connection_that_is_accepted_late_is_well_then() -> None:
    with full() as (listener, address):
        asking = asyncio.create_task(well(Question(TCP, address)))
        await asyncio.sleep(0)
        # The kernel knocks again after a second.
        for _ in range(2):
            listener.accept()[0].close()
        assert await asking == {0}


async def test_connection_that_nobody_accepts_is_not_well() -> None:
    with full() as (_, address):
        questions = Question(TCP, address), Question(HTTP, address)
        assert await well(*questions, patience=Seconds(0.2)) == set()


async def test_tcp_app_is_well_once_it_is_connected_and_hears_the_preamble_first() -> None:
    app = App(())
    async with serving(app):
        assert await well(Question(TCP, app.address)) == {0}
        preamble = CheckSettings(CheckKind.HTTP, "/up", timeout=Seconds(5.0), preamble=b"PROXY UNKNOWN\r\n")
        app.pieces = (GOOD,)
        assert await well(Question(preamble, app.address)) == {0}
    assert app.heard[-1].startswith(b"PROXY UNKNOWN\r\nGET /up")


async def test_tls_is_spoken_where_the_app_speaks_it(tmp_path: Path) -> None:
    pem = tmp_path / "app.pem"
    pem.write_text(certificate("app.example"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    secure, plain = App(), App()
    spoken = CheckSettings(CheckKind.HTTP, "/up", timeout=Seconds(5.0), tls=True)
    async with serving(secure, tls=context), serving(plain):
        assert await well(Question(spoken, secure.address), Question(HTTP, plain.address)) == {0, 1}
        questions = Question(HTTP, secure.address), Question(spoken, plain.address)
        assert await well(*questions, patience=Seconds(0.5)) == set()


async def test_ipv6_is_asked_too() -> None:
    app = App(address=HostPort("::1", 1))
    async with serving(app):
        assert await well(Question(HTTP, app.address)) == {0}


async def test_too_many_open_files_make_nobody_well_and_end_nothing() -> None:
    app = App()
    async with serving(app):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as probe:
            # One more than there is now: the sweep's own selector.
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno() + 2, hard))
            try:
                found = await well(*(Question(HTTP, app.address) for _ in range(20)), patience=Seconds(0.3))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(found) < 20
        assert await well(Question(HTTP, app.address)) == {0}


async def test_what_the_listener_raises_ends_the_sweep_and_leaves_no_socket_open() -> None:
    def fails(place: int) -> None:
        raise ValueError(place)

    app = App(hangs=True)
    async with serving(app):
        with pytest.raises(ValueError, match="0"):
            await sweep([Question(HTTP, app.address)], fails, patience=PATIENT)
        await until(lambda: app.heard != [] and app.open_now == 0)


async def test_sweep_that_is_cancelled_leaves_no_socket_open() -> None:
    silent, halting = App((), hangs=True), App((b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"), hangs=True)
    async with serving(silent, halting):
        task = asyncio.create_task(well(Question(HTTP, silent.address), Question(HTTP, halting.address)))
        await until(lambda: silent.open_now == halting.open_now == 1)
        task.cancel()
        async with asyncio.timeout(2):
            await asyncio.gather(task, return_exceptions=True)
        await until(lambda: silent.open_now == halting.open_now == 0)


async def test_nobody_to_ask_is_a_sweep_that_ends() -> None:
    async with asyncio.timeout(5):
        assert await well() == set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for is the other side of a socket
            await asyncio.sleep(0.005)
