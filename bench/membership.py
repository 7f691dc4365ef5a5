"""rumor and real serf side by side: how soon a death is known, how news travels, and what an agent costs.

    sudo python bench/membership.py                      3, 10, 30 and 60 agents of each kind, in turn
    sudo python bench/membership.py --sizes 10 --kills 5

Each cluster runs in a network namespace of its own that this script makes, on loopback addresses, preset lan, so that
packets can be counted and lost there. What an agent knows, and when, is read from its own log over RPC, the same for
both kinds. Needs root (for the namespace), `serf` and `ip`; packets are lost by netem, or by nft where the kernel has
none. A killed agent is replaced before the next is, so that `--kills 20` are twenty of the same.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rumor.names import parse_endpoint
from rumor.serf.rpc_client import RpcClient

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
DEADLINE = 120.0
LOSSY_SECONDS = 60.0
KINDS = {"serf": ["serf"], "rumor": [sys.executable, "-m", "rumor"]}


@dataclass
class Agent:
    name: str
    process: subprocess.Popen[bytes]
    rpc: str
    lines: list[tuple[float, str]] = field(default_factory=list)

    def follow(self) -> None:
        """Note each line of the log with the moment at which it came."""
        client = RpcClient(parse_endpoint(self.rpc))
        client.call("monitor", {"LogLevel": "INFO"})
        threading.Thread(target=self._read, args=(client,), daemon=True).start()

    def _read(self, client: RpcClient) -> None:
        for _, record in client.records():
            self.lines.append((time.monotonic(), record["Log"].decode("utf-8", "replace")))

    def knows_since(self, words: str, since: float) -> float | None:
        return next((at for at, line in list(self.lines) if at >= since and words in line), None)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE


@dataclass
class Row:
    kind: str
    agents: int
    loss: str
    kill_first: float | None = None
    kill_median: float | None = None
    kill_last: float | None = None
    freeze_median: float | None = None
    join_median: float | None = None
    event_median: float | None = None
    cpu_percent: float | None = None
    resident_mb: float | None = None
    packets: float | None = None
    bytes: float | None = None
    false_failures: int | None = None


class Cluster:
    def __init__(self, kind: str, size: int, directory: Path) -> None:
        self.kind = kind
        self.directory = directory
        self.agents: list[Agent] = []
        self._number = 0
        for _ in range(size):
            self.start()
            if kind == "rumor" and len(self.agents) % 8 == 0:
                time.sleep(1.0)  # imports of eight Pythons at a time are enough for two cores

    def start(self) -> Agent:
        self._number += 1
        host = f"127.1.{self._number // 200}.{self._number % 200 + 1}"
        name = f"n{self._number}"
        rpc = f"{host}:7373"
        join = [f"-retry-join={self.agents[0].rpc.partition(':')[0]}"] if self.agents else []
        if join and self.kind == "serf":
            join.append("-retry-interval=1s")
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*KINDS[self.kind], "agent", f"-node={name}", f"-bind={host}", f"-rpc-addr={rpc}",
                 "-disable-compression", *join],
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        agent = Agent(name, process, rpc)
        self.agents.append(agent)
        return agent

    def follow_all(self) -> None:
        for agent in self.agents:
            wait_for(lambda: follows(agent), f"{agent.name} answers over RPC")  # noqa: B023

    def wait_whole(self) -> None:
        names = [agent.name for agent in self.agents]
        for agent in self.agents:
            wait_for(lambda: all(agent.knows_since(f"EventMemberJoin: {name} ", 0.0) for name in names), "all joined")  # noqa: B023

    def end(self) -> None:
        for agent in self.agents:
            agent.process.send_signal(signal.SIGCONT)
            agent.process.kill()
        for agent in self.agents:
            agent.process.wait(10)


def follows(agent: Agent) -> bool:
    try:
        agent.follow()
    except Exception:
        if agent.process.poll() is not None:
            raise SystemExit(f"error: {agent.name} ended with {agent.process.returncode}") from None
        return False
    return True


def wait_for(holds: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    end = time.monotonic() + deadline
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"error: not within {deadline:g} s: {what}")
        time.sleep(0.05)


def spread(agents: list[Agent], words: str, since: float) -> list[float]:
    """Return after how long each agent knew; those that never did are left out after the deadline."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and any(agent.knows_since(words, since) is None for agent in agents):
        time.sleep(0.02)
    return sorted(at - since for agent in agents if (at := agent.knows_since(words, since)) is not None)


def loopback() -> tuple[int, int]:
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            fields = rest.split()
            return int(fields[1]), int(fields[0])
    return 0, 0


