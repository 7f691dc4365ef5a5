"""What docs/services.md promises, seen at a real HAProxy: from rumor.toml and members' tags to requests."""

import asyncio
import contextlib
import json
import re
import shutil
import ssl
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from tests import conftest
from tests.certificates import certificate

from rumor.agent.balancer_settings import balancing_settings
from rumor.agent.revisions import Surroundings
from rumor.agent.settings import check_settings
from rumor.atomic_file import write_atomically
from rumor.checks.loop import run_check
from rumor.config import Config, load
from rumor.config.traffic import SECTIONS
from rumor.haproxy.certificates import Certificates
from rumor.haproxy.runtime import CommandSocket
from rumor.model import Cause, Instant, Member, MemberStatus
from rumor.names import HostPort, MemberName
from rumor.pool.table import Blindness, build_table
from rumor.render import publish
from rumor.render.template import render

DEADLINE = 10.0


@dataclass(slots=True)
class App:
    """A tiny server that tells in its answers what reached it."""

    name: str
    port: int = 0
    status: int = 200
    health: int = 200
    heads: list[str] = field(default_factory=list)
    health_heads: list[str] = field(default_factory=list)
    preambles: list[bytes] = field(default_factory=list)
    wants_preamble: bool = False
    running: int = 0
    most: int = 0
    takes: float = 0.0
    clients: set[asyncio.StreamWriter] = field(default_factory=set)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(DEADLINE * 3):
                if self.wants_preamble:
                    self.preambles.append(await self._preamble(reader))
                while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                    is_check = head.split(" ")[1].startswith("/health")
                    (self.health_heads if is_check else self.heads).append(head)
                    self.running += not is_check
                    self.most = max(self.most, self.running)
                    await asyncio.sleep(0 if is_check else self.takes)
                    self.running -= not is_check
                    body = json.dumps({"app": self.name, "head": head}).encode()
                    status = self.health if is_check else self.status
                    writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
                    await writer.drain()
        await closed(writer)
        self.clients.discard(writer)

    async def _preamble(self, reader: asyncio.StreamReader) -> bytes:
        """Read a header of the PROXY protocol, of either version."""
        first = await reader.readexactly(5)
        if first == b"PROXY":
            return first + await reader.readuntil(b"\r\n")
        rest = await reader.readexactly(11)
        return first + rest + await reader.readexactly(int.from_bytes(rest[-2:], "big"))


@asynccontextmanager
async def app(name: str, *, tls: ssl.SSLContext | None = None, wants_preamble: bool = False) -> AsyncIterator[App]:
    it = App(name, wants_preamble=wants_preamble)
    listener = await asyncio.start_server(it.answer, "127.0.0.1", 0, ssl=tls)
    it.port = listener.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        listener.close()
        for writer in list(it.clients):
            await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    head: str
    body: str

    @property
    def app(self) -> str:
        return str(json.loads(self.body)["app"]) if self.body.startswith("{") else ""

    @property
    def seen(self) -> str:
        """The head as the app saw it."""
        return str(json.loads(self.body)["head"])


async def ask(
    port: int,
    path: str = "/",
    *,
    host: str = "shop.test",
    tls: ssl.SSLContext | None = None,
    sni: str = "shop.test",
    preamble: bytes = b"",
    source: str = "127.0.0.1",
    cookie: str = "",
) -> Reply:
    """One request on a connection of its own."""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname=sni if tls else None, local_addr=(source, 0)
        )
        raw = ""
        with contextlib.suppress(ConnectionError):
            more = f"Cookie: {cookie}\r\n" if cookie else ""
            head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n"
            writer.write(preamble + head.encode())
            raw = (await reader.read()).decode()
        await closed(writer)
    head, _, body = raw.partition("\r\n\r\n")
    return Reply(int(head.split(" ")[1]) if raw else 0, head, body)


def member(name: str, offer: str, **more: str) -> Member:
    tags = {key.replace("_", ":"): value for key, value in ({"service_web": offer} | more).items() if value}
    return Member(MemberName(name), HostPort("127.0.0.1", 7946), tags, MemberStatus.ALIVE)


