"""The applier brings a real HAProxy to a revision under live traffic, and keeps it there."""

import asyncio
import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from rumor.atomic_file import write_atomically
from rumor.checks.outcome import CheckKind, CheckSettings
from rumor.checks.sweep import Question, sweep
from rumor.errors import Bug, ConfigError, Unreachable
from rumor.haproxy.apply import Applier, ApplierSettings, ApplyReport, Probe
from rumor.haproxy.lines import commands
from rumor.haproxy.log_socket import listen_to_log
from rumor.haproxy.observe import Observed
from rumor.haproxy.process import find_master
from rumor.haproxy.runtime import CommandSocket
from rumor.haproxy.steps import ReadyServer
from rumor.model import Cause, CheckResult, Revision, Rotation, Seconds, Server, ServerObservation, Service, Table
from rumor.names import Endpoint, HostPort, MemberName, ServiceName, parse_ip
from rumor.render import publish
from rumor.render.settings import BackendSettings, BalancerTimeouts, CheckRule, Raw, RenderSettings, Route
from rumor.render.template import render

WEB = ServiceName("web")
DEADLINE = 15.0
has_ipv6 = Path("/proc/net/if_inet6").exists() and "lo" in Path("/proc/net/if_inet6").read_text()


# --- apps, clients


@dataclass(slots=True)
class App:
    """A tiny web server; requests for `/slow` wait until they are let go."""

    address: HostPort = field(default_factory=lambda: HostPort("127.0.0.1", 1))
    requests: int = 0
    slow_requests: int = 0
    is_well: bool = True
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(60):
                    while head := await reader.readuntil(b"\r\n\r\n"):
                        writer.write(await self._respond(head.split(b" ", 2)[1]))
                        await writer.drain()
        finally:
            writer.close()

    async def _respond(self, path: bytes) -> bytes:
        status = b"200 OK" if self.is_well else b"500 Unwell"
        if path != b"/health":
            self.requests += 1
        if path == b"/slow":
            self.slow_requests += 1
            await self.let_go.wait()
        body = str(self.address.port).encode()
        return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@asynccontextmanager
async def serving(count: int = 1, *, host: str = "127.0.0.1") -> AsyncIterator[list[App]]:
    apps: list[App] = []
    async with AsyncExitStack() as stack:
        for _ in range(count):
            app = App()
            listener = await asyncio.start_server(app.answer, host, 0)
            app.address = HostPort(host, listener.sockets[0].getsockname()[1])
            stack.callback(listener.close)
            stack.callback(app.let_go.set)
            apps.append(app)
        yield apps


async def probe_health(servers: Sequence[tuple[ServiceName, HostPort]], on_well: Callable[[int], None]) -> None:
    check = CheckSettings(CheckKind.HTTP, "/health", timeout=Seconds(0.3))
    await sweep([Question(check, address) for _, address in servers], on_well)


async def never_well(servers: Sequence[tuple[ServiceName, HostPort]], on_well: Callable[[int], None]) -> None:
    """Hear nothing good of any server."""


async def ask(port: int, path: str = "/", *, at: str = "127.0.0.1") -> tuple[int, str]:
    """Return status and body; status 0 where the connection ended without a word."""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection(at, port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        finally:
            writer.close()
    return (int(head.split(" ")[1]), body) if head else (0, "")


@dataclass(slots=True)
class Load:
    """Clients that never retry: half on one connection for all requests, half on a new one for each."""

    port: int
    sent: int = 0
    failures: list[str] = field(default_factory=list)
    is_over: bool = False

    async def ask_anew(self) -> None:
        while not self.is_over:
            await self._note(self.ask_once())
            await asyncio.sleep(0.004)

    async def ask_once(self) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            return await self._exchange(reader, writer)
        finally:
            writer.close()

    async def ask_on(self) -> None:
        """Keep one connection; open another only where HAProxy has said that it closes this one."""
        while not self.is_over:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                while not self.is_over:
                    head = await self._note(self._exchange(reader, writer))
                    if not head or b"connection: close" in head.lower():
                        break
                    await asyncio.sleep(0.004)
            finally:
                writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        return head

    async def _note(self, exchange: Awaitable[bytes]) -> bytes:
        self.sent += 1
        try:
            async with asyncio.timeout(DEADLINE):
                head = await exchange
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.failures.append(repr(error))
            return b""
        if b" 200 " not in head.split(b"\r\n")[0]:
            self.failures.append(head.split(b"\r\n")[0].decode())
        return head


@asynccontextmanager
async def load(port: int) -> AsyncIterator[Load]:
    it = Load(port)
    async with asyncio.TaskGroup() as group:
        for client in (it.ask_anew(), it.ask_anew(), it.ask_on(), it.ask_on()):
            group.create_task(client)
        try:
            await until(lambda: it.sent > 40, "the load runs")
            yield it
            more = it.sent + 40
            await until(lambda: it.sent > more, "the load runs on")
        finally:
            it.is_over = True


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                answer = condition()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"not within {DEADLINE:g} s: {what}")


# --- HAProxy and its applier


@pytest.fixture
def run_directory() -> Iterator[Path]:
    # Not tmp_path: a UNIX socket's path may have 108 bytes at most.
    path = Path(tempfile.mkdtemp(prefix="rumor-"))
    yield path
    shutil.rmtree(path)


