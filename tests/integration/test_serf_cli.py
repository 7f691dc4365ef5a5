"""serf's own command line against a rumor agent says what it says against a serf agent, and so does rumor's."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rumor.swim.sealing import format_key

KEY, NEW = format_key(bytes(range(32))), format_key(bytes(range(16)))
HANDLER = "-event-handler=query:load=echo 0.42"


@dataclass
class Agent:
    """One agent of either kind, told apart by nothing but its program."""

    process: subprocess.Popen[bytes]
    rpc: str
    gossip: str
    log: Path


@dataclass
class Cluster:
    """Two agents of one kind, `a` and `bbb`, that are joined."""

    first: Agent
    second: Agent
    client: tuple[str, ...]

    def query(self, *words: str) -> tuple[int, str]:
        """Ask the cluster; again where the real client shows what the real agent said in the name of nobody.

        An agent whose query is over may write some such records before it says so. rumor's client leaves them out.
        """
        while True:
            status, text = self.run("query", *words)
            if self.client == RUMOR or not ("from ''" in text or '""' in text):
                return status, text

    def run(self, command: str, *words: str, timeout: float = 20.0) -> tuple[int, str]:
        done = subprocess.run(
            [*self.client, command, f"-rpc-addr={self.first.rpc}", *words],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        return done.returncode, (done.stdout + done.stderr).replace(self.first.gossip, "A").replace(
            self.second.gossip, "B"
        )


def wait_for(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 40
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


pytestmark = pytest.mark.timeout(120)
RUMOR = (sys.executable, "-m", "rumor")


KINDS = ("serf against serf", "serf against rumor", "rumor against serf", "rumor against rumor")


@pytest.fixture(params=KINDS)
def cluster(
    request: pytest.FixtureRequest, serf_program: Path, free_port: Callable[[], int], tmp_path: Path
) -> Iterator[Cluster]:
    with running(request.param, serf_program, free_port, tmp_path) as one:
        yield one


@contextmanager
def running(kind: str, serf: Path, free_port: Callable[[], int], directory: Path) -> Iterator[Cluster]:
    client, _, server = kind.partition(" against ")
    programs = {"serf": (str(serf),), "rumor": RUMOR}
    started: list[Agent] = []

    def start(name: str, *words: str) -> Agent:
        gossip, rpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        log = directory / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*programs[server], "agent", f"-node={name}", f"-bind={gossip}", f"-rpc-addr={rpc}", "-profile=local",
                 f"-encrypt={KEY}", HANDLER, *words],
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        agent = Agent(process, rpc, gossip, log)
        started.append(agent)
        wait_for(lambda: "Serf agent running!" in log.read_text(), f"{name} runs: {log.read_text()}")
        return agent

    try:
        first = start("a", "-tag=role=web")
        second = start("bbb", "-tag=role=db", "-tag=dc=east", f"-join={first.gossip}")
        found = Cluster(first, second, programs[client])
        wait_for(lambda: found.run("members")[1].count("alive") == 2, "both are members")
        yield found
    finally:
        for agent in started:
            agent.process.kill()
            agent.process.wait(10)


def test_every_command_says_what_serf_says(serf_program: Path, free_port: Callable[[], int], tmp_path: Path) -> None:
    """All kinds side by side, since most of it is waiting for answers that are late by design."""

    def check(kind: str) -> None:
        directory = tmp_path / kind.replace(" ", "-")
        directory.mkdir()
        with running(kind, serf_program, free_port, directory) as one:
            check_every_command(one)

    with ThreadPoolExecutor(len(KINDS)) as pool:
        checks = {kind: pool.submit(check, kind) for kind in KINDS}
    failed = {kind: check.exception() for kind, check in checks.items() if check.exception() is not None}
    for kind, error in failed.items():
        print(f"--- {kind}: {error}")
    for error in failed.values():
        assert error is not None
        raise error


def check_every_command(cluster: Cluster) -> None:
    run, query = cluster.run, cluster.query
    # A real agent lists members, and tags, in any order.
    status, text = run("members")
    lines = sorted(re.sub("role=db,dc=east|dc=east,role=db", "TAGS", text).splitlines())
    assert (status, lines) == (0, ["a    A  alive  role=web", "bbb  B  alive  TAGS"])
    assert run("members", "-role=web", "-detailed") == (
        0,
        "Deprecation warning: 'Role' has been replaced with 'Tags'\n"
        "a  A  alive  role=web  Protocol Version: 5  Available Protocol Range: [2, 5]\n",
    )
    assert run("members", "-status=left") == (0, "\n")
    status, text = run("members", "-format=json", "-tag", "dc=e.*", "-name=b+")
    (found,) = json.loads(text)["members"]
    port = int(cluster.second.gossip.rpartition(":")[2])
    assert found == {
        "name": "bbb", "addr": "B", "port": port, "tags": {"dc": "east", "role": "db"}, "status": "alive",
        "protocol": {"max": 5, "min": 2, "version": 5},
    }  # fmt: skip
    # Events and queries.
    assert run("event", "deploy", "1.4") == (0, "Event 'deploy' dispatched! Coalescing enabled: true\n")
    assert run("event", "-coalesce=false", "deploy") == (0, "Event 'deploy' dispatched! Coalescing enabled: false\n")
    status, text = run("event", "x", "y" * 600)
    assert (status, text) == (
        1, "Error sending event: user event exceeds configured limit of 512 bytes before encoding\n",
    )  # fmt: skip
    status, text = query("-timeout=1500ms", "load", "x")
    assert status == 0
    assert sorted(text.splitlines()) == sorted(
        ["Query 'load' dispatched", "Ack from 'a'", "Ack from 'bbb'", "Response from 'a': 0.42",
         "Response from 'bbb': 0.42", "Total Acks: 2", "Total Responses: 2"]
    )  # fmt: skip
    status, text = query("-timeout=1500ms", "-no-ack", "-tag=role=^d", "load")
    assert text == "Query 'load' dispatched\nResponse from 'bbb': 0.42\nTotal Responses: 1\n"
    status, text = query("-timeout=1500ms", "-format=json", "-node=bbb", "load")
    assert json.loads(text) == {"Acks": ["bbb"], "Responses": {"bbb": "0.42\n"}}
    assert run("reachability") == (
        0, "Total members: 2, live members: 2\nStarting reachability test...\nSuccessfully contacted all live nodes\n",
    )  # fmt: skip
    # Distances.
    wait_for(lambda: run("rtt", "bbb")[0] == 0, "a distance is known")
    assert re.fullmatch(r"Estimated bbb <-> a rtt: \d+\.\d{3} ms\n", run("rtt", "bbb")[1])
    assert run("rtt", "zzz") == (1, 'Could not find a coordinate for node "zzz"\n')
    # Tags and numbers.
    assert run("tags", "-set", "v=2", "-delete", "role") == (0, "Successfully updated agent tags\n")
    assert run("members", "-name=a") == (0, "a  A  alive  v=2\n")
    status, text = run("info")
    keys = [line.strip().partition(" = ")[0] for line in text.splitlines()]
    assert keys == [
        "agent:", "name", "event_handlers:", "query:load", "runtime:", "arch", "cpu_count", "goroutines", "max_procs",
        "os", "version", "serf:", "coordinate_resets", "encrypted", "event_queue", "event_time", "failed",
        "health_score", "intent_queue", "left", "member_time", "members", "query_queue", "query_time", "tags:", "v",
    ]  # fmt: skip
    info = json.loads(run("info", "-format=json")[1])
    assert (info["serf"]["members"], info["serf"]["encrypted"], info["serf"]["event_time"]) == ("2", "true", "3")
    # Keys.
    assert run("keys", f"-install={NEW}") == (
        0, "==> Installing key on all members...\n==> Successfully installed key!\n",
    )  # fmt: skip
    assert run("keys", f"-use={NEW}")[1].endswith("==> Successfully changed primary key!\n")
    status, text = run("keys", "-list")
    # Go's maps have no order.
    assert (status, sorted(text.splitlines())) == (
        0,
        sorted(
            ["==> Asking all members for installed keys...", "==> Keys gathered, listing cluster keys...", "",
             f"{KEY}  [2/2]", f"{NEW}                      [2/2]"]
        ),
    )  # fmt: skip
    status, text = run("keys", f"-remove={NEW}")
    assert (status, sorted(text.splitlines())) == (
        1,
        sorted(
            ["==> Removing key on all members...", "failed:  a    Removing the primary key is not allowed",
             "failed:  bbb  Removing the primary key is not allowed", "",
             "Error removing key: 2/2 nodes reported failure"]
        ),
    )  # fmt: skip
    assert run("keys", "-install=bad!") == (
        1, "==> Installing key on all members...\n\nError installing key: illegal base64 data at input byte 3\n",
    )  # fmt: skip
    # Coming and going.
    assert run("join", cluster.second.gossip) == (0, "Successfully joined cluster by contacting 1 nodes.\n")
    status, text = run("join", "127.0.0.1:1")
    assert (status, text) == (
        1,
        "Error joining the cluster: 1 error occurred:\n"
        "\t* Failed to join 127.0.0.1: dial tcp 127.0.0.1:1: connect: connection refused\n\n\n",
    )
    assert run("force-leave", "nobody") == (0, "")
    cluster.second.process.kill()
    wait_for(lambda: "failed" in run("members", "-name=bbb")[1], "bbb has failed")
    assert run("force-leave", "bbb") == (0, "")
    wait_for(lambda: "left" in run("members", "-name=bbb")[1], "bbb was sent away")
    assert run("force-leave", "-prune", "bbb") == (0, "")
    wait_for(lambda: run("members", "-name=bbb")[1] == "\n", "bbb is forgotten")
    assert run("leave") == (0, "Graceful leave complete\n")
    assert cluster.first.process.wait(20) == 0
    status, text = run("members")
    assert (status, text) == (
        1, f"Error connecting to Serf agent: dial tcp {cluster.first.rpc}: connect: connection refused\n",
    )  # fmt: skip


def test_monitor_shows_events_and_the_log(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "monitor"
    with out.open("wb") as output:
        monitor = subprocess.Popen([*cluster.client, "monitor", f"-rpc-addr={cluster.first.rpc}"], stdout=output)
    try:
        wait_for(lambda: "EventMemberJoin: bbb" in out.read_text(), "the log's last lines come first")
        cluster.run("event", "-coalesce=false", "deploy", "now")
        wait_for(lambda: "Received event: user-event: deploy" in out.read_text(), "new lines follow")
        wait_for(lambda: 'Name: "deploy"' in out.read_text() or "Name: deploy" in out.read_text(), "and the event")
    finally:
        monitor.kill()
        monitor.wait(10)
