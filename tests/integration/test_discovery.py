"""`-discover`: two hosts of one network, made of network namespaces, meet without an address, whichever comes first."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import require_program

DEADLINE = 30.0
Run = Callable[..., "Host"]


class Host:
    """One agent in a namespace of its own."""

    def __init__(self, namespace: str, log: Path, *command: str) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *command], stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
            )

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while words not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{words!r} not in {self.log.read_text()}"
            time.sleep(0.02)


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """Two namespaces on one wire: 10.77.0.1 and 10.77.0.2."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    require_program("ip", "iproute2")
    names = f"rumor-a{os.getpid()}", f"rumor-b{os.getpid()}"
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(
            ["ip", "link", "add", "wire", "netns", names[0], "type", "veth", "peer", "name", "wire", "netns", names[1]],
            check=True,
        )
        for number, name in enumerate(names, 1):
            for words in (
                "link set lo up",
                f"addr add 10.77.0.{number}/24 dev wire",
                "link set wire up",
                # serf asks on the default route's network.
                "route add default dev wire",
            ):
                subprocess.run(["ip", "-n", name, *words.split()], check=True)
        for name in names:
            wait_for_ipv6(name)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def wait_for_ipv6(namespace: str) -> None:
    """Wait for the link's own IPv6 address: serf asks over IPv6 as well, and gives up where that fails."""
    deadline = time.monotonic() + DEADLINE
    while True:
        command = ["ip", "-n", namespace, "-6", "addr", "show", "dev", "wire", "scope", "link"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "fe80:" in shown and "tentative" not in shown:
            return
        assert time.monotonic() < deadline, shown
        time.sleep(0.05)


@pytest.fixture
def run(network: tuple[str, str], tmp_path: Path) -> Iterator[Run]:
    hosts: list[Host] = []

    def start(number: int, *command: str) -> Host:
        flags = [f"-node=host-{number}", f"-bind=10.77.0.{number}", "-discover=lab", "-rpc-addr=127.0.0.1:7373"]
        hosts.append(Host(network[number - 1], tmp_path / f"{number}.log", *command, *flags))
        return hosts[-1]

    yield start
    for host in hosts:
        host.process.kill()
        host.process.wait(10)


def rumor() -> tuple[str, ...]:
    return sys.executable, "-m", "rumor", "agent"


def serf() -> tuple[str, ...]:
    return shutil.which("serf") or "serf", "agent"


def test_rumor_finds_the_serf_that_was_there_first(run: Run, serf_program: Path) -> None:
    run(1, *serf()).wait_for("agent.mdns: Joined 1 hosts")
    late = run(2, *rumor(), "-log-level=debug")
    # Serf may hear of rumor's announcement and be faster; rumor must have found it all the same.
    late.wait_for("found name=host-1._serf_lab._tcp.local. address=10.77.0.1:7946")
    late.wait_for("EventMemberJoin: host-1 10.77.0.1")
    late.wait_for("mDNS cluster: lab")


def test_serf_finds_the_rumor_that_was_there_first(run: Run, serf_program: Path) -> None:
    # serf asks at its start, and then once a minute.
    run(1, *rumor()).wait_for("announced to the network")
    late = run(2, *serf())
    late.wait_for("10.77.0.1:7946")
    late.wait_for("EventMemberJoin: host-1 10.77.0.1")


def test_two_rumors_find_each_other(run: Run) -> None:
    first = run(1, *rumor())
    first.wait_for("Serf agent running!")
    run(2, *rumor()).wait_for("EventMemberJoin: host-1 10.77.0.1")
    first.wait_for("EventMemberJoin: host-2 10.77.0.2")
