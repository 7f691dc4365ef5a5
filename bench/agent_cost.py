"""What one idle member costs: memory, processor time, packets and bytes a second, among ten.

    python bench/agent_cost.py                     ten bare members, each a process of its own
    python bench/agent_cost.py --pid 4711 4712     processes that run already, such as those of `rumor agent`

Memory is the resident set from /proc/PID/statm, and its proportional share (PSS), which counts shared pages once.
Processor time is user and system time from /proc/PID/stat over the window; 100 % is one core. Packets and bytes are
the members' own counters, so they are known for the members that this script started only.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

from rumor.joiner import Joiner
from rumor.model import Instant
from rumor.names import Endpoint, HostPort, parse_host_port
from rumor.serf.tags import encode_tags
from rumor.swim.events import Event, Synced, SyncFailed
from rumor.swim.messages import State
from rumor.swim.node import Node, NodeSettings
from rumor.swim.presets import PRESETS
from rumor.swim.runner import GossipRunner

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
_CONVERGE_DEADLINE = 60.0


# --- one member: a process of its own that answers each line on its standard input with its counters


async def run_member(name: str, address: HostPort, join: HostPort | None, preset: str) -> None:
    def notice(event: Event) -> None:
        if isinstance(event, Synced | SyncFailed):
            joiner.note(event)

    timings = PRESETS[preset]
    meta = encode_tags({"service:web": f"{address.port};state=ready"})
    node = Node(NodeSettings(name, address, timings, meta), random=SystemRandom(), now=Instant(time.monotonic()))
    runner = GossipRunner(node, address, tcp_timeout=timings.tcp_timeout, on_event=notice)
    endpoints = [Endpoint(join.host, join.port)] if join else []
    joiner = Joiner(runner, endpoints, [], own_name=name, own=address)
    asked = asyncio.Event()
    over = asyncio.Event()

    def read_question() -> None:
        if os.read(0, 4096):
            asked.set()
        else:
            over.set()
            asked.set()

    asyncio.get_running_loop().add_reader(0, read_question)
    await runner.start()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(runner.run()), tasks.create_task(joiner.run())]
        while True:
            await asked.wait()
            asked.clear()
            if over.is_set():
                break
            counters = runner.statistics()
            alive = sum(member.state is State.ALIVE for member in runner.members())
            print(
                json.dumps(
                    {
                        "alive": alive,
                        "packets": counters.packets_in + counters.packets_out,
                        "bytes": counters.bytes_in + counters.bytes_out,
                    }
                ),
                flush=True,
            )
        for task in running:
            task.cancel()


# --- the measuring side


@dataclass(frozen=True, slots=True)
class Reading:
    """What /proc, and the member itself where it can be asked, say of one process now."""

    at: float
    cpu_seconds: float
    rss_bytes: int
    pss_bytes: int
    packets: int | None = None
    bytes: int | None = None


def read_process(pid: int, counters: dict[str, int] | None = None) -> Reading:
    # The second field is the program's name in parentheses, which may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    rss_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    pss = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                pss = int(line.split()[1]) * 1024
    counters = counters or {}
    cpu_seconds = (int(fields[11]) + int(fields[12])) / _TICK
    return Reading(
        time.monotonic(), cpu_seconds, rss_pages * _PAGE, pss, counters.get("packets"), counters.get("bytes")
    )


def free_addresses(count: int) -> list[HostPort]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [HostPort("127.0.0.1", one.getsockname()[1]) for one in sockets]


def ask(member: subprocess.Popen[str]) -> dict[str, int]:
    assert member.stdin is not None  # noqa: S101 - started with pipes
    assert member.stdout is not None  # noqa: S101
    member.stdin.write("?\n")
    member.stdin.flush()
    answer: dict[str, int] = json.loads(member.stdout.readline())
    return answer


def start_members(count: int, preset: str) -> list[subprocess.Popen[str]]:
    addresses = free_addresses(count)
    members: list[subprocess.Popen[str]] = []
    for number, address in enumerate(addresses, 1):
        arguments = ["--member", f"web-{number}", "--address", str(address), "--preset", preset]
        if number > 1:
            arguments += ["--join", str(addresses[0])]
        members.append(
            subprocess.Popen(
                [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    deadline = time.monotonic() + _CONVERGE_DEADLINE
    while any(ask(member)["alive"] < count for member in members):
        if time.monotonic() > deadline:
            raise SystemExit(f"the {count} members did not find one another within {_CONVERGE_DEADLINE:g} s")
        time.sleep(0.1)
    return members


def report(names: list[str], before: list[Reading], after: list[Reading]) -> None:
    print(f"{'process':<12} {'RSS MB':>7} {'PSS MB':>7} {'CPU %':>7} {'packets/s':>10} {'bytes/s':>9}")
    costs: list[tuple[float, float, float]] = []
    for name, start, end in zip(names, before, after, strict=True):
        window = end.at - start.at
        rss, pss, cpu = end.rss_bytes / 1e6, end.pss_bytes / 1e6, (end.cpu_seconds - start.cpu_seconds) / window * 100
        packets = volume = "-"
        if start.packets is not None and end.packets is not None:
            packets = f"{(end.packets - start.packets) / window:.1f}"
        if start.bytes is not None and end.bytes is not None:
            volume = f"{(end.bytes - start.bytes) / window:.0f}"
        print(f"{name:<12} {rss:>7.1f} {pss:>7.1f} {cpu:>7.3f} {packets:>10} {volume:>9}")
        costs.append((rss, pss, cpu))
    rss, pss, cpu = (sum(column) / len(costs) for column in zip(*costs, strict=True))
    print(f"{'mean':<12} {rss:>7.1f} {pss:>7.1f} {cpu:>7.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10, help="how many members to start (default %(default)s)")
    parser.add_argument("--preset", choices=PRESETS, default="lan")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to watch (default %(default)s)")
    parser.add_argument("--pid", type=int, nargs="+", help="watch these processes and start none")
    parser.add_argument("--member", help=argparse.SUPPRESS)
    parser.add_argument("--address", type=parse_host_port, help=argparse.SUPPRESS)
    parser.add_argument("--join", type=parse_host_port, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member:
        asyncio.run(run_member(options.member, options.address, options.join, options.preset))
        return
    members = [] if options.pid else start_members(options.nodes, options.preset)
    try:
        pids = options.pid or [member.pid for member in members]
        names = [str(pid) for pid in options.pid] if options.pid else [f"web-{n}" for n in range(1, len(pids) + 1)]

        def read_all() -> list[Reading]:
            if not members:
                return [read_process(pid) for pid in pids]
            return [read_process(member.pid, ask(member)) for member in members]

        before = read_all()
        print(f"watching {len(pids)} processes for {options.seconds:g} s …", file=sys.stderr)
        time.sleep(options.seconds)
        report(names, before, read_all())
    finally:
        for member in members:
            # The end of its input is the member's end.
            member.communicate(timeout=10)


if __name__ == "__main__":
    main()
