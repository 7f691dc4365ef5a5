"""A live agent under hostile bytes, by packet, stream and RPC: it goes on, grows no more, and says little of it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from tests.fuzz import seeds

from rumor.names import HostPort, parse_endpoint
from rumor.serf.rpc_client import RpcClient
from rumor.swim.codec import decode_packet, encode
from rumor.swim.messages import Ack, Ping

BATCH = 200
GROWTH_LIMIT_BYTES = 10 * 1024 * 1024
DEADLINE = 30.0


class Victim:
    """One agent on loopback, and a stranger who talks to it."""

    def __init__(self, directory: Path, gossip: HostPort, rpc: str) -> None:
        self.gossip, self.rpc = gossip, rpc
        self.log = directory / "agent.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rumor", "agent", "-node=victim", f"-bind={gossip}", f"-rpc-addr={rpc}"],
                stdout=output, stderr=subprocess.STDOUT, cwd=directory,
            )  # fmt: skip
        self.stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.stranger.bind(("127.0.0.1", 0))
        self.stranger.settimeout(0.5)
        self._seq = 1_000_000

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while words not in self.log.read_text(errors="replace"):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{words!r} not in {self.log.read_text()[-4000:]}"
            time.sleep(0.02)

    def send(self, packets: Iterator[bytes]) -> None:
        """Send packets no faster than they are taken: after each batch a ping must be answered."""
        while batch := list(islice(packets, BATCH)):
            for data in batch:
                self.stranger.sendto(data, (self.gossip.host, self.gossip.port))
            self.await_answer()

    def await_answer(self) -> None:
        deadline = time.monotonic() + DEADLINE
        self._seq += 1
        while True:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < deadline, "the agent no longer answers pings"
            self.stranger.sendto(encode(Ping(self._seq, "victim")), (self.gossip.host, self.gossip.port))
            with suppress(TimeoutError):
                while True:
                    answer = decode_packet(self.stranger.recv(65_536), local_port=1)
                    if any(isinstance(said, Ack) and said.seq_no == self._seq for said in answer.messages):
                        return

    def dial(self, where: tuple[str, int], data: bytes) -> None:
        """Open a stream, say something, and hang up when the agent does, or soon."""
        with suppress(OSError), socket.create_connection(where, timeout=5) as stream:
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
            stream.settimeout(0.2)
            while stream.recv(65_536):
                pass

    @property
    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> None:
        self.stranger.close()
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def victim(free_port: Callable[[], int], tmp_path: Path) -> Iterator[Victim]:
    one = Victim(tmp_path, HostPort("127.0.0.1", free_port()), f"127.0.0.1:{free_port()}")
    try:
        one.wait_for("Serf agent running!")
        yield one
    finally:
        one.end()


def torment(victim: Victim, packets: int, connections: int, random: Random) -> None:
    hostile = seeds.mutants(seeds.packets(), random)
    victim.send(islice(hostile, 4000))
    began, before = time.monotonic(), victim.resident_bytes
    victim.send(islice(hostile, packets))
    for data in islice(seeds.mutants(seeds.streams(), random), connections):
        victim.dial((victim.gossip.host, victim.gossip.port), data)
    victim.await_answer()
    growth = victim.resident_bytes - before
    assert growth < GROWTH_LIMIT_BYTES, f"{growth / 1e6:.1f} MB more after {packets} packets"
    rpc = parse_endpoint(victim.rpc)
    for data in islice(seeds.mutants(seeds.commands(), random), connections):
        # A command that makes the agent leave is one that it is right to obey.
        if b"leave" not in data:
            victim.dial((rpc.host, rpc.port), data)
    victim.await_answer()
    # A client of RPC is no stranger: it may give the agent events, queries and tags to keep.
    growth = victim.resident_bytes - before
    assert growth < 2 * GROWTH_LIMIT_BYTES, f"{growth / 1e6:.1f} MB more after {connections} clients of RPC"
    with RpcClient(rpc) as client:
        assert client.call("members")["Members"]
    victim.wait_for("network_refusals")
    lines = victim.log.read_text(errors="replace").splitlines()
    reports = [line for line in lines if "network_refusals" in line]
    assert len(reports) <= (time.monotonic() - began) / 10 + 2
    assert not any("Traceback" in line or "bug" in line for line in lines), "\n".join(lines[-40:])
    victim.process.send_signal(signal.SIGINT)
    assert victim.process.wait(DEADLINE) == 0


@pytest.mark.timeout(120)
def test_an_agent_lives_through_hostile_bytes(victim: Victim) -> None:
    torment(victim, 20_000, 150, Random(5))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_an_agent_lives_through_a_million_hostile_packets(victim: Victim) -> None:
    torment(victim, 1_000_000, 3000, Random())
