"""A real HAProxy reads what we render, and does with requests what the template promises."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from rumor.atomic_file import write_atomically
from rumor.haproxy.binds import new_binds
from rumor.model import Cause, Rotation, Seconds, Server, Service, Table
from rumor.names import Endpoint, HostPort, MemberName, ServiceName
from rumor.render import publish
from rumor.render.settings import BackendSettings, BalancerTimeouts, CheckRule, RenderSettings, Route
from rumor.render.template import render

WEB, API = ServiceName("web"), ServiceName("api")
CAUSE = Cause("test", "a test")
DEADLINE = 10.0
has_ipv6 = Path("/proc/net/if_inet6").exists() and "lo" in Path("/proc/net/if_inet6").read_text()


@pytest.fixture
def run_directory() -> Iterator[Path]:
    # Not tmp_path: a UNIX socket's path may have 108 bytes at most.
    path = Path(tempfile.mkdtemp(prefix="rumor-"))
    yield path
    shutil.rmtree(path)


def backend(service: ServiceName = WEB, *routes: Route) -> BackendSettings:
    return BackendSettings(
        service=service,
        routes=routes or (Route(),),
        check=CheckRule("/health", Seconds(0.2), Seconds(0.2), 1, 2),
        balance="roundrobin",
        drain=Seconds(5.0),
        retries=3,
        repeat_post=False,
        sticky_key="",
    )


def settings(run_directory: Path, *backends: BackendSettings, bind: Endpoint | None = None) -> RenderSettings:
    return RenderSettings(
        binds=(bind or Endpoint("127.0.0.1", 8080),),
        stats=None,
        run_directory=run_directory,
        maxconn=500,
        timeouts=BalancerTimeouts(server=Seconds(5.0)),
        backends=backends or (backend(),),
        template_text=publish.read_template(None),
    )


def server(name: str, address: HostPort, rotation: Rotation = Rotation.READY, weight: int = 100) -> Server:
    return Server(MemberName(name), address, weight, rotation)


def table(*servers: Server, service: ServiceName = WEB) -> Table:
    return Table((Service(service, servers),))


# --- what HAProxy says of the text

V4, V6 = HostPort("10.0.0.7", 3000), HostPort("fd00::7", 3000)
FULL = Table(
    (
        Service(API, (server("api-1", V6), server("api-2", V4, Rotation.MAINT))),
        Service(WEB, (server("web-1", V4), server("web-2", V6, Rotation.DRAIN), server("web-3", V4, weight=0))),
    )
)
VARIANTS: dict[str, tuple[RenderSettings, Table]] = {}


def variant(name: str, wanted: RenderSettings, servers: Table = FULL) -> None:
    VARIANTS[name] = (wanted, servers)


RUN = Path("/tmp")
for algorithm in ("roundrobin", "leastconn", "first", "random", "source", "uri"):
    variant(f"balance {algorithm}", settings(RUN, replace(backend(), balance=algorithm)))
variant("no server at all", settings(RUN, backend(WEB), backend(API, Route("*", "/api"))), Table())
variant("sticky", settings(RUN, replace(backend(ServiceName("my.web-app_1")), sticky_key="shop-web")))
variant("two services, many routes", settings(
    RUN,
    backend(WEB, Route("*", "/"), Route("www.example.org", "/"), Route("xn--bcher-kva.example", "/a/b.c~d")),
    backend(API, Route("*", "/api/"), Route("api.example.org", "/v1%20x")),
))  # fmt: skip
variant("no route for all", settings(RUN, backend(WEB, Route("*", "/app"))))
variant("no route at all", settings(RUN, replace(backend(WEB), routes=())))
variant("tcp check", settings(RUN, replace(backend(), check=CheckRule("", Seconds(1), Seconds(0.5), 2, 3))))
variant("slow check", settings(RUN, replace(backend(), check=CheckRule("/", Seconds(3600), Seconds(60), 9, 9))))
variant("no retries", settings(RUN, replace(backend(), retries=0)))
variant("repeat post", settings(RUN, replace(backend(), repeat_post=True)))
variant("stats", replace(settings(RUN), stats=Endpoint("127.0.0.1", 1936)))
variant("ipv6", replace(settings(RUN), binds=(Endpoint("::1", 8080), Endpoint("", 8080)), stats=Endpoint("::1", 1936)))
variant("long drain", settings(RUN, replace(backend(), drain=Seconds(24 * 3600))))
variant("path with a space", settings(Path("/tmp/with a spáce")))
variant("a thousand servers", settings(RUN), table(
    *(server(f"web-{number}", HostPort(f"10.1.{number // 250}.{number % 250 + 1}", 3000)) for number in range(1000))
))  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_haproxy_takes_it_without_a_warning(name: str, haproxy_program: Path) -> None:
    wanted, servers = VARIANTS[name]
    text = render(servers, wanted, CAUSE).text
    done = subprocess.run(
        [haproxy_program, "-dW", "-c", "-f", "/dev/stdin"], input=text, capture_output=True, text=True, timeout=20
    )  # -dW: a warning is an error
    assert done.returncode == 0, done.stderr


async def test_a_text_that_haproxy_refuses_comes_back_with_its_words(
    run_directory: Path, haproxy_program: Path
) -> None:
    text = render(table(server("web-1", V4)), settings(run_directory), CAUSE).text
    assert await publish.check_haproxy(haproxy_program, text) == ""
    broken = text.replace("mode http", "mode htp")
    words = await publish.check_haproxy(haproxy_program, broken)
    line = broken[: broken.index("mode htp")].count("\n") + 1
    assert f"[ALERT] config : parsing [haproxy.cfg:{line}] : unknown proxy mode 'htp'" in words
    assert "/tmp" not in words


async def test_a_text_that_names_a_missing_file_is_refused(run_directory: Path, haproxy_program: Path) -> None:
    text = render(Table(), settings(run_directory), CAUSE).text
    words = await publish.check_haproxy(
        haproxy_program, text.replace("defaults", "defaults\n    errorfile 503 /no/file")
    )
    assert "/no/file" in words


# --- what HAProxy does with requests


@dataclass(slots=True)
class App:
    """A tiny web server that counts what reaches it and can be told to misbehave."""

    name: str
    address: HostPort = field(default_factory=lambda: HostPort("127.0.0.1", 1))
    requests: list[str] = field(default_factory=list)
    drops: set[str] = field(default_factory=set)
    """Paths whose requests are read and then never answered: the connection just ends."""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                async with asyncio.timeout(DEADLINE):
                    while head := await reader.readuntil(b"\r\n\r\n"):
                        method, path, _ = head.decode().split(" ", 2)
                        if path == "/health":
                            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                            continue
                        self.requests.append(f"{method} {path}")
                        if path in self.drops:
                            break
                        body = self.name.encode()
                        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                        await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def app(name: str, host: str = "127.0.0.1") -> AsyncIterator[App]:
    it = App(name)
    listener = await asyncio.start_server(it.answer, host, 0)
    it.address = HostPort(host, listener.sockets[0].getsockname()[1])
    try:
        yield it
    finally:
        listener.close()


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    head: str
    body: str

    @property
    def cookie(self) -> str:
        for line in self.head.split("\r\n"):
            if line.lower().startswith("set-cookie: "):
                return line.partition(": ")[2].partition(";")[0]
        return ""


async def ask(
    port: int, path: str = "/", *, method: str = "GET", host: str = "shop.test", cookie: str = "", at: str = "127.0.0.1"
) -> Reply:
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection(at, port)
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n"
        writer.write((head + (f"Cookie: {cookie}\r\n" if cookie else "") + "\r\n").encode())
        raw = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    if not raw:
        return Reply(0, "", "")  # closed without a word
    head, _, body = raw.partition("\r\n\r\n")
    return Reply(int(head.split(" ")[1]), head, body)


async def runtime(run_directory: Path, command: str) -> str:
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_unix_connection(run_directory / "haproxy.sock")
        writer.write(f"{command}\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    return text


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(DEADLINE):
            while not await condition():  # noqa: ASYNC110 - HAProxy tells nobody of its changes
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {DEADLINE:g} s: {what}")


async def statuses(run_directory: Path, service: ServiceName = WEB) -> dict[str, str]:
    rows = [line.split(",") for line in (await runtime(run_directory, f"show stat {service} 4 -1")).splitlines()]
    column = rows[0].index("status")
    return {row[1]: row[column] for row in rows[1:] if len(row) > column}


Start = Callable[[RenderSettings, Table], Awaitable[None]]


@pytest.fixture
async def start(run_directory: Path, haproxy_program: Path) -> AsyncIterator[Start]:
    """Return a function that runs HAProxy, as the supervisor does, until the test ends."""
    async with AsyncExitStack() as stack:

        async def begin(wanted: RenderSettings, servers: Table) -> None:
            text = render(servers, wanted, CAUSE).text
            assert publish.test_bind(new_binds("", text)) == ""
            write_atomically(run_directory / "haproxy.cfg", text)
            process = await asyncio.create_subprocess_exec(
                haproxy_program, "-W", "-S", f"{run_directory}/master.sock,mode,600",
                "-f", run_directory / "haproxy.cfg",
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            stack.push_async_callback(end, process)

            async def answers() -> bool:
                assert process.returncode is None, "HAProxy did not start"
                with contextlib.suppress(OSError):
                    return "Uptime" in await runtime(run_directory, "show info")
                return False

            await until(answers, "HAProxy answers on its socket")

        yield begin


async def end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    try:
        async with asyncio.timeout(DEADLINE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@pytest.fixture
def port(free_port: Callable[[], int]) -> int:
    return free_port()


def bound(run_directory: Path, port: int, *backends: BackendSettings) -> RenderSettings:
    return settings(run_directory, *backends, bind=Endpoint("127.0.0.1", port))


async def test_a_service_without_a_server_answers_503_and_an_unknown_route_404(
    start: Start, run_directory: Path, port: int
) -> None:
    await start(bound(run_directory, port, backend(WEB, Route("shop.test", "/app"))), Table())
    assert (await ask(port, "/app")).status == 503
    assert (await ask(port, "/")).status == 404
    assert (await ask(port, "/app", host="other.test")).status == 404


async def test_requests_go_where_host_and_path_say(start: Start, run_directory: Path, port: int) -> None:
    async with app("web") as web, app("api") as api:
        routes = (Route("*", "/api"), Route("api.test", "/"))
        await start(
            bound(run_directory, port, backend(WEB), backend(API, *routes)),
            Table((Service(API, (server("api-1", api.address),)), Service(WEB, (server("web-1", web.address),)))),
        )
        for path, host, wanted in [
            ("/", "shop.test", "web"),
            ("/api", "shop.test", "api"),
            ("/api/", "shop.test", "api"),
            ("/api/v1?x=1", "shop.test", "api"),
            ("/apix", "shop.test", "web"),
            ("/x/api", "shop.test", "web"),
            ("/", "api.test", "api"),
            ("/", "API.test:8080", "api"),
            ("/", "not-api.test", "web"),
        ]:
            reply = await ask(port, path, host=host)
            assert (reply.status, reply.body) == (200, wanted), f"{host}{path}"


async def test_the_longer_path_and_the_named_host_win(start: Start, run_directory: Path, port: int) -> None:
    async with app("general") as general, app("particular") as particular:
        await start(
            bound(
                run_directory,
                port,
                backend(WEB, Route("*", "/a"), Route("shop.test", "/")),
                backend(API, Route("*", "/a/b"), Route("shop.test", "/z")),
            ),
            Table((
                Service(API, (server("api-1", particular.address),)),
                Service(WEB, (server("web-1", general.address),)),
            )),
        )  # fmt: skip
        for path, host, wanted in [
            ("/a/x", "x.test", "general"),
            ("/a/b/c", "x.test", "particular"),
            ("/a/b", "shop.test", "general"),  # the named host goes before any host, whatever the path
            ("/z/1", "shop.test", "particular"),
        ]:
            assert (await ask(port, path, host=host)).body == wanted, f"{host}{path}"


async def test_drained_and_shut_off_servers_get_no_new_request(start: Start, run_directory: Path, port: int) -> None:
    async with app("ready") as ready, app("drain") as drain, app("maint") as maint:
        await start(
            bound(run_directory, port),
            table(
                server("web-1", ready.address),
                server("web-2", drain.address, Rotation.DRAIN),
                server("web-3", maint.address, Rotation.MAINT),
            ),
        )
        assert {(await ask(port)).body for _ in range(20)} == {"ready"}
        assert (drain.requests, maint.requests) == ([], [])
        assert (await statuses(run_directory))["web-3"] == "MAINT"


async def test_a_sticky_client_keeps_its_server_until_that_is_shut_off(
    start: Start, run_directory: Path, port: int
) -> None:
    async with app("one") as one, app("two") as two:
        await start(
            bound(run_directory, port, replace(backend(), sticky_key="shop-web")),
            table(server("web-1", one.address), server("web-2", two.address)),
        )
        first = await ask(port)
        assert first.cookie.startswith("RUMOR_web=")
        assert {(await ask(port, cookie=first.cookie)).body for _ in range(6)} == {first.body}
        mine, other = ("web-1", "two") if first.body == "one" else ("web-2", "one")
        await runtime(run_directory, f"set server web/{mine} state drain")
        assert (await ask(port, cookie=first.cookie)).body == first.body
        await runtime(run_directory, f"set server web/{mine} state maint")
        moved = await ask(port, cookie=first.cookie)
        assert (moved.status, moved.body) == (200, other)
        assert moved.cookie not in ("", first.cookie)


async def test_after_a_server_dies_only_the_first_request_meets_it(
    start: Start, run_directory: Path, port: int
) -> None:
    slow = replace(backend(), check=CheckRule("/health", Seconds(60), Seconds(1), 1, 2))
    async with app("alive") as alive:
        dead = HostPort("127.0.0.2", alive.address.port)  # nobody listens there
        await start(bound(run_directory, port, slow), table(server("web-1", alive.address), server("web-2", dead)))
        # The second server's first check is half a minute away, so HAProxy learns of it from the requests.
        assert [(await ask(port, method="POST")).status for _ in range(8)] == [200] * 8
        assert (await statuses(run_directory))["web-2"].startswith("DOWN")
        rows = (await runtime(run_directory, "show stat web 4 -1")).splitlines()
        column = rows[0].split(",").index("econ")
        failed = {row.split(",")[1]: row.split(",")[column] for row in rows[1:] if row}
        assert failed["web-2"] in ("0", "1")


async def test_no_retries_lets_a_request_fail_on_a_dead_server(start: Start, run_directory: Path, port: int) -> None:
    never = replace(backend(), retries=0, check=CheckRule("/health", Seconds(60), Seconds(1), 1, 2))
    async with app("alive") as alive:
        dead = HostPort("127.0.0.2", alive.address.port)
        await start(bound(run_directory, port, never), table(server("web-1", alive.address), server("web-2", dead)))
        found = [(await ask(port)).status for _ in range(8)]
        assert 503 in found
        assert 200 in found


@pytest.mark.parametrize("repeat_post", [False, True])
async def test_a_post_that_reached_a_server_is_repeated_only_if_the_service_says_so(
    start: Start, run_directory: Path, port: int, repeat_post: bool
) -> None:
    async with app("one") as one, app("two") as two:
        one.drops = two.drops = {"/lost"}
        await start(
            bound(run_directory, port, replace(backend(), repeat_post=repeat_post)),
            table(server("web-1", one.address), server("web-2", two.address)),
        )
        for method, repeats in (("POST", repeat_post), ("PATCH", repeat_post), ("GET", True), ("PUT", True)):
            before = len(one.requests) + len(two.requests)
            reply = await ask(port, "/lost", method=method)
            tries = len(one.requests) + len(two.requests) - before
            assert reply.status in (0, 502, 503)
            assert (tries > 1) is repeats, f"{method} was tried {tries} times"

            async def all_up() -> bool:
                return set((await statuses(run_directory)).values()) == {"UP"}

            await until(all_up, "both servers are up again")


async def test_stats_and_metrics_are_at_their_own_address(
    start: Start, run_directory: Path, port: int, free_port: Callable[[], int]
) -> None:
    stats = free_port()
    async with app("web") as web:
        await start(
            replace(bound(run_directory, port), stats=Endpoint("127.0.0.1", stats)),
            table(server("web-1", web.address)),
        )
        page = await ask(stats, "/")
        assert page.status == 200
        assert "web-1" in page.body
        assert "web,web-1," in (await ask(stats, "/;csv")).body
        assert 'haproxy_server_status{proxy="web",server="web-1"' in (await ask(stats, "/metrics")).body
        assert (await ask(port, "/metrics")).body == "web"


async def test_the_running_process_knows_its_revision(start: Start, run_directory: Path, port: int) -> None:
    wanted = bound(run_directory, port)
    await start(wanted, Table())
    assert render(Table(), wanted, CAUSE).id in await runtime(run_directory, "get var proc.rumor_revision")


@pytest.mark.skipif(not has_ipv6, reason="this machine has no IPv6")
async def test_ipv6_works_on_both_sides(start: Start, run_directory: Path, port: int) -> None:
    async with app("six", "::1") as six:
        await start(settings(run_directory, bind=Endpoint("::1", port)), table(server("web-1", six.address)))
        assert (await ask(port, at="::1")).body == "six"


async def test_a_port_that_is_taken_passes_the_check_and_fails_the_test_bind(
    run_directory: Path, haproxy_program: Path
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = Endpoint("127.0.0.1", holder.getsockname()[1])
        text = render(Table(), settings(run_directory, bind=taken), CAUSE).text
        assert await publish.check_haproxy(haproxy_program, text) == ""
        assert publish.test_bind(new_binds("", text)) == f"cannot bind {taken}: Address already in use"
        assert new_binds(text, text) == ()