@dataclass(slots=True)
class Balancer:
    """One HAProxy and the configuration that made it."""

    directory: Path
    config: Config
    port: int
    certificates: Certificates

    @property
    def worker(self) -> CommandSocket:
        return CommandSocket(self.directory / "haproxy.sock")

    async def statuses(self) -> dict[str, str]:
        return await self.column("status")

    async def column(self, name: str) -> dict[str, str]:
        """One column of what HAProxy says of the servers of `web`, by their names."""
        rows = [line.split(",") for line in (await self.worker.ask("show stat web 4 -1")).splitlines()]
        return {row[1]: row[rows[0].index(name)] for row in rows[1:] if len(row) > 20}

    async def until_up(self, *names: str) -> None:
        await until(lambda: self._are_up(names), f"{names} are up")

    async def _are_up(self, names: tuple[str, ...]) -> bool:
        statuses = await self.statuses()
        return all(statuses.get(name) == "UP" for name in names)


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(DEADLINE):
            while not await condition():  # noqa: ASYNC110 - HAProxy tells nobody of its changes
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {DEADLINE:g} s: {what}")


Serve = Callable[..., Awaitable[Balancer]]


@pytest.fixture
def base() -> Iterator[Path]:
    # Not tmp_path: a UNIX socket's path may have 108 bytes at most.
    path = Path(tempfile.mkdtemp(prefix="rumor-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def directory(base: Path) -> Path:
    return base


@pytest.fixture
async def serve(base: Path, haproxy_program: Path, free_port: Callable[[], int]) -> AsyncIterator[Serve]:
    """Return a function that reads a rumor.toml, renders it for some members and runs HAProxy with that."""
    async with AsyncExitStack() as stack:

        async def begin(
            toml: str, *members: Member, node: str = "", peers: tuple[tuple[str, HostPort], ...] = ()
        ) -> Balancer:
            port = free_port()
            directory = (base / node) if node else base
            directory.mkdir(exist_ok=True)
            file = directory / "rumor.toml"
            file.write_text(toml.replace("PORT", str(port)))
            config = load(file, environ={})
            settings = balancing_settings(config, directory, publish.read_template(None))
            table, refused = build_table(members, settings.pool, (), blindness=Blindness(), now=Instant(0.0))
            assert refused == ()
            certificates = Certificates(write_atomically)
            names: tuple[str, ...] = ()
            if settings.certificates is not None and settings.render.tls is not None:
                names = (await certificates.look(settings.certificates, settings.render.tls.directory)).names
            render_settings = Surroundings(names, peers, node).complete(settings.render)
            revision = render(table, render_settings, Cause("test", "a test"))
            write_atomically(directory / "haproxy.cfg", revision.text)
            # With -dW a warning is an error.
            check = await asyncio.create_subprocess_exec(
                haproxy_program, "-dW", "-c", "-f", directory / "haproxy.cfg",
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            words, _ = await check.communicate()
            assert check.returncode == 0, f"{words.decode()}\n{revision.text}"
            process = await asyncio.create_subprocess_exec(
                haproxy_program, "-W", "-S", f"{directory}/master.sock,mode,600", "-f", directory / "haproxy.cfg",
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            stack.push_async_callback(end, process)
            balancer = Balancer(directory, config, port, certificates)

            async def answers() -> bool:
                with contextlib.suppress(Exception):
                    return "Uptime" in await balancer.worker.ask("show info")
                return False

            await until(answers, "HAProxy answers on its socket")
            return balancer

        yield begin


async def end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    try:
        async with asyncio.timeout(DEADLINE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


HEAD = '[balancer]\nbind = "127.0.0.1:PORT"\n'
WEB = HEAD + '[service.web]\ncheck = { http = "/health", interval = "100ms", rise = 1 }\n'


# --- who serves a request


async def test_routes_know_wildcards_rewriting_and_priority(serve: Serve) -> None:
    toml = (
        HEAD
        + """
[service.web]
route = [{ host = "*" }, { host = "*.shop.test", path = "/cart" }]
[service.api]
route = [{ path = "/api", rewrite = "/", priority = 10 }, { path = "/old.v1", rewrite = "/new/v2" }]
[service.exact]
route = { host = "a.shop.test" }
"""
    )
    async with app("web") as web, app("api") as api, app("exact") as exact:
        balancer = await serve(
            toml,
            member("n1", str(web.port)),
            member("n2", "", service_api=str(api.port)),
            member("n3", "", service_exact=str(exact.port)),
        )
        for host, path, wanted, seen in [
            ("x.test", "/", "web", "/"),
            ("b.shop.test", "/cart/1", "web", "/cart/1"),
            ("a.shop.test", "/cart", "exact", "/cart"),  # an exact name goes before a wildcard
            ("a.shop.test", "/api/v1?x=1", "api", "/v1?x=1"),  # and a priority before both
            ("x.test", "/api", "api", "/"),
            ("x.test", "/api/", "api", "/"),
            ("x.test", "/apix", "web", "/apix"),
            ("x.test", "/old.v1", "api", "/new/v2"),
            ("x.test", "/old.v1/a/b?c", "api", "/new/v2/a/b?c"),
            ("x.test", "/oldxv1", "web", "/oldxv1"),
        ]:
            reply = await ask(balancer.port, path, host=host)
            assert (reply.app, reply.seen.split(" ")[1]) == (wanted, seen), f"{host}{path}"


async def test_a_split_gives_each_version_its_share_however_many_serve_it(serve: Serve) -> None:
    toml = WEB + 'balance = "roundrobin"\nsplit = { "1.4" = 90, "1.5" = 10 }\n'
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(app(name)) for name in ("old", "new-1", "new-2", "other")]
        old, one, two, other = (str(entry.port) for entry in apps)
        balancer = await serve(
            toml,
            member("n1", f"{old};version=1.4"),
            member("n2", f"{one};version=1.5"),
            member("n3", f"{two};version=1.5"),
            member("n4", f"{other};version=9"),
        )
        await balancer.until_up("n1", "n2", "n3")
        seen = Counter([(await ask(balancer.port)).app for _ in range(200)])
    assert seen["other"] == 0
    assert 176 <= seen["old"] <= 184
    assert abs(seen["new-1"] - seen["new-2"]) <= 2


async def cluster_of_four(stack: AsyncExitStack, serve: Serve, toml: str) -> Balancer:
    apps = [await stack.enter_async_context(app(f"n{number}")) for number in range(1, 5)]
    balancer = await serve(toml, *(member(one.name, str(one.port)) for one in apps))
    await balancer.until_up(*(one.name for one in apps))
    return balancer


async def served(balancer: Balancer, sources: Sequence[str], paths: Sequence[str]) -> dict[str, str]:
    """Return who serves each client, or each path; one that several serve is an error."""
    found: dict[str, set[str]] = {}
    for number in range(4):
        for source in sources:
            for path in paths:
                key = source if len(sources) > 1 else path
                reply = await ask(balancer.port, f"{path}?again={number}", source=source)
                found.setdefault(key, set()).add(reply.app)
    assert all(len(apps) == 1 for apps in found.values()), found
    return {key: next(iter(apps)) for key, apps in found.items()}


@pytest.mark.parametrize(
    ("balance", "sources", "paths"),
    [
        ("source", [f"127.0.0.{number}" for number in range(2, 18)], ["/"]),
        ("uri", ["127.0.0.1"], [f"/page/{number}" for number in range(16)]),
    ],
)
async def test_a_hash_keeps_a_client_or_a_path_at_one_server(
    serve: Serve, balance: str, sources: list[str], paths: list[str]
) -> None:
    async with AsyncExitStack() as stack:
        balancer = await cluster_of_four(stack, serve, WEB + f'balance = "{balance}"\n')
        before = await served(balancer, sources, paths)
        assert len(set(before.values())) > 1
        # Whose server goes moves; all others stay where they are.
        gone = before[next(iter(before))]
        await balancer.worker.ask(f"set server web/{gone} state maint")
        after = await served(balancer, sources, paths)
    assert gone not in after.values()
    assert {key: one for key, one in after.items() if before[key] != gone} == {
        key: one for key, one in before.items() if one != gone
    }


async def test_other_ways_to_balance_keep_nobody_anywhere(serve: Serve) -> None:
    # The test above can fail.
    async with AsyncExitStack() as stack:
        balancer = await cluster_of_four(stack, serve, WEB + 'balance = "roundrobin"\n')
        with pytest.raises(AssertionError, match="n1"):
            await served(balancer, ["127.0.0.2", "127.0.0.3"], ["/"])


async def test_a_cookie_means_the_same_on_every_balancer(serve: Serve) -> None:
    toml = WEB + 'balance = "roundrobin"\nsticky = true\n'
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(app(f"n{number}")) for number in range(1, 5)]
        members = [member(one.name, str(one.port)) for one in apps]
        # Each renders for itself, they share nothing, and the second has met other servers in another order.
        one, two = await serve(toml, *members[:3], node="lb-1"), await serve(toml, *reversed(members), node="lb-2")
        await one.until_up("n1", "n2", "n3")
        await two.until_up("n1", "n2", "n3", "n4")
        cookies: dict[str, str] = {}
        for _ in range(6):
            reply = await ask(one.port)
            (given,) = [line for line in reply.head.split("\r\n") if line.lower().startswith("set-cookie:")]
            cookies[reply.app] = given.partition(":")[2].partition(";")[0].strip()
        assert len(cookies) == len(set(cookies.values())) == 3
        for name, cookie in cookies.items():
            replies = [await ask(two.port, cookie=cookie) for _ in range(6)]
            assert {reply.app for reply in replies} == {name}
            assert not any("set-cookie" in reply.head.lower() for reply in replies)
        # And a cookie of another cluster means nothing here.
        other = await serve('[cluster]\nname = "other"\n' + toml, *members, node="lb-3")
        await other.until_up("n1", "n2", "n3", "n4")
        replies = [await ask(other.port, cookie=cookies["n1"]) for _ in range(8)]
        assert {reply.app for reply in replies} == {"n1", "n2", "n3", "n4"}


async def test_a_server_that_comes_back_gets_its_share_little_by_little(serve: Serve) -> None:
    toml = WEB + 'balance = "roundrobin"\nslow_start = "4s"\n'
    async with app("old") as old, app("new") as new:
        balancer = await serve(toml, member("n1", str(old.port)), member("n2", str(new.port)))
        await balancer.until_up("n1", "n2")

        async def is_down() -> bool:
            return (await balancer.statuses())["n2"].startswith("DOWN")

        async def has_its_weight() -> bool:
            return (await balancer.column("weight"))["n2"] == "100"

        await until(has_its_weight, "it has its weight before")
        new.health = 500
        await until(is_down, "the other is down")
        new.health = 200
        await balancer.until_up("n2")
        weights = await balancer.column("weight")
        assert (weights["n1"], int(weights["n2"]) < 50) == ("100", True), weights
        seen = Counter([(await ask(balancer.port)).app for _ in range(20)])
        assert seen["new"] < seen["old"], seen
        await until(has_its_weight, "it has its weight again")
        seen = Counter([(await ask(balancer.port)).app for _ in range(20)])
        assert seen == {"old": 10, "new": 10}


async def tunnel(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Upgrade a connection, as websockets do; what is written then comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def upgraded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade: echo" in head.lower():
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
            while piece := await reader.read(100):
                writer.write(piece)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("timeouts", "is_cut"), [('{ tunnel = "600ms" }', True), ('{ tunnel = "60s", server = "300ms" }', False)]
)
async def test_a_tunnel_may_be_silent_as_long_as_the_service_says(serve: Serve, timeouts: str, is_cut: bool) -> None:
    listener = await asyncio.start_server(upgraded, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        # However short the time that others may be silent.
        toml = WEB.replace("[service", 'timeouts = { client = "300ms" }\n[service', 1)
        balancer = await serve(toml + f"timeouts = {timeouts}\n", member("n1", str(port)))
        await balancer.until_up("n1")
        async with asyncio.timeout(DEADLINE):
            reader, writer = await tunnel(balancer.port)
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
            began = asyncio.get_running_loop().time()
            if is_cut:
                assert await reader.read(100) == b""
                assert 0.5 < asyncio.get_running_loop().time() - began < 3
            else:
                await asyncio.sleep(1.5)
                writer.write(b"pong")
                assert await reader.readexactly(4) == b"pong"
            await closed(writer)


async def test_a_backup_serves_only_when_nobody_else_is_left(serve: Serve) -> None:
    async with app("main") as main, app("spare") as spare:
        balancer = await serve(WEB, member("n1", str(main.port)), member("n2", f"{spare.port};backup=1"))
        await balancer.until_up("n1", "n2")
        assert {(await ask(balancer.port)).app for _ in range(10)} == {"main"}
        main.health = 500

        async def serves() -> bool:
            return (await ask(balancer.port)).app == "spare"

        await until(serves, "the backup serves")


# --- what servers are asked to bear


async def test_a_server_gets_no_more_at_once_than_it_may_and_the_queue_has_an_end(serve: Serve) -> None:
    toml = WEB + 'max_connections = 2\ntimeouts = { queue = "300ms" }\n'
    async with app("web") as web:
        balancer = await serve(toml, member("n1", str(web.port)))
        await balancer.until_up("n1")
        web.takes = 0.1
        assert {reply.status for reply in await asyncio.gather(*(ask(balancer.port) for _ in range(4)))} == {200}
        assert web.most == 2
        web.takes = 1.0
        found = Counter(reply.status for reply in await asyncio.gather(*(ask(balancer.port) for _ in range(5))))
    assert found == {200: 2, 503: 3}


async def test_a_server_that_is_silent_too_long_is_given_up(serve: Serve) -> None:
    toml = WEB + 'timeouts = { server = "200ms" }\nretries = 0\n'
    async with app("web") as web:
        balancer = await serve(toml, member("n1", str(web.port)))
        await balancer.until_up("n1")
        web.takes = 2.0
        assert (await ask(balancer.port)).status == 504


async def test_a_client_that_asks_too_often_gets_429_and_another_is_served(serve: Serve) -> None:
    async with app("web") as web:
        balancer = await serve(WEB + 'rate_limit = { requests = 5, per = "60s" }\n', member("n1", str(web.port)))
        assert [(await ask(balancer.port)).status for _ in range(7)] == [200] * 5 + [429] * 2
        assert (await ask(balancer.port, source="127.0.0.9")).status == 200
    assert len(web.heads) == 6


async def test_access_lists_let_in_whom_they_name(serve: Serve) -> None:
    toml = WEB + 'allow = ["127.0.0.0/29", "fd00::/8"]\ndeny = "127.0.0.3"\n'
    async with app("web") as web:
        balancer = await serve(toml, member("n1", str(web.port)))
        found = {
            source: (await ask(balancer.port, source=source)).status
            for source in ("127.0.0.1", "127.0.0.3", "127.0.0.7", "127.0.0.8")
        }
    assert found == {"127.0.0.1": 200, "127.0.0.3": 403, "127.0.0.7": 200, "127.0.0.8": 403}


async def test_checks_ask_as_they_are_told_and_judge_by_the_status(serve: Serve) -> None:
    toml = (
        HEAD
        + """
[service.web]
check = { http = "/health?x=1", status = "204", headers = { Host = "in.test", X-Probe = "a b" }, interval = "100ms" }
"""
    )
    async with app("web") as web:
        balancer = await serve(toml, member("n1", str(web.port)))

        async def is_down() -> bool:
            return (await balancer.statuses())["n1"].startswith("DOWN")

        await until(is_down, "200 is not 204")
        web.health = 204
        await balancer.until_up("n1")
        assert "Host: in.test\r\n" in web.health_heads[-1].replace("host:", "Host:")
        assert "x-probe: a b\r\n" in web.health_heads[-1].lower()
        # The node asks its own app in the same way.
        settings = check_settings(balancer.config.service("web"))
        assert (await run_check(settings, HostPort("127.0.0.1", web.port))).detail == "L7OK 204"
        assert "x-probe: a b\r\n" in web.health_heads[-1].lower()
        web.health = 200
        assert (await run_check(settings, HostPort("127.0.0.1", web.port))).detail == "L7STS 200"


# --- TLS


def client_context(*alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


async def shown(port: int, sni: str) -> tuple[str, int]:
    """Return the name and serial number of the certificate that a client is shown."""
    async with asyncio.timeout(DEADLINE):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(), server_hostname=sni)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        await closed(writer)
    found = x509.load_der_x509_certificate(der)
    return str(found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value), found.serial_number


TLS = """
[balancer]
bind = "127.0.0.1:PORT"
tls = { bind = "127.0.0.1:SECURE", certificates = "mine", redirect = true }
[service.web]
check = { http = "/health" }
"""


async def test_tls_picks_by_name_and_plain_requests_are_sent_there(
    serve: Serve, directory: Path, free_port: Callable[[], int]
) -> None:
    secure = free_port()
    (directory / "mine").mkdir()
    (directory / "mine" / "a.test.pem").write_text(certificate("a.test", serial=1))
    pem = certificate("b.test", serial=2)
    key = pem.index("-----BEGIN PRIVATE")
    (directory / "mine" / "b.test.crt").write_text(pem[:key])
    (directory / "mine" / "b.test.key").write_text(pem[key:])
    async with app("web") as web:
        balancer = await serve(TLS.replace("SECURE", str(secure)), member("n1", str(web.port)))
        assert await shown(secure, "a.test") == ("a.test", 1)
        assert await shown(secure, "b.test") == ("b.test", 2)
        assert await shown(secure, "else.test") == ("a.test", 1)
        plain = await ask(balancer.port, "/x?y=1", host="a.test:80")
        assert plain.status == 308
        assert f"location: https://a.test:{secure}/x?y=1" in plain.head.lower()
        reply = await ask(secure, tls=client_context(), sni="a.test")
        assert reply.status == 200
        assert "x-forwarded-proto: https\r\n" in reply.seen.lower()


async def test_a_replaced_certificate_goes_live_without_a_reload_and_a_broken_one_does_not(
    serve: Serve, directory: Path, free_port: Callable[[], int]
) -> None:
    secure = free_port()
    source = directory / "mine"
    source.mkdir()
    (source / "a.test.pem").write_text(certificate("a.test", serial=1))
    balancer = await serve(TLS.replace("SECURE", str(secure)))
    settings = balancing_settings(balancer.config, directory, publish.read_template(None))
    assert settings.render.tls is not None
    copies = settings.render.tls.directory
    pid = await balancer.worker.ask("show info")
    assert await shown(secure, "a.test") == ("a.test", 1)
    (source / "a.test.pem").write_text(certificate("a.test", serial=7))
    found = await balancer.certificates.look(source, copies)
    assert found.refused == ()
    assert await balancer.certificates.load(balancer.worker, copies, process="1") == ("a.test.pem",)
    assert await shown(secure, "a.test") == ("a.test", 7)
    # Asked again, nothing is to be done; a new process is looked at anew.
    assert await balancer.certificates.load(balancer.worker, copies, process="1") == ()
    assert await balancer.certificates.load(balancer.worker, copies, process="2") == ()
    one, other = certificate("a.test", serial=8), certificate("a.test", serial=9)
    cut = one.index("-----BEGIN PRIVATE")
    for text, reason in [
        (one[:cut] + other[other.index("-----BEGIN PRIVATE") :], "its key belongs to another certificate"),
        (one[:cut], "holds no private key"),
        ("rubbish\n", "holds no certificate: BEGIN CERTIFICATE is missing"),
        ("", "holds no certificate: BEGIN CERTIFICATE is missing"),
    ]:
        (source / "a.test.pem").write_text(text)
        found = await balancer.certificates.look(source, copies)
        assert (found.names, found.refused) == (("a.test.pem",), (("a.test", reason),))
        assert await balancer.certificates.load(balancer.worker, copies, process="1") == ()
        assert await shown(secure, "a.test") == ("a.test", 7)
    assert (await balancer.worker.ask("show info")).splitlines()[6:7] == pid.splitlines()[6:7]  # the same process


async def test_a_transaction_that_somebody_left_open_keeps_no_certificate_out(
    serve: Serve, directory: Path, free_port: Callable[[], int]
) -> None:
    secure = free_port()
    source = directory / "mine"
    source.mkdir()
    for name in ("a.test", "b.test"):
        (source / f"{name}.pem").write_text(certificate(name, serial=1))
    balancer = await serve(TLS.replace("SECURE", str(secure)))
    settings = balancing_settings(balancer.config, directory, publish.read_template(None))
    assert settings.render.tls is not None
    copies = settings.render.tls.directory
    left_open = await balancer.worker.ask_with(f"set ssl cert {copies}/a.test.pem", certificate("a.test", serial=5))
    assert "Transaction created" in left_open
    (source / "b.test.pem").write_text(certificate("b.test", serial=7))
    await balancer.certificates.look(source, copies)
    assert await balancer.certificates.load(balancer.worker, copies, process="1") == ("b.test.pem",)
    assert balancer.certificates.unloaded == ()
    assert await shown(secure, "b.test") == ("b.test", 7)
    assert await shown(secure, "a.test") == ("a.test", 1), "what somebody had begun never served"


@dataclass(slots=True)
class Refusing(CommandSocket):
    """A worker that will not take one certificate, and is real in all else."""

    path: Path
    name: str
    refuses: bool = True

    async def ask_with(self, command: str, payload: str) -> str:
        if self.refuses and self.name in command:
            return "unable to load certificate"
        return await CommandSocket.ask_with(self, command, payload)


async def test_a_certificate_that_haproxy_will_not_take_stands_in_no_others_way(
    serve: Serve, directory: Path, free_port: Callable[[], int]
) -> None:
    secure = free_port()
    source = directory / "mine"
    source.mkdir()
    for name in ("a.test", "b.test"):
        (source / f"{name}.pem").write_text(certificate(name, serial=1))
    balancer = await serve(TLS.replace("SECURE", str(secure)))
    settings = balancing_settings(balancer.config, directory, publish.read_template(None))
    assert settings.render.tls is not None
    copies = settings.render.tls.directory
    for name in ("a.test", "b.test"):
        (source / f"{name}.pem").write_text(certificate(name, serial=7))
    await balancer.certificates.look(source, copies)
    worker = Refusing(directory / "haproxy.sock", "a.test.pem")
    assert await balancer.certificates.load(worker, copies, process="1") == ("b.test.pem",)
    assert dict(balancer.certificates.unloaded) == {
        "a.test.pem": "HAProxy would not take it: 'unable to load certificate'"
    }
    assert await shown(secure, "b.test") == ("b.test", 7)
    worker.refuses = False
    assert await balancer.certificates.load(worker, copies, process="1") == ("a.test.pem",), "it is tried again"
    assert not balancer.certificates.unloaded
    assert await shown(secure, "a.test") == ("a.test", 7)


async def test_http2_is_spoken_to_those_who_ask_for_it(
    serve: Serve, directory: Path, free_port: Callable[[], int]
) -> None:
    secure = free_port()
    (directory / "mine").mkdir()
    (directory / "mine" / "a.test.pem").write_text(certificate("a.test"))
    async with app("web") as web:
        balancer = await serve(TLS.replace("SECURE", str(secure)), member("n1", str(web.port)))
        await balancer.until_up("n1")
        async with asyncio.timeout(DEADLINE):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", secure, ssl=client_context("h2", "http/1.1"), server_hostname="a.test"
            )
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            # GET https a.test / by HPACK's static table; the last header is the authority, literally.
            headers = b"\x82\x87\x84\x41\x06a.test"
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(1, 0x5, 1, headers))
            while True:
                (size,) = struct.unpack("!I", b"\0" + (await reader.readexactly(9))[:3])
                payload = await reader.readexactly(size)
                if payload[:1] == b"\x88":  # :status 200
                    break
            await closed(writer)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes((kind, flags)) + struct.pack("!I", stream) + payload


@pytest.mark.parametrize(("wanted", "status"), [("in.test", 200), ("other.test", 503)])
async def test_servers_are_spoken_to_by_tls_and_their_certificates_verified(
    serve: Serve, directory: Path, wanted: str, status: int
) -> None:
    pem = directory / "server.pem"
    pem.write_text(certificate("in.test"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    toml = WEB + f'tls = {{ ca = "server.pem", name = "{wanted}" }}\n'
    async with app("web", tls=context) as web:
        balancer = await serve(toml, member("n1", str(web.port)))
        if status == 200:
            await balancer.until_up("n1")
        else:

            async def is_down() -> bool:
                return (await balancer.statuses())["n1"].startswith("DOWN")

            await until(is_down, "its certificate has another name")
        assert (await ask(balancer.port)).status == status
        # The node's own check asks whether the app is well, not who it is.
        settings = check_settings(balancer.config.service("web"))
        assert (await run_check(settings, HostPort("127.0.0.1", web.port))).detail == "L7OK 200"


# --- beyond HTTP, and what is told


async def test_a_tcp_service_passes_bytes_on_at_an_address_of_its_own(
    serve: Serve, free_port: Callable[[], int]
) -> None:
    own = free_port()
    toml = (
        HEAD
        + f"""
[service.web]
mode = "tcp"
bind = "127.0.0.1:{own}"
check = {{ tcp = true, interval = "100ms" }}
deny = ["127.0.0.5"]
"""
    )

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(100):
                writer.write(data.upper())
        await closed(writer)

    listener = await asyncio.start_server(shout, "127.0.0.1", 0)
    balancer = await serve(toml, member("n1", str(listener.sockets[0].getsockname()[1])))
    await balancer.until_up("n1")
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection("127.0.0.1", own)
        writer.write(b"\x00not http\n")
        assert await reader.readline() == b"\x00NOT HTTP\n"
        await closed(writer)
        reader, writer = await asyncio.open_connection("127.0.0.1", own, local_addr=("127.0.0.5", 0))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await closed(writer)
    listener.close()
    assert (await ask(balancer.port)).status == 404


@pytest.mark.parametrize(("version", "begins"), [("v1", b"PROXY TCP4 203.0.113.7 "), ("v2", b"\r\n\r\n\x00\r\nQUIT\n")])
async def test_the_proxy_protocol_is_taken_and_passed_on(serve: Serve, version: str, begins: bytes) -> None:
    toml = WEB.replace("[service", "accept_proxy = true\n[service", 1) + f'send_proxy = "{version}"\n'
    async with app("web", wants_preamble=True) as web:
        balancer = await serve(toml, member("n1", str(web.port)))
        await balancer.until_up("n1")
        web.preambles.clear()
        reply = await ask(balancer.port, preamble=b"PROXY TCP4 203.0.113.7 127.0.0.1 1234 80\r\n")
        assert reply.status == 200
        assert "x-forwarded-for: 203.0.113.7\r\n" in reply.seen.lower()
        assert any(preamble.startswith(begins) for preamble in web.preambles)
        assert any(bytes((203, 0, 113, 7)) in entry or b"203.0.113.7" in entry for entry in web.preambles)
        assert (await ask(balancer.port)).status == 0  # nobody speaks to it without
        settings = check_settings(balancer.config.service("web"))
        assert (await run_check(settings, HostPort("127.0.0.1", web.port))).detail == "L7OK 200"


async def test_requests_carry_an_id_and_the_clients_address(serve: Serve) -> None:
    toml = WEB.replace("[service", "request_id = true\n[service", 1)
    async with app("web") as web:
        balancer = await serve(toml, member("n1", str(web.port)))
        seen = [(await ask(balancer.port)).seen.lower() for _ in range(2)]
    ids = {line.partition(": ")[2] for head in seen for line in head.split("\r\n") if line.startswith("x-request-id")}
    assert len(ids) == 2
    assert all("x-forwarded-for: 127.0.0.1\r\n" in head and "x-forwarded-proto: http\r\n" in head for head in seen)


async def test_nothing_is_told_where_it_is_not_wanted(serve: Serve) -> None:
    toml = WEB.replace("[service", "forwarded_for = false\n[service", 1)
    async with app("web") as web:
        balancer = await serve(toml, member("n1", str(web.port)))
        assert "x-forwarded" not in (await ask(balancer.port)).seen.lower()


async def test_error_pages_are_the_operators_and_a_service_has_its_own(serve: Serve, directory: Path) -> None:
    (directory / "down.html").write_text("<p>Back soon</p>")
    (directory / "api.json").write_text('{"error": "down"}')
    toml = (
        HEAD
        + """error_pages = { 503 = "down.html" }
[service.web]
[service.api]
route = { path = "/api" }
error_pages = { 503 = "api.json" }
"""
    )
    balancer = await serve(toml)
    page, api = await ask(balancer.port), await ask(balancer.port, "/api")
    assert (page.status, page.body) == (503, "<p>Back soon</p>")
    assert "content-type: text/html" in page.head.lower()
    assert (api.status, api.body) == (503, '{"error": "down"}')
    assert "content-type: application/json" in api.head.lower()


async def test_lines_of_the_operators_own_come_where_they_belong(serve: Serve, free_port: Callable[[], int]) -> None:
    extra = free_port()
    toml = (
        WEB
        + f"""
[service.web.raw]
backend = "http-response set-header X-Served-By %s"
server = "pool-max-conn 3"
[balancer.raw]
global = "description mine"
defaults = "option http-no-delay"
frontend = '''
  # a remark
  http-request set-header X-Mine yes
'''
sections = '''
frontend extra
    bind 127.0.0.1:{extra}
    http-request return status 200 content-type text/plain string hello
'''
"""
    )
    async with app("web") as web:
        balancer = await serve(toml, member("n1", str(web.port)))
        reply = await ask(balancer.port)
        assert "x-served-by: n1" in reply.head.lower()
        assert "x-mine: yes\r\n" in reply.seen.lower()
        assert "description: mine" in await balancer.worker.ask("show info")
        assert (await ask(extra)).body == "hello"


@pytest.mark.parametrize("word", sorted(SECTIONS - {"crt-store", "log-profile", "traces", "acme"}))
def test_what_we_take_for_a_section_is_one_to_haproxy(haproxy_program: Path, word: str) -> None:
    def said(word: str) -> str:
        done = subprocess.run(
            [haproxy_program, "-c", "-f", "/dev/stdin"], input=f"{word} x\n", capture_output=True, text=True,
            timeout=DEADLINE, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    version = tuple(map(int, re.findall(r"\d+", conftest.tested_haproxy().version)[:2]))
    if word == "program" and version >= (3, 3):
        pytest.skip("HAProxy has no section `program` since 3.3")
    assert "out of section" in said("no-such-section")
    assert "out of section" not in said(word)


# --- several balancers


async def test_balancers_count_a_clients_requests_together(serve: Serve, free_port: Callable[[], int]) -> None:
    toml = WEB + 'rate_limit = { requests = 6, per = "60s" }\n'
    peers = tuple((name, HostPort("127.0.0.1", free_port())) for name in ("lb-1", "lb-2"))
    async with app("web") as web:
        one, two = [await serve(toml, member("n1", str(web.port)), node=name, peers=peers) for name, _ in peers]

        async def know_each_other() -> bool:
            return all("last_status=ESTA" in said for said in [
                await one.worker.ask("show peers"), await two.worker.ask("show peers")
            ])  # fmt: skip

        await until(know_each_other, "the balancers know each other")
        assert [(await ask(one.port)).status for _ in range(6)] == [200] * 6

        async def has_heard() -> bool:
            return "http_req_rate(60000)=6" in await two.worker.ask("show table web")

        await until(has_heard, "the other has heard of these six")
        assert (await ask(two.port)).status == 429