@dataclass(slots=True)
class Stage:
    """One real HAProxy and whoever steers it."""

    directory: Path
    program: Path
    port: int
    rules: RenderSettings
    revisions: dict[str, str] = field(default_factory=dict)
    probe: Probe = probe_health
    applier: Applier = field(init=False)
    process: asyncio.subprocess.Process | None = None

    def __post_init__(self) -> None:
        self.replace_applier()

    def replace_applier(self, *, connect: Callable[[Path], CommandSocket] = CommandSocket) -> None:
        async def text_of(revision: str) -> str | None:
            return self.revisions.get(revision)

        self.applier = Applier(
            ApplierSettings(self.config, self.directory, {WEB: self.rules.backends[0].drain}),
            text_of=text_of,
            write=write_atomically,
            probe=self.probe,
            connect=connect,
        )

    @property
    def config(self) -> Path:
        return self.directory / "haproxy.cfg"

    def revision(self, *servers: Server, **changes: object) -> Revision:
        backend = self.rules.backends[0]
        rules = self.rules
        if changes:
            rules = replace(rules, backends=(replace(backend, **changes),))  # type: ignore[arg-type] # a test's liberty
        made = render(Table((Service(WEB, servers),)), rules, Cause("test", "a test"))
        self.revisions[made.id] = made.text
        return made

    async def start(self, revision: Revision) -> None:
        if not self.config.exists():
            write_atomically(self.config, revision.text)
        self.process = await asyncio.create_subprocess_exec(
            self.program, "-W", "-S", f"{self.directory}/master.sock,mode,600", "-f", self.config,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

        async def answers() -> bool:
            assert self.process is not None
            assert self.process.returncode is None, "HAProxy did not start"
            return await self.applier.observe() is not None

        await until(answers, "HAProxy answers")

    async def end(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            async with asyncio.timeout(DEADLINE):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

    async def reach(self, revision: Revision) -> list[ApplyReport]:
        """Apply as the agent does, until all is as wanted."""
        reports: list[ApplyReport] = []
        async with asyncio.timeout(DEADLINE):
            while True:
                reports.append(await self.applier.apply(revision))
                if reports[-1].is_converged or reports[-1].refused:
                    return reports
                await asyncio.sleep(min(1.0, reports[-1].wake_in or 0.02))

    async def look(self) -> Observed:
        observed = await self.applier.observe()
        assert observed is not None
        return observed

    async def server(self, name: str) -> ServerObservation | None:
        return next((server for server in (await self.look()).servers if server.server == name), None)

    async def say(self, *lines: str) -> str:
        return await CommandSocket(self.directory / "haproxy.sock").ask(*lines)


@pytest.fixture
async def stage(run_directory: Path, haproxy_program: Path, free_port: Callable[[], int]) -> AsyncIterator[Stage]:
    port = free_port()
    backend = BackendSettings(
        service=WEB,
        routes=(Route(),),
        check=CheckRule("/health", Seconds(0.3), Seconds(0.3), 2, 2),
        balance="roundrobin",
        drain=Seconds(5.0),
        retries=3,
        repeat_post=False,
        sticky_key="",
    )
    rules = RenderSettings(
        binds=(Endpoint("127.0.0.1", port),),
        stats=None,
        run_directory=run_directory,
        maxconn=500,
        timeouts=BalancerTimeouts(server=Seconds(10.0)),
        backends=(backend,),
        template_text=publish.read_template(None),
    )
    it = Stage(run_directory, haproxy_program, port, rules)
    yield it
    await it.end()


def server(number: int, app: App, rotation: Rotation = Rotation.READY, weight: int = 100) -> Server:
    return Server(MemberName(f"web-{number}"), app.address, weight, rotation)


def pids(observed: Observed) -> tuple[int, int | None]:
    return observed.processes.master_pid, observed.processes.worker_pid


# --- servers come and go


async def test_servers_come_drain_return_and_go_under_load_without_a_failed_request(stage: Stage) -> None:
    async with serving(3) as (one, two, three):
        first = stage.revision(server(1, one))
        await stage.start(first)
        await stage.reach(first)
        before = pids(await stage.look())
        async with load(stage.port) as traffic:
            for servers in (
                (server(1, one), server(2, two), server(3, three)),
                (server(1, one, Rotation.DRAIN), server(2, two, weight=10), server(3, three)),
                (server(1, one), server(2, two, Rotation.MAINT), server(3, three, weight=256)),
                (server(1, one), server(2, two, Rotation.DRAIN), server(3, three)),
                (server(1, one), server(2, two)),
                (server(2, two), server(3, three)),
            ):
                wanted = stage.revision(*servers)
                reports = await stage.reach(wanted)
                assert {report.how for report in reports} <= {"runtime", "none"}
                observed = await stage.look()
                assert observed.revision == wanted.id
                assert {(it.server, it.address, it.rotation, it.weight) for it in observed.servers} == {
                    (it.name, it.address, it.rotation, it.weight) for it in servers
                }
                assert stage.config.read_text() == wanted.text
        assert traffic.failures == []
        assert three.requests > 0
        assert pids(await stage.look()) == before


async def test_a_new_server_gets_requests_at_once_if_it_is_well(stage: Stage) -> None:
    slow_checks = {"check": CheckRule("/health", Seconds(60), Seconds(0.3), 2, 2)}
    async with serving(2) as (one, two):
        await stage.start(stage.revision(server(1, one), **slow_checks))
        await stage.reach(stage.revision(server(1, one), **slow_checks))
        wanted = stage.revision(server(1, one), server(2, two), **slow_checks)
        report = await stage.applier.apply(wanted)
        assert report.is_converged, "one call is enough: HAProxy's own first check would be a minute away"
        assert {(await ask(stage.port))[1] for _ in range(4)} == {str(one.address.port), str(two.address.port)}


async def test_a_new_server_gets_no_request_before_it_is_well(stage: Stage, free_port: Callable[[], int]) -> None:
    absent = HostPort("127.0.0.1", free_port())
    async with serving() as (one,):
        fragile = {"retries": 0}
        await stage.start(stage.revision(server(1, one), **fragile))
        wanted = stage.revision(server(1, one), Server(MemberName("web-2"), absent, 100, Rotation.READY), **fragile)
        async with load(stage.port) as traffic:
            await stage.applier.apply(wanted)

            async def is_down() -> bool:
                await stage.applier.apply(wanted)
                seen = await stage.server("web-2")
                return seen is not None and seen.status == "DOWN" and seen.rotation is Rotation.READY

            await until(is_down, "HAProxy holds it down")
        assert traffic.failures == []


async def test_without_the_check_before_admission_requests_are_lost(stage: Stage, free_port: Callable[[], int]) -> None:
    """The guard of the test above, taken away."""
    absent = HostPort("127.0.0.1", free_port())
    async with serving() as (one,):
        await stage.start(stage.revision(server(1, one), retries=0))
        async with load(stage.port) as traffic:
            await stage.say(f"add server web/web-2 {absent} weight 100 check inter 300ms")
            await stage.say("enable health web/web-2", *commands(ReadyServer((WEB, MemberName("web-2")))))
            await until(lambda: bool(traffic.failures), "a request fails")


async def test_a_server_back_from_maint_is_not_trusted_by_its_old_check(stage: Stage) -> None:
    stage.probe = never_well
    stage.replace_applier()
    async with serving(2) as (one, two):
        both = stage.revision(server(1, one), server(2, two), retries=0)
        await stage.start(both)
        await stage.reach(both)
        await stage.reach(stage.revision(server(1, one), server(2, two, Rotation.MAINT), retries=0))
        two.is_well = False
        async with load(stage.port) as traffic:
            reports = [await stage.applier.apply(both)]
            seen = await stage.server("web-2")
            assert seen is not None
            # Ready before HAProxy has looked would send it requests; held down by HAProxy, it gets none.
            assert "ready web/web-2" not in reports[0].done or seen.status == "DOWN"

            async def is_down() -> bool:
                reports.append(await stage.applier.apply(both))
                seen = await stage.server("web-2")
                return seen is not None and seen.status == "DOWN"

            await until(is_down, "HAProxy's own check finds it unwell")
            two.is_well = True

            async def is_up() -> bool:
                reports.append(await stage.applier.apply(both))
                seen = await stage.server("web-2")
                return seen is not None and seen.status == "UP"

            await until(is_up, "it is well again")
        assert traffic.failures == []


async def test_a_server_disabled_in_the_file_can_become_ready(stage: Stage) -> None:
    async with serving(2) as (one, two):
        await stage.start(stage.revision(server(1, one), server(2, two, Rotation.MAINT)))
        await stage.reach(stage.revision(server(1, one), server(2, two)))
        assert {(await ask(stage.port))[1] for _ in range(4)} == {str(one.address.port), str(two.address.port)}


async def test_a_leaving_server_finishes_its_request(stage: Stage) -> None:
    async with serving(2) as (one, two):
        both = stage.revision(server(1, one), server(2, two))
        await stage.start(both)
        await stage.reach(both)
        async with asyncio.TaskGroup() as group:
            slow = [group.create_task(ask(stage.port, "/slow")) for _ in range(2)]
            await until(lambda: one.requests + two.requests == 2, "a slow request runs on each")
            wanted = stage.revision(server(1, one))
            first = await stage.applier.apply(wanted)
            assert not first.is_converged
            assert (await ask(stage.port))[1] == str(one.address.port)
            seen = await stage.server("web-2")
            assert seen is not None
            assert (seen.rotation, seen.sessions) == (Rotation.DRAIN, 1)
            one.let_go.set()
            two.let_go.set()
        assert [status for status, _ in (it.result() for it in slow)] == [200, 200]
        await stage.reach(wanted)
        assert await stage.server("web-2") is None


async def test_a_leaving_server_is_cut_off_at_the_end_of_its_drain_time(stage: Stage) -> None:
    async with serving(2) as (one, two):
        stage.rules = replace(stage.rules, backends=(replace(stage.rules.backends[0], drain=Seconds(0.5)),))
        stage.replace_applier()
        both = stage.revision(server(1, one), server(2, two))
        await stage.start(both)
        await stage.reach(both)
        async with asyncio.TaskGroup() as group:
            slow = [group.create_task(ask(stage.port, "/slow")) for _ in range(2)]
            await until(lambda: one.requests + two.requests == 2, "a slow request runs on each")
            begun = time.monotonic()
            await stage.reach(stage.revision(server(1, one)))
            assert time.monotonic() - begun >= 0.5
            assert await stage.server("web-2") is None
            one.let_go.set()
        assert 200 in [status for status, _ in (it.result() for it in slow)]


async def test_a_request_on_an_old_worker_still_counts(stage: Stage) -> None:
    async with serving() as (one,):
        first = stage.revision(server(1, one))
        await stage.start(first)
        await stage.reach(first)
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(ask(stage.port, "/slow"))
            await until(lambda: one.requests == 1, "a slow request runs")
            await stage.reach(stage.revision(server(1, one), balance="leastconn"))
            observed = await stage.look()
            assert len(observed.processes.old_worker_pids) == 1
            assert [it.sessions for it in observed.servers] == [1]
            one.let_go.set()
        assert slow.result()[0] == 200

        async def is_free() -> bool:
            return [it.sessions for it in (await stage.look()).servers] == [0]

        await until(is_free, "the session is over")


async def test_a_server_moves_without_a_lost_request(stage: Stage) -> None:
    async with serving(2) as (old, new):
        first = stage.revision(server(1, old), retries=0)
        await stage.start(first)
        await stage.reach(first)
        async with load(stage.port) as traffic:
            slow = asyncio.create_task(ask(stage.port, "/slow"))
            await until(lambda: old.slow_requests == 1, "a slow request runs at the old address")
            reports = await stage.reach(stage.revision(server(1, new), retries=0))
            assert {report.how for report in reports} <= {"runtime", "none"}
            await until(lambda: new.requests > 20, "requests go to the new address")
            # What HAProxy kept open to the old address must not be used again.
            reached = old.requests
            more = new.requests + 50
            await until(lambda: new.requests > more, "more requests come")
            assert old.requests == reached
            old.let_go.set()
            assert (await slow)[0] == 200
        assert traffic.failures == []


@pytest.mark.skipif(not has_ipv6, reason="this machine has no IPv6")
async def test_ipv6_servers_are_added_moved_and_kept_at_a_reload(stage: Stage) -> None:
    async with serving(2, host="::1") as (six, seven), serving() as (four,):
        first = stage.revision(server(1, four))
        await stage.start(first)
        await stage.reach(first)
        await stage.reach(stage.revision(server(1, four), server(2, six)))
        moved = stage.revision(server(1, seven), server(2, six))
        await stage.reach(moved)
        assert {it.address for it in (await stage.look()).servers} == {six.address, seven.address}
        await stage.reach(stage.revision(server(1, seven), server(2, six), balance="leastconn"))

        async def both_serve() -> bool:
            assert (await ask(stage.port))[0] == 200
            return bool(six.requests and seven.requests)

        # Among servers without a request HAProxy 3.2 takes the same one several times.
        await until(both_serve, "both serve")


async def test_a_hundred_times_a_server_comes_and_goes(stage: Stage) -> None:
    async with serving(2) as (one, two):
        alone, both = stage.revision(server(1, one)), stage.revision(server(1, one), server(2, two))
        await stage.start(alone)
        await stage.reach(alone)
        before = pids(await stage.look())
        async with load(stage.port) as traffic:
            for _ in range(100):
                await stage.reach(both)
                await stage.reach(alone)
        assert traffic.failures == []
        observed = await stage.look()
        assert [it.server for it in observed.servers] == ["web-1"]
        assert pids(observed) == before


async def test_a_whole_pool_is_replaced_without_a_failed_request(stage: Stage) -> None:
    async with serving(4) as (one, two, three, four):
        first, second = (
            stage.revision(server(1, one), server(2, two)),
            stage.revision(server(3, three), server(4, four)),
        )
        await stage.start(first)
        await stage.reach(first)
        async with load(stage.port) as traffic:
            for wanted in (second, first, second, first):
                reports = await stage.reach(wanted)
                assert {report.how for report in reports} <= {"runtime", "none"}
                assert {it.server for it in (await stage.look()).servers} == {
                    it.name for it in wanted.table.services[0].servers
                }
        assert traffic.failures == []


async def test_a_drain_waits_until_whoever_takes_over_is_in_rotation(stage: Stage) -> None:
    async with serving(2) as (one, two):
        alone = stage.revision(server(1, one))
        await stage.start(alone)
        await stage.reach(alone)
        async with load(stage.port) as traffic:
            for _ in range(4):
                await stage.reach(stage.revision(server(1, one, Rotation.DRAIN), server(2, two)))
                await stage.reach(alone)
        assert traffic.failures == []


async def test_a_whole_pool_is_replaced_by_a_reload_without_a_failed_request(stage: Stage) -> None:
    async with serving(4) as (one, two, three, four):
        first = stage.revision(server(1, one), server(2, two))
        await stage.start(first)
        await stage.reach(first)
        async with load(stage.port) as traffic:
            reports = await stage.reach(stage.revision(server(3, three), server(4, four), balance="leastconn"))
            assert "reload" in {report.how for report in reports}
        assert traffic.failures == []


async def test_a_reload_leaves_no_service_drained_as_a_whole(stage: Stage) -> None:
    """The servers that take over were just added, and their drain is all that the state file would carry on."""
    async with serving(3) as (one, two, three):
        first = stage.revision(server(1, one))
        await stage.start(first)
        await stage.reach(first)
        await stage.reach(
            stage.revision(server(1, one), server(2, two, Rotation.DRAIN), server(3, three, Rotation.MAINT))
        )
        async with load(stage.port) as traffic:
            wanted = stage.revision(server(2, two), server(3, three), balance="leastconn")
            assert "reload" in {report.how for report in await stage.reach(wanted)}
        assert traffic.failures == []


# --- somebody else


@pytest.mark.parametrize(
    "meddling",
    [
        "set server web/web-1 state maint",
        "set server web/web-1 state drain",
        "set server web/web-1 weight 3",
        "set server web/web-1 addr 127.0.0.9 port 9",
        "disable health web/web-1",
        "set server web/web-1 state maint;del server web/web-1",
        "add server web/guest 127.0.0.1:9",
        "experimental-mode on;set var proc.rumor_revision str(nonsense)",
        "disable frontend rumor",
        "shutdown frontend rumor",
        "set maxconn server web/web-1 1",
        "set maxconn frontend rumor 1",
    ],
)
async def test_what_somebody_else_changes_is_changed_back(stage: Stage, meddling: str) -> None:
    async with serving(2) as (one, two):
        wanted = stage.revision(server(1, one), server(2, two))
        await stage.start(wanted)
        await stage.reach(wanted)
        assert (await stage.reach(wanted))[0].done == ()
        await stage.say(*meddling.split(";"))
        assert (await stage.reach(wanted))[-1].how in ("runtime", "reload", "none")
        observed = await stage.look()
        assert observed.revision == wanted.id
        assert {(it.server, it.address, it.rotation, it.weight) for it in observed.servers} == {
            (it.name, it.address, it.rotation, it.weight) for it in (server(1, one), server(2, two))
        }

        async def is_checked() -> bool:
            return all(it.is_up for it in (await stage.look()).servers)

        await until(is_checked, "checks run again")
        assert {it.limit for it in observed.servers} == {0}
        assert (await ask(stage.port))[0] == 200
        assert (await stage.applier.apply(wanted)).done == ()


async def test_a_second_applier_is_kept_out(stage: Stage) -> None:
    stage.applier.lock()
    other = Applier(stage.applier.settings, text_of=no_text, write=write_atomically, probe=probe_health)
    with pytest.raises(ConfigError, match="another agent steers"):
        other.lock()
    stage.applier.close()
    other.lock()
    other.close()


async def no_text(revision: str) -> str | None:
    return None


# --- reloads


async def test_reloads_under_load_lose_nothing(stage: Stage) -> None:
    async with serving(2) as (one, two):
        servers = (server(1, one), server(2, two))
        first = stage.revision(*servers)
        await stage.start(first)
        await stage.reach(first)
        async with load(stage.port) as traffic:
            for balance in ("leastconn", "random", "first", "roundrobin"):
                reports = await stage.reach(stage.revision(*servers, balance=balance))
                assert [report.how for report in reports].count("reload") == 1
        assert traffic.failures == []
        assert (await stage.look()).processes.reloads == 4


async def test_two_reloads_are_a_second_apart(stage: Stage) -> None:
    async with serving() as (one,):
        await stage.start(stage.revision(server(1, one)))
        assert (await stage.applier.apply(stage.revision(server(1, one), balance="first"))).how == "reload"
        second = await stage.applier.apply(stage.revision(server(1, one), balance="random"))
        assert second.how == "none"
        assert second.wake_in is not None
        assert 0.5 < second.wake_in <= 1.0


async def test_changed_checks_come_by_reload_and_never_drain_a_whole_service(stage: Stage) -> None:
    async with serving(2) as (one, two):
        servers = (server(1, one), server(2, two))
        first = stage.revision(*servers)
        await stage.start(first)
        await stage.reach(first)
        async with load(stage.port) as traffic:
            slow = asyncio.create_task(ask(stage.port, "/slow"))
            await until(lambda: traffic.sent > 60, "the load runs")
            reports = await stage.reach(
                stage.revision(*servers, check=CheckRule("/health", Seconds(0.4), Seconds(0.3), 2, 2))
            )
            one.let_go.set()
            two.let_go.set()
            assert (await slow)[0] == 200
        assert "reload" in {report.how for report in reports}
        assert traffic.failures == []


async def test_a_reload_keeps_who_is_down_down_and_who_drains_drained(
    stage: Stage, free_port: Callable[[], int]
) -> None:
    absent = Server(MemberName("web-3"), HostPort("127.0.0.1", free_port()), 100, Rotation.READY)
    async with serving(2) as (one, two):
        # Checks so far apart that hardly one falls between the reload and the look at it.
        servers = (server(1, one), server(2, two, Rotation.DRAIN), absent)
        slow = CheckRule("/health", Seconds(3.0), Seconds(0.3), 1, 1)
        first = stage.revision(*servers, check=slow)
        await stage.start(first)
        await stage.reach(first)

        async def is_down() -> bool:
            return any(it.server == "web-3" and it.is_up is False for it in (await stage.look()).servers)

        async with asyncio.timeout(DEADLINE):
            while not await is_down():  # noqa: ASYNC110 - HAProxy tells nobody of its changes
                await asyncio.sleep(0.05)
        report = await stage.applier.apply(stage.revision(*servers, check=slow, balance="first"))
        assert report.how == "reload"
        seen = {str(it.server): it for it in (await stage.look()).servers}
        assert seen["web-3"].is_up is False
        assert seen["web-3"].status.startswith("DOWN")
        assert seen["web-2"].rotation is Rotation.DRAIN
        assert seen["web-1"].rotation is Rotation.READY


@pytest.mark.skipif(not has_ipv6, reason="this machine has no IPv6")
async def test_a_reload_keeps_what_is_known_of_a_server_whose_address_haproxy_writes_otherwise(
    stage: Stage, free_port: Callable[[], int]
) -> None:
    async with serving() as (one,):
        slow = CheckRule("/health", Seconds(3.0), Seconds(0.3), 1, 1)
        mapped = parse_ip("::ffff:127.0.0.1")
        absent = Server(MemberName("web-2"), HostPort.of(mapped, free_port()), 100, Rotation.READY)
        first = stage.revision(server(1, one), absent, check=slow)
        await stage.start(first)
        await stage.reach(first)

        async def is_down() -> bool:
            seen = await stage.server("web-2")
            return seen is not None and seen.is_up is False

        await until(is_down, "it is down")
        assert (await stage.applier.apply(stage.revision(server(1, one), absent, check=slow, balance="first"))).how == (
            "reload"
        )
        assert await is_down()


async def test_a_reload_brings_new_servers_in_drained(stage: Stage, free_port: Callable[[], int]) -> None:
    absent = Server(MemberName("web-2"), HostPort("127.0.0.1", free_port()), 100, Rotation.READY)
    async with serving() as (one,):
        first = stage.revision(server(1, one), retries=0)
        await stage.start(first)
        await stage.reach(first)
        async with load(stage.port) as traffic:
            report = await stage.applier.apply(stage.revision(server(1, one), absent, retries=0, balance="first"))
            assert report.how == "reload"
            assert report.observed is not None
            seen = {str(it.server): it.rotation for it in report.observed.servers}
            assert seen["web-1"] is Rotation.READY
            assert seen["web-2"] is Rotation.DRAIN
        assert traffic.failures == []


async def test_a_revision_that_does_not_load_leaves_the_last_good_one_running_and_on_disk(stage: Stage) -> None:
    async with serving() as (one,):
        good = stage.revision(server(1, one))
        await stage.start(good)
        await stage.reach(good)
        rules = replace(stage.rules, template_text=stage.rules.template_text.replace("mode http", "mode htp"))
        bad = render(Table((Service(WEB, (server(1, one),)),)), rules, Cause("test", "a test"))
        async with load(stage.port) as traffic:
            report = (await stage.reach(bad))[-1]
            assert "unknown proxy mode 'htp'" in report.refused
            assert stage.config.read_text() == good.text
            again = await stage.applier.apply(bad)
            assert (again.how, again.refused) == ("none", ""), "said once, and not tried again at once"
            assert stage.config.read_text() == good.text
        assert traffic.failures == []
        assert (await stage.look()).revision == good.id
        assert (await stage.applier.apply(good)).is_converged


async def test_a_bad_revision_offered_twice_does_not_stay_on_disk(stage: Stage) -> None:
    """By a second applier, which meets the file that the first one wrote before it died."""
    async with serving() as (one,):
        good = stage.revision(server(1, one))
        await stage.start(good)
        await stage.reach(good)
        bad_text = good.text.replace("mode http", "mode htp")
        bad = Revision("f" * 64, bad_text.replace(good.id, "f" * 64), good.table, Cause("test", "a test"))
        write_atomically(stage.config, bad.text)
        stage.replace_applier()
        assert (await stage.applier.apply(bad)).refused
        assert stage.config.read_text() == good.text


async def test_what_the_runtime_api_refuses_comes_by_reload(stage: Stage) -> None:
    async with serving(2) as (one, two):
        first = stage.revision(server(1, one))
        await stage.start(first)
        await stage.reach(first)
        # `resolvers` words are for the file only; a template may use them.
        template = stage.rules.template_text.replace("{{ backend.server_keywords }}", "check inter 1s init-addr none")
        stage.rules = replace(stage.rules, template_text=template)
        await stage.reach(stage.revision(server(1, one)))
        reports = await stage.reach(stage.revision(server(1, one), server(2, two)))
        assert "reload" in {report.how for report in reports}
        words = " ".join(word for report in reports for word in report.done)
        assert "init-addr" in words
        assert {(await ask(stage.port))[1] for _ in range(4)} == {str(one.address.port), str(two.address.port)}


async def test_a_weight_that_haproxy_changes_only_by_reload_comes_by_one(stage: Stage) -> None:
    async with serving(2) as (one, two):
        await stage.start(stage.revision(server(1, one), server(2, two), balance="static-rr"))
        await stage.reach(stage.revision(server(1, one), server(2, two), balance="static-rr"))
        reports = await stage.reach(stage.revision(server(1, one), server(2, two, weight=33), balance="static-rr"))
        assert [report.how for report in reports].count("reload") == 1
        refused = [step for report in reports for step in report.refused_steps]
        assert [(step.subject, step.step) for step in refused] == [("web-2", "weight web/web-2 33")]
        assert "static LB algorithm" in refused[0].words
        seen = await stage.server("web-2")
        assert seen is not None
        assert seen.weight == 33


async def test_servers_change_although_a_reload_was_refused(stage: Stage) -> None:
    # Neither `haproxy -c` nor a test-bind looks at abstract sockets: only HAProxy itself finds out that it is taken.
    name = stage.directory.name
    with socket.socket(socket.AF_UNIX) as holder:
        holder.bind(f"\0{name}".ljust(108, "\0"))
        holder.listen()
        await _change_servers_after_a_refusal(stage, f"bind abns@{name}")


async def _change_servers_after_a_refusal(stage: Stage, line: str) -> None:
    async with serving(2) as (one, two):
        good = stage.revision(server(1, one), server(2, two))
        await stage.start(good)
        await stage.reach(good)
        rules = replace(stage.rules, raw=Raw(frontend=(line,)))
        bad = render(Table((Service(WEB, (server(1, one), server(2, two))),)), rules, Cause("test", "a test"))
        assert "cannot bind UNIX socket (already in use)" in (await stage.reach(bad))[-1].refused
        assert stage.applier.words_against(bad.text)
        later = render(Table((Service(WEB, (server(1, one),)),)), rules, Cause("test", "a test"))
        report = await stage.applier.apply(later)
        assert (report.how, report.refused) == ("none", ""), "other servers make it no better"
        drained = stage.revision(server(1, one, Rotation.DRAIN), server(2, two))
        assert {report.how for report in await stage.reach(drained)} <= {"runtime", "none"}
        assert {(await ask(stage.port))[1] for _ in range(4)} == {str(two.address.port)}
        assert stage.config.read_text() == drained.text


async def test_servers_of_a_template_that_are_not_ours_are_left_alone(stage: Stage) -> None:
    async with serving(3) as (one, two, legacy):
        template = stage.rules.template_text.replace(
            "backend rumor_no_route", f"backend legacy\n    server old {legacy.address} check\n\nbackend rumor_no_route"
        )
        stage.rules = replace(stage.rules, template_text=template)
        first = stage.revision(server(1, one))
        await stage.start(first)
        await stage.reach(first)
        reports = await stage.reach(stage.revision(server(1, one), server(2, two)))
        assert {report.how for report in reports} <= {"runtime", "none"}
        assert {it.server for it in (await stage.look()).servers} == {"web-1", "web-2", "old"}


async def test_default_server_holds_for_servers_added_at_run_time_too(stage: Stage) -> None:
    async with serving(2) as (one, two):
        template = stage.rules.template_text.replace(
            "    timeout check", "    default-server check inter 300ms weight 7\n    timeout check"
        ).replace("{{ backend.server_keywords }}", "rise 1")
        stage.rules = replace(stage.rules, template_text=template)
        first = stage.revision(server(1, one))
        await stage.start(first)
        await stage.reach(first)
        await stage.reach(stage.revision(server(1, one), server(2, two)))

        async def is_checked() -> bool:
            seen = await stage.server("web-2")
            return seen is not None and seen.check == "L7OK" and seen.weight == 100

        await until(is_checked, "the check that only default-server names runs")


# --- the applier dies


class Killed(Exception):
    """The applier's process ends here."""


@dataclass(slots=True)
class DyingSocket(CommandSocket):
    """A socket whose process dies after so many lines."""

    path: Path
    left: list[int]

    async def ask(self, *lines: str, deadline: Seconds = Seconds(5.0)) -> str:
        self.left[0] -= 1
        if self.left[0] < 0:
            raise Killed
        return await CommandSocket.ask(self, *lines, deadline=deadline)

    async def ask_each(self, lines: Sequence[Sequence[str]]) -> list[str]:
        granted = lines[: max(0, self.left[0])]
        self.left[0] -= len(lines)
        replies = await CommandSocket.ask_each(self, granted)
        if self.left[0] < 0:
            raise Killed
        return replies


async def test_an_applier_killed_between_any_two_lines_is_succeeded(stage: Stage) -> None:
    async with serving(4) as apps:
        one, two, three, four = apps
        start = stage.revision(server(1, one), server(2, two))
        goal = stage.revision(server(1, one, weight=50), server(2, three), server(3, four))
        await stage.start(start)
        await stage.reach(start)
        before = pids(await stage.look())
        deaths = 0
        async with load(stage.port) as traffic:
            for count in range(2, 30):
                left = [count]
                stage.replace_applier(connect=lambda path, left=left: DyingSocket(path, left))  # type: ignore[misc]
                try:
                    await stage.reach(goal)
                except* Killed:
                    deaths += 1
                stage.replace_applier()
                await stage.reach(goal)
                observed = await stage.look()
                assert {(it.server, it.address, it.weight) for it in observed.servers} == {
                    ("web-1", one.address, 50), ("web-2", three.address, 100), ("web-3", four.address, 100),
                }  # fmt: skip
                assert {it.rotation for it in observed.servers} == {Rotation.READY}
                await stage.reach(start)
        assert deaths > 5, "it died between most of the lines it says"
        assert traffic.failures == []
        assert pids(await stage.look()) == before


async def test_a_restarted_haproxy_is_brought_back_to_the_revision(stage: Stage) -> None:
    async with serving(2) as (one, two):
        await stage.start(stage.revision(server(1, one)))
        wanted = stage.revision(server(1, one), server(2, two, Rotation.DRAIN))
        await stage.reach(wanted)
        await stage.end()
        assert await stage.applier.observe() is None
        report = await stage.applier.apply(wanted)
        assert (report.how, report.observed, report.is_converged) == ("none", None, False)
        await stage.start(wanted)
        reports = await stage.reach(wanted)
        assert "reload" not in {report.how for report in reports}, "it was started with the right file"
        assert {str(it.server): it.rotation for it in (await stage.look()).servers} == {
            "web-1": Rotation.READY, "web-2": Rotation.DRAIN,
        }  # fmt: skip


async def test_a_haproxy_of_unknown_origin_is_reloaded(stage: Stage) -> None:
    async with serving() as (one,):
        wanted = stage.revision(server(1, one))
        text = wanted.text.replace(wanted.id, "e" * 64).replace("balance roundrobin", "balance first")
        write_atomically(stage.config, text)
        await stage.start(wanted)
        stage.config.unlink()
        reports = await stage.reach(wanted)
        assert reports[0].done[0] == "reload: what runs is unknown"
        assert (await stage.look()).revision == wanted.id


# --- the socket


async def test_a_failed_check_is_heard_before_the_server_falls_by_it(stage: Stage) -> None:
    heard: list[CheckResult] = []
    async with serving(1) as (app,), listen_to_log(stage.directory / "log.sock", heard.append):
        revision = stage.revision(server(1, app))
        await stage.start(revision)
        await stage.reach(revision)
        await until(lambda: _heard(heard, "Layer7 check passed, code: 200"), "the first check is heard")
        # HAProxy 3.4 counts as many passed checks as `rise` says before one failed check alone is borne.
        await until(lambda: heard[-1].is_up, "it is up")
        app.is_well = False
        await until(lambda: _heard(heard, 'Layer7 wrong status, code: 500, info: "Unwell"'), "it fails")
        first = next(result for result in heard if not result.passed)
        assert (first.service, first.server, first.is_up) == (WEB, MemberName("web-1"), True)
        app.is_well = True
        await until(lambda: _heard(heard[heard.index(first) :], "Layer7 check passed, code: 200"), "it is back")


async def test_a_refused_request_is_heard_at_once(stage: Stage) -> None:
    heard: list[CheckResult] = []
    async with serving(1) as (well,), listen_to_log(stage.directory / "log.sock", heard.append):
        async with serving(1) as (lost,):
            # No check of HAProxy's own comes in the time of this test: what it meets in a request is what tells it.
            checks = CheckRule("/health", Seconds(60.0), Seconds(0.3), 1, 1)
            revision = stage.revision(server(1, well), server(2, lost), check=checks)
            await stage.start(revision)
            await stage.reach(revision)
        load = Load(stage.port)
        for _ in range(4):
            assert (await load.ask_once()).startswith(b"HTTP/1.1 200"), "it went to the other one"
        await until(lambda: _heard(heard, "L4 unsuccessful connection"), "the refusal is heard")
        fallen = next(result for result in heard if not result.passed)
        assert (fallen.server, fallen.is_up) == (MemberName("web-2"), False)


async def _heard(results: list[CheckResult], words: str) -> bool:
    return any(words in result.reason for result in results)


async def test_a_socket_file_that_nobody_listens_on_is_gone_round(stage: Stage) -> None:
    async with serving(2) as (one, two):
        first = stage.revision(server(1, one))
        await stage.start(first)
        stage.applier = Applier(stage.applier.settings, text_of=no_text, write=write_atomically, probe=probe_health)
        await stage.reach(first)
        before = pids(await stage.look())
        leave_stale(stage.directory / "haproxy.sock")
        wanted = stage.revision(server(1, one), server(2, two))
        assert {report.how for report in await stage.reach(wanted)} <= {"runtime", "none"}
        assert pids(await stage.look()) == before


def leave_stale(path: Path) -> None:
    """Put a socket in a path's place that nobody listens on."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{path}.stale")
    Path(f"{path}.stale").replace(path)


@pytest.mark.parametrize("how", ["removed", "stale"])
async def test_a_haproxy_that_was_never_met_is_found_without_its_sockets(stage: Stage, how: str) -> None:
    """As by an agent that starts anew after somebody took the sockets away."""
    async with serving() as (one,):
        wanted = stage.revision(server(1, one))
        await stage.start(wanted)
        await stage.reach(wanted)
        master, _ = pids(await stage.look())
        assert find_master(stage.config) == master
        assert find_master(stage.directory / "other.cfg") == 0
        for path in (stage.directory / "haproxy.sock", stage.directory / "master.sock"):
            if how == "removed":
                path.unlink()
            else:
                leave_stale(path)
        now = 0.0
        settings = stage.applier.settings
        stage.applier = Applier(
            settings, text_of=no_text, write=write_atomically, probe=probe_health, clock=lambda: now
        )
        assert stage.applier.silence == "HAProxy does not answer"
        assert await stage.applier.observe() is None
        assert stage.applier.silence == f"HAProxy runs as pid {master}, but its sockets are gone from {stage.directory}"
        await asyncio.sleep(0.3)
        assert await stage.applier.observe() is None, "one that has just started is given time"
        now = 6.0

        async def answers() -> bool:
            return await stage.applier.observe() is not None

        await until(answers, "its sockets are back")
        assert pids(await stage.look())[0] == master
        assert (await ask(stage.port))[0] == 200


async def test_a_command_that_would_start_another_never_leaves(stage: Stage) -> None:
    for command in ("show info;quit", "show\ninfo", "x" * 17_000):
        with pytest.raises(Bug):
            await stage.say(command)


async def test_a_socket_nobody_listens_on_is_unreachable(stage: Stage) -> None:
    with pytest.raises(Unreachable, match="does not listen"):
        await stage.say("show info")


async def test_a_socket_that_never_answers_is_given_up(run_directory: Path) -> None:
    let_go, is_over = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await let_go.wait()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        is_over.set()

    listener = await asyncio.start_unix_server(silent, run_directory / "haproxy.sock")
    try:
        with pytest.raises(Unreachable, match="did not answer"):
            await CommandSocket(run_directory / "haproxy.sock").ask("show info", deadline=Seconds(0.2))
    finally:
        let_go.set()
        await asyncio.wait_for(is_over.wait(), DEADLINE)
        listener.close()