def lose(percent: int) -> bool:
    """Lose this share of gossip's packets, UDP and TCP, in this namespace; False where the kernel cannot."""
    words = ["tc", "qdisc", "replace", "dev", "lo", "root", "netem", "loss", f"{percent}%"]
    if subprocess.run(words, capture_output=True, check=False).returncode == 0:
        return True
    rules = f"""
        table inet bench
        delete table inet bench
        table inet bench {{
            chain input {{
                type filter hook input priority 0;
                th dport 7946 numgen random mod 100 < {percent} drop
            }}
        }}
    """
    try:
        return subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def measure(kind: str, size: int, kills: int, losses: list[int], idle: float) -> list[Row]:
    row = Row(kind, size, "0 %")
    rows = [row]
    with tempfile.TemporaryDirectory(prefix="rumor-bench-") as directory:
        cluster = Cluster(kind, size, Path(directory))
        try:
            cluster.follow_all()
            cluster.wait_whole()
            say(f"{kind} {size}: all joined")
            time.sleep(5)
            cpu, packets, began = [a.cpu_seconds() for a in cluster.agents], loopback(), time.monotonic()
            time.sleep(idle)
            passed = time.monotonic() - began
            used = [a.cpu_seconds() - before for a, before in zip(cluster.agents, cpu, strict=True)]
            now = loopback()
            row.cpu_percent = round(100 * statistics.mean(used) / passed, 2)
            row.resident_mb = round(statistics.median(a.resident() for a in cluster.agents) / 1e6, 1)
            row.packets = round((now[0] - packets[0]) / passed / size, 1)
            row.bytes = round((now[1] - packets[1]) / passed / size)
            row.event_median = event(cluster)
            row.join_median = join(cluster)
            say(f"{kind} {size}: events and joins")
            times = [kill(cluster, number) for number in range(kills)]
            row.kill_first = middle([one[0] for one in times if one])
            row.kill_median = middle([statistics.median(one) for one in times if one])
            row.kill_last = middle([one[-1] for one in times if one])
            row.freeze_median = freeze(cluster)
            say(f"{kind} {size}: kills and a freeze")
            for percent in losses:
                if lose(percent):
                    rows.append(lossy(cluster, kind, percent))
                else:
                    say("neither netem nor nft (apt-get install nftables) works here: nothing is lost on purpose")
        finally:
            subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], capture_output=True, check=False)
            cluster.end()
    return rows


def middle(values: list[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


def event(cluster: Cluster) -> float | None:
    since = time.monotonic()
    with RpcClient(parse_endpoint(cluster.agents[0].rpc)) as client:
        client.call("event", {"Name": "bench", "Payload": None, "Coalesce": False})
    return middle(spread(cluster.agents, "Received event: user-event: bench", since))


def join(cluster: Cluster) -> float | None:
    others = list(cluster.agents)
    new = cluster.start()
    spread(others, f"EventMemberJoin: {new.name} ", 0.0)
    times = sorted(at for agent in others if (at := agent.knows_since(f"EventMemberJoin: {new.name} ", 0.0)))
    wait_for(lambda: follows(new), "the newcomer answers")
    return round(statistics.median(times) - times[0], 3) if times else None


def kill(cluster: Cluster, number: int) -> list[float]:
    victim = cluster.agents.pop(-1 - number % 2)
    since = time.monotonic()
    victim.process.kill()
    victim.process.wait(10)
    times = spread(cluster.agents, f"EventMemberFailed: {victim.name} ", since)
    others, new = list(cluster.agents), cluster.start()
    spread(others, f"EventMemberJoin: {new.name} ", 0.0)
    wait_for(lambda: follows(new), "the newcomer answers")
    return times


def freeze(cluster: Cluster) -> float | None:
    victim, others = cluster.agents[-1], cluster.agents[:-1]
    since = time.monotonic()
    victim.process.send_signal(signal.SIGSTOP)
    times = spread(others, f"EventMemberFailed: {victim.name} ", since)
    victim.process.send_signal(signal.SIGCONT)
    spread(others, f"EventMemberJoin: {victim.name} ", since)
    return middle(times)


def lossy(cluster: Cluster, kind: str, percent: int) -> Row:
    since = time.monotonic()
    time.sleep(LOSSY_SECONDS)
    false = sum(at >= since and "EventMemberFailed" in line for agent in cluster.agents for at, line in agent.lines)
    victim = cluster.agents.pop()
    since = time.monotonic()
    victim.process.kill()
    victim.process.wait(10)
    times = spread(cluster.agents, f"EventMemberFailed: {victim.name} ", since)
    return Row(
        kind, len(cluster.agents) + 1, f"{percent} %", middle(times[:1]), middle(times), middle(times[-1:]),
        false_failures=false,
    )  # fmt: skip


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(rows: list[Row]) -> str:
    head = ["kind", "agents", "loss", "kill: first", "median", "last", "freeze", "join spread", "event", "CPU", "RSS",
            "packets/s", "bytes/s", "false"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = ["-" if value is None else str(value) for value in asdict(row).values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="rumor and real serf side by side.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[3, 10, 30, 60])
    parser.add_argument("--kills", type=int, default=3, help="how many agents are killed one after the other")
    parser.add_argument("--losses", type=int, nargs="*", default=[10, 25], help="percent, for clusters of 10 and more")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds of rest over which the costs are taken")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=["serf", "rumor"])
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not options.inside:
        sys.exit(run_in_namespace(sys.argv[1:]))
    rows = []
    for size in options.sizes:
        for kind in options.kinds:
            found = measure(kind, size, options.kills, options.losses if 10 <= size <= 30 else [], options.idle)
            say("\n".join(json.dumps(asdict(row)) for row in found))
            rows += found
    print(table(rows))


def run_in_namespace(arguments: list[str]) -> int:
    for program in ("ip", "serf"):
        if shutil.which(program) is None:
            raise SystemExit(
                f"error: there is no {program} here: apt-get install {'iproute2' if program == 'ip' else program}"
            )
    name = f"rumor-bench-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], check=False).returncode:
        raise SystemExit("error: no network namespace can be made: run as root")
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        inside = [sys.executable, __file__, "--inside", *arguments]
        process = subprocess.Popen(["ip", "netns", "exec", name, *inside])
        try:
            return process.wait()
        finally:
            # Asked to stop, it ends its agents first.
            process.terminate()
            process.wait()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


if __name__ == "__main__":
    main()
