"""Two hundred changes under load: how many requests fail, by kind and by cause, beside a plain reload for each change.

    python bench/churn.py                         rumor, 200 changes, seed 1
    python bench/churn.py --peer                  and beside it a HAProxy that is reloaded for each change
    python bench/churn.py --changes 20 --json

The engine is rumor's own, from members to HAProxy (agent.balancing); what gossip would say is said by this script, a
second or more after the deed, as gossip is. Apps are processes of their own. Planned changes (join, leave, drain,
weight, route, certificate) may cost no request; a crash may cost what was running on the crashed server and may not be
repeated, proved by that process's own log.
"""

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.churn_load import Kinds

from rumor.agent.balancer_settings import balancing_settings
from rumor.agent.balancing import Balancing
from rumor.agent.drain import Holding, Question
from rumor.agent.operator_words import OperatorWords
from rumor.agent.pin import Pin
from rumor.agent.revisions import Revisions
from rumor.atomic_file import write_atomically
from rumor.checks import sweep as checks
from rumor.checks.outcome import CheckKind, CheckSettings
from rumor.config import load
from rumor.demo.load import Load, Result
from rumor.demo.verdict import parse_log
from rumor.haproxy import launch
from rumor.haproxy.apply import Applier, ApplierSettings
from rumor.haproxy.binds import new_binds
from rumor.haproxy.certificates import Certificates
from rumor.journal import Journal
from rumor.model import Cause, Member, MemberStatus, Seconds, Table
from rumor.names import HostPort, MemberName, ServiceName
from rumor.render import publish
from rumor.render.template import render, revision_id
from rumor.sources.base import Snapshot

WEB = ServiceName("web")
CHECK = CheckSettings(CheckKind.HTTP, "/health", timeout=Seconds(0.3))
NODES = 6
MOST_NODES = 9
DRAIN = 15.0
RATES = {"upload": 4.0, "slow": 1.0, "tunnel": 1.5, "h2": 15.0}
REPEATABLE = frozenset({"GET", "h2"})
PLANNED = ("join", "leave", "drain", "weight", "route", "certificate")
CRASHES = ("kill", "freeze")


@dataclass(slots=True)
class Node:
    name: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    weight: int = 100
    state: str = "ready"
    status: MemberStatus = MemberStatus.ALIVE
    is_busy: bool = False

    @property
    def app(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self.process

    def member(self) -> Member:
        offer = f"{self.port};state={self.state};weight={self.weight}"
        return Member(MemberName(self.name), HostPort("127.0.0.1", 7946), {"service:web": offer}, self.status)


class Side(Protocol):
    """Whoever brings HAProxy to the nodes as they are now."""

    async def start(self) -> None: ...
    async def changed(self, nodes: list[Node]) -> None:
        """Take the nodes' present states."""

    async def let_go(self, node: Node, nodes: list[Node]) -> None:
        """Return when the node may be stopped."""

    async def hold(self, node: Node, nodes: list[Node], *, drains: bool) -> None: ...
    async def route(self, number: int, nodes: list[Node]) -> None: ...
    async def certificate(self, nodes: list[Node]) -> None: ...
    async def end(self) -> None: ...


class Haproxy:
    """One HAProxy in a directory of its own, with a certificate."""

    def __init__(self, directory: Path, program: Path) -> None:
        self.directory = directory
        self.program = program
        self.port, self.secure = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.certificates = directory / "mine"
        self.certificates.mkdir()
        self.new_certificate()

    def new_certificate(self) -> None:
        (self.certificates / "bench.pem").write_text(certificate())

    async def launch(self) -> None:
        command = [sys.executable, "-I", "-S", launch.__file__, str(self.program), "-W"]
        command += ["-S", f"{self.directory}/master.sock,mode,600", "-f", str(self.directory / "haproxy.cfg")]
        self.process = spawn(command)
        await until(lambda: is_listening(self.port), "HAProxy listens")

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)


class Rumor:
    """rumor's engine, from members to HAProxy."""

    def __init__(self, haproxy: Haproxy) -> None:
        self._haproxy = haproxy
        self._members: tuple[Member, ...] = ()
        self._routes = '{ path = "/" }'
        self._loop: asyncio.Task[None] | None = None
        self._journal: Journal | None = None
        self._balancing: Balancing | None = None

    def _settings(self) -> Any:
        haproxy = self._haproxy
        toml = haproxy.directory / "rumor.toml"
        toml.write_text(
            f'[balancer]\nbind = "127.0.0.1:{haproxy.port}"\n'
            f'tls = {{ bind = "127.0.0.1:{haproxy.secure}", certificates = "mine" }}\n'
            f'[service.web]\ncheck = {{ http = "/health", interval = "500ms", timeout = "300ms" }}\n'
            f'drain = "{DRAIN}s"\nroute = [{self._routes}]\n'
        )
        return balancing_settings(load(toml, environ={}), haproxy.directory, publish.read_template(None))

    async def start(self) -> None:
        directory, settings = self._haproxy.directory, self._settings()
        self._journal = await Journal.open(directory / "journal.db")
        certificates = Certificates(write_atomically)
        tls = replace(settings.render.tls, certificates=("bench.pem",))
        await certificates.look(self._haproxy.certificates, tls.directory)
        first = render(Table(), replace(settings.render, tls=tls), Cause("start", "a bench"))
        (directory / "haproxy.cfg").write_text(first.text)
        await self._haproxy.launch()
        applier = Applier(
            ApplierSettings(directory / "haproxy.cfg", directory, settings.drains),
            text_of=self._text_of, write=write_atomically, probe=probe,
        )  # fmt: skip
        revisions = Revisions(self._journal, check=self._check, pin=Pin(directory / "pin.json"), good_text=first.text)
        self._balancing = Balancing(
            settings, applier=applier, journal=self._journal, picture=lambda: Snapshot("bench", self._members),
            probe_member=lambda _: None,
            words=OperatorWords(directory / "operator.json"), revisions=revisions, certificates=certificates,
            node=MemberName("bench"),
        )  # fmt: skip
        self._loop = asyncio.create_task(self._balancing.run())

    async def _check(self, text: str, running: str) -> str:
        words = await publish.check_haproxy(self._haproxy.program, text)
        return words or publish.test_bind(new_binds(running or text, text))

    async def _text_of(self, revision: str) -> str | None:
        stored = None if self._journal is None else await self._journal.revision(revision)
        if stored is not None:
            return stored.text
        text = (self._haproxy.directory / "haproxy.cfg").read_text()
        return text if revision_id(text) == revision else None

    @property
    def balancing(self) -> Balancing:
        if self._balancing is None:
            raise RuntimeError("not started")
        return self._balancing

    async def changed(self, nodes: list[Node]) -> None:
        self._members = tuple(node.member() for node in nodes)
        self.balancing.wake()

    async def let_go(self, node: Node, nodes: list[Node]) -> None:
        node.state = "draining"
        await self.changed(nodes)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                while not (await self._ask_held(node)).is_nothing:
                    pass
        node.state = "ready"

    async def _ask_held(self, node: Node) -> Holding:
        """Ask as a draining node asks."""
        answer: asyncio.Future[Holding] = asyncio.get_running_loop().create_future()
        self.balancing.hear_drain(Question(MemberName(node.name), (WEB,)), lambda said: answer.set_result(said[0]))
        return await answer

    async def hold(self, node: Node, nodes: list[Node], *, drains: bool) -> None:
        await self.balancing.operate("drain" if drains else "ready", node.name)

    async def route(self, number: int, nodes: list[Node]) -> None:
        self._routes = f'{{ path = "/" }}, {{ path = "/v{number}" }}'
        await self.balancing.reconfigure(self._settings(), Cause("route", "a route changed"))

    async def certificate(self, nodes: list[Node]) -> None:
        self._haproxy.new_certificate()
        self.balancing.wake()

    async def end(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        if self._journal is not None:
            await self._journal.close()


PEER = """global
    stats socket {directory}/haproxy.sock mode 600 level admin expose-fd listeners
    maxconn 4000
defaults
    mode http
    option redispatch
    retries 3
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout tunnel 1h
frontend all
    bind 127.0.0.1:{port}
    bind 127.0.0.1:{secure} ssl crt {directory}/mine/bench.pem alpn h2,http/1.1
    acl versioned path_beg /v{number}
    use_backend web if versioned
    default_backend web
backend web
    balance leastconn
    option httpchk GET /health
{servers}
"""


class Reloads:
    """What a template engine and a reload for each change do: a plain HAProxy, well configured."""

    def __init__(self, haproxy: Haproxy) -> None:
        self._haproxy = haproxy
        self._number = 0
        self._held: set[str] = set()

    async def start(self) -> None:
        self._write([])
        await self._haproxy.launch()

    def _write(self, nodes: list[Node]) -> None:
        servers = "\n".join(
            f"    server {node.name} 127.0.0.1:{node.port} check inter 500ms fall 2 rise 2 weight"
            f" {0 if node.name in self._held else node.weight}"
            for node in nodes
            if node.state == "ready" and node.status is MemberStatus.ALIVE
        )
        haproxy = self._haproxy
        (haproxy.directory / "haproxy.cfg").write_text(
            PEER.format(directory=haproxy.directory, port=haproxy.port, secure=haproxy.secure, number=self._number,
                        servers=servers)
        )  # fmt: skip

    async def changed(self, nodes: list[Node]) -> None:
        self._write(nodes)
        if self._haproxy.process is not None:
            self._haproxy.process.send_signal(signal.SIGUSR2)

    async def let_go(self, node: Node, nodes: list[Node]) -> None:
        await self.changed([other for other in nodes if other is not node])
        await asyncio.sleep(1.0)  # it is in no file any more: what else could one wait for

    async def hold(self, node: Node, nodes: list[Node], *, drains: bool) -> None:
        (self._held.add if drains else self._held.discard)(node.name)
        await self.changed(nodes)

    async def route(self, number: int, nodes: list[Node]) -> None:
        self._number = number
        await self.changed(nodes)

    async def certificate(self, nodes: list[Node]) -> None:
        self._haproxy.new_certificate()
        await self.changed(nodes)

    async def end(self) -> None:
        return


async def probe(servers: Sequence[tuple[ServiceName, HostPort]], on_well: Callable[[int], None]) -> None:
    await checks.sweep([checks.Question(CHECK, address) for _, address in servers], on_well)


@dataclass(slots=True)
class Churn:
    """One run: nodes, load, changes."""

    side: Side
    haproxy: Haproxy
    seed: int
    without: frozenset[str] = frozenset()
    is_hasty: bool = False
    """A node that leaves is killed at once, as one is that nobody drains."""
    nodes: list[Node] = field(default_factory=list)
    struck: dict[int, float] = field(default_factory=dict)
    """Pids of processes that were killed or frozen, and when."""
    done: list[tuple[float, str]] = field(default_factory=list)
    """When each change began, and which it was."""
    ever: int = 0

    @property
    def log(self) -> Path:
        return self.haproxy.directory / "requests.log"

    async def run(self, changes: int, rate: float, pause: float, rates: dict[str, float]) -> dict[str, Any]:
        self.log.touch()
        await self.side.start()
        for _ in range(NODES):
            await self.join()
        await self.until_served()
        load, kinds = Load(HostPort("127.0.0.1", self.haproxy.port), rate=rate), Kinds(
            self.haproxy.port, self.haproxy.secure, self.seed
        )  # fmt: skip
        sending = [asyncio.create_task(load.run()), asyncio.create_task(kinds.run(rates))]
        random = Random(self.seed)
        deeds: set[asyncio.Task[None]] = set()
        try:
            await asyncio.sleep(1.0)
            for number in range(changes):
                deed = asyncio.create_task(self.change(random, number))
                deeds.add(deed)
                deed.add_done_callback(deeds.discard)
                await asyncio.sleep(random.uniform(0.5, 1.5) * pause)
                if deed.done():
                    deed.result()
                progress(f"{type(self.side).__name__.lower()}: {number + 1}/{changes} changes")
            await asyncio.gather(*deeds)
            end = time.monotonic()
            await load.settle(end, Seconds(15.0))
            # What is slow or a tunnel is let come to its end.
            await kinds.end(30.0)
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        return self.judge([*load.results, *kinds.results], end)

    async def end(self) -> None:
        await self.side.end()
        self.haproxy.end()
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGCONT)
                node.process.kill()
                node.process.wait()

    async def until_served(self) -> None:
        load = Load(HostPort("127.0.0.1", self.haproxy.port), rate=50)
        sending = asyncio.create_task(load.run())
        await until(lambda: any(result.is_ok for result in load.results[-5:]), "requests are answered")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    # --- changes

    async def change(self, random: Random, number: int) -> None:
        kinds = [kind for kind in (*PLANNED, *CRASHES) if kind not in self.without]
        kind = random.choice(kinds)
        free = [node for node in self.nodes if not node.is_busy]
        spare = len(free) - 3
        if kind in ("leave", "drain", "kill", "freeze") and spare <= 0:
            kind = "join"
        if kind == "join" and len(self.nodes) >= MOST_NODES:
            kind = "weight"
        self.done.append((time.monotonic(), kind))
        deeds: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "join": self.join,
            "leave": lambda: self.with_node(random.choice(free), self.leave),
            "drain": lambda: self.with_node(random.choice(free), self.drain),
            "kill": lambda: self.with_node(random.choice(free), self.kill),
            "freeze": lambda: self.with_node(random.choice(free), self.freeze),
            "weight": lambda: self.weigh(random.choice(free), random.randrange(1, 257)),
            "route": lambda: self.side.route(number, self.nodes),
            "certificate": lambda: self.side.certificate(self.nodes),
        }
        await deeds[kind]()

    async def with_node(self, node: Node, deed: Callable[[Node], Coroutine[Any, Any, None]]) -> None:
        node.is_busy = True
        try:
            await deed(node)
        finally:
            node.is_busy = False

    async def start_app(self, node: Node) -> None:
        command = [sys.executable, str(Path(__file__).with_name("churn_app.py")), "--port", str(node.port)]
        node.process = spawn([*command, "--tag", node.name, "--log", str(self.log)])
        await until(lambda: is_listening(node.port), f"{node.name} listens")

    async def join(self) -> None:
        self.ever += 1
        node = Node(f"n{self.ever}", free_port(), is_busy=True)
        await self.start_app(node)
        self.nodes.append(node)
        node.is_busy = False
        await self.side.changed(self.nodes)

    async def leave(self, node: Node) -> None:
        if self.is_hasty:
            node.app.kill()
        await self.side.let_go(node, self.nodes)
        self.nodes.remove(node)
        await self.side.changed(self.nodes)
        node.app.terminate()
        await asyncio.to_thread(node.app.wait)

    async def drain(self, node: Node) -> None:
        await self.side.hold(node, self.nodes, drains=True)
        await asyncio.sleep(3.0)
        await self.side.hold(node, self.nodes, drains=False)

    async def weigh(self, node: Node, weight: int) -> None:
        node.weight = weight
        await self.side.changed(self.nodes)

    async def kill(self, node: Node) -> None:
        self.struck[node.app.pid] = time.monotonic()
        node.app.kill()
        node.app.wait()
        await asyncio.sleep(1.0)
        node.state = "down"
        await self.side.changed(self.nodes)
        await asyncio.sleep(1.0)
        await self.start_app(node)
        node.state = "ready"
        await self.side.changed(self.nodes)

    async def freeze(self, node: Node) -> None:
        self.struck[node.app.pid] = time.monotonic()
        node.app.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.0)
        node.status = MemberStatus.SUSPECT
        await self.side.changed(self.nodes)
        await asyncio.sleep(3.0)
        node.app.send_signal(signal.SIGCONT)
        node.status = MemberStatus.ALIVE
        await self.side.changed(self.nodes)

    # --- the verdict

    def judge(self, results: list[Result], end: float) -> dict[str, Any]:
        reached = {entry.id for entry in parse_log(self.log.read_text()) if entry.pid in self.struck}
        failed: Counter[str] = Counter()
        by_cause: Counter[str] = Counter()
        unsaveable: Counter[str] = Counter()
        words: Counter[str] = Counter()
        counted = [result for result in results if result.sent_at < end]
        for result in counted:
            kind = result.method
            if result.is_ok:
                continue
            if result.id in reached and kind not in REPEATABLE:
                unsaveable[kind] += 1
                continue
            failed[kind] += 1
            ended = result.sent_at + result.took
            by_cause[next((what for at, what in reversed(self.done) if at <= ended), "start")] += 1
            words[f"{kind}: {result.error or result.status}"] += 1
        return {
            "sent": len(counted), "failed": sum(failed.values()), "failed_by_kind": dict(failed),
            "failed_after": dict(by_cause), "unsaveable": dict(unsaveable), "words": dict(words.most_common(8)),
            "changes": dict(Counter(what for _, what in self.done)),
        }  # fmt: skip


def certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench.test")])
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (built.public_bytes(serialization.Encoding.PEM) + private).decode()


def spawn(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


_named: set[int] = set()


def free_port() -> int:
    random = Random()
    while True:
        port = random.randrange(20_000, 32_000)
        if port not in _named and not is_listening(port):
            _named.add(port)
            return port


def is_listening(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(0.2)
        return one.connect_ex(("127.0.0.1", port)) == 0


async def until(holds: Callable[[], bool], what: str, deadline: float = 20.0) -> None:
    try:
        async with asyncio.timeout(deadline):
            while not holds():  # noqa: ASYNC110 - processes tell nobody
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise TimeoutError(f"not within {deadline:g} s: {what}") from error


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}   ", end="", file=sys.stderr, flush=True)


async def measure(
    kind: str,
    *,
    changes: int,
    rate: float,
    seed: int,
    pause: float,
    without: frozenset[str] = frozenset(),
    is_hasty: bool = False,
    rates: dict[str, float] = RATES,
) -> dict[str, Any]:
    """Run one side; return what became of the requests."""
    directory = Path(tempfile.mkdtemp(prefix="churn-"))
    haproxy = Haproxy(directory, publish.find_haproxy(os.environ).path)
    churn = Churn(Rumor(haproxy) if kind == "rumor" else Reloads(haproxy), haproxy, seed, without, is_hasty)
    try:
        return await churn.run(changes, rate, pause, rates)
    finally:
        await churn.end()
        shutil.rmtree(directory, ignore_errors=True)


def table(found: dict[str, dict[str, Any]]) -> str:
    kinds = ["GET", "POST", "upload", "slow", "tunnel", "h2"]
    lines = [
        f"| | sent | failed | {' | '.join(kinds)} | unsaveable | failed after |",
        f"|---|{'---|' * (len(kinds) + 4)}",
    ]
    for name, row in found.items():
        by_kind = " | ".join(str(row["failed_by_kind"].get(kind, 0)) for kind in kinds)
        after = ", ".join(f"{what} {count}" for what, count in sorted(row["failed_after"].items())) or "-"
        lines.append(
            f"| {name} | {row['sent']} | {row['failed']} | {by_kind} | {sum(row['unsaveable'].values())} | {after} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Changes under load, beside a reload for each.")
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument(
        "--rate", type=float, default=100.0, help="GET and POST a second; the other kinds have their own"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.8, help="seconds between two changes, about")
    parser.add_argument("--peer", action="store_true", help="run a HAProxy that is reloaded for each change as well")
    parser.add_argument("--without", nargs="*", default=[], choices=(*PLANNED, *CRASHES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found = {
        kind: asyncio.run(
            measure(kind, changes=options.changes, rate=options.rate, seed=options.seed, pause=options.pause,
                    without=frozenset(options.without))
        )
        for kind in (["rumor", "reload"] if options.peer else ["rumor"])
    }  # fmt: skip
    print(json.dumps(found, indent=2) if options.json else table(found))
    return 1 if found["rumor"]["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
