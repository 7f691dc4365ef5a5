"""`rumor agent` with serf's flags: how it starts, fails, ends, and what it keeps."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rumor.names import parse_endpoint
from rumor.serf.rpc_client import RpcClient
from rumor.swim.sealing import format_key

KEY, NEW = format_key(bytes(32)), format_key(bytes(range(16)))
Start = Callable[..., "Agent"]


class Agent:
    def __init__(self, directory: Path, gossip: str, rpc: str, *words: str) -> None:
        self.gossip, self.rpc = gossip, rpc
        self.log = directory / f"{rpc.rpartition(':')[2]}.log"
        with self.log.open("wb") as output:
            flags = [f"-bind={gossip}", f"-rpc-addr={rpc}", "-profile=local", *words]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rumor", "agent", *flags],
                stdout=output, stderr=subprocess.STDOUT, cwd=directory,
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 30
        while words not in self.text:
            assert self.process.poll() is None, self.text
            assert time.monotonic() < deadline, f"{words!r} not in {self.text}"
            time.sleep(0.02)

    def client(self) -> RpcClient:
        return RpcClient(parse_endpoint(self.rpc))


@pytest.fixture
def start(free_port: Callable[[], int], tmp_path: Path) -> Iterator[Start]:
    started: list[Agent] = []

    def start_one(*words: str, gossip: str = "", is_running: bool = True) -> Agent:
        agent = Agent(tmp_path, gossip or f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", *words)
        started.append(agent)
        if is_running:
            agent.wait_for("Serf agent running!")
        return agent

    yield start_one
    for agent in started:
        agent.process.kill()
        agent.process.wait(10)


def names(agent: Agent) -> dict[str, str]:
    with agent.client() as client:
        found = client.call("members")["Members"]
    return {record["Name"].decode(): record["Status"].decode() for record in found}


@pytest.mark.parametrize(
    ("number", "flags", "status"),
    [
        (signal.SIGINT, {}, 0),
        (signal.SIGTERM, {}, 0),
        (signal.SIGTERM, {"leave_on_terminate": False}, 1),
        (signal.SIGINT, {"skip_leave_on_interrupt": True}, 1),
    ],
)
def test_a_signal_ends_it_with_or_without_a_leave(
    start: Start, tmp_path: Path, number: signal.Signals, flags: dict[str, bool], status: int
) -> None:
    (tmp_path / "c.json").write_text(json.dumps(flags))
    other = start("-node=other")
    agent = start("-node=a", f"-join={other.gossip}", f"-config-file={tmp_path / 'c.json'}")
    other.wait_for("EventMemberJoin: a ")
    agent.process.send_signal(number)
    assert agent.process.wait(20) == status
    other.wait_for("EventMemberLeave: a " if status == 0 else "EventMemberFailed: a ")


def test_a_join_that_nobody_answers_ends_it_with_serfs_words(start: Start) -> None:
    agent = start("-node=a", "-join=127.0.0.1:1", is_running=False)
    assert agent.process.wait(20) == 1
    assert "* Failed to join 127.0.0.1: dial tcp 127.0.0.1:1: connect: connection refused" in agent.text
    assert "Traceback" not in agent.text


def test_it_retries_to_join_for_ever(start: Start, free_port: Callable[[], int]) -> None:
    late = f"127.0.0.1:{free_port()}"
    agent = start("-node=a", f"-retry-join={late}", "-retry-interval=1s")
    agent.wait_for("agent: Received event: member-join")
    start("-node=late", gossip=late)
    agent.wait_for("EventMemberJoin: late ")


def test_it_gives_up_where_tries_have_a_limit(start: Start, free_port: Callable[[], int]) -> None:
    agent = start(
        "-node=a", f"-retry-join=127.0.0.1:{free_port()}", "-retry-interval=1s", "-retry-max=1", is_running=False
    )
    assert agent.process.wait(20) == 1
    assert "[ERR] agent: maximum retry join attempts made, exiting" in agent.text


def test_it_rejoins_from_its_snapshot_unless_it_left(start: Start, tmp_path: Path) -> None:
    other = start("-node=other")
    snapshot = f"-snapshot={tmp_path / 'snapshot'}"
    first = start("-node=a", f"-join={other.gossip}", snapshot)
    other.wait_for("EventMemberJoin: a ")
    first.process.kill()
    first.process.wait(10)
    second = start("-node=a", snapshot, gossip=first.gossip)
    second.wait_for("EventMemberJoin: other ")
    second.process.send_signal(signal.SIGINT)
    assert second.process.wait(20) == 0
    third = start("-node=a", snapshot, gossip=first.gossip)
    third.wait_for("Received event: member-join")
    assert names(third) == {"a": "alive"}
    third.process.send_signal(signal.SIGINT)
    assert third.process.wait(20) == 0


def test_rejoin_looks_for_the_others_even_after_a_leave(start: Start, tmp_path: Path) -> None:
    other = start("-node=other")
    words = ("-node=a", "-rejoin", f"-snapshot={tmp_path / 'snapshot'}")
    first = start(*words, f"-join={other.gossip}")
    other.wait_for("EventMemberJoin: a ")
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(20) == 0
    start(*words, gossip=first.gossip).wait_for("EventMemberJoin: other ")


def test_keys_and_tags_are_kept_in_their_files(start: Start, tmp_path: Path) -> None:
    ring, tags = tmp_path / "ring.json", tmp_path / "tags.json"
    ring.write_text(json.dumps([KEY]))
    agent = start("-node=a", f"-keyring-file={ring}", f"-tags-file={tags}")
    with agent.client() as client:
        client.call("install-key", {"Key": NEW})
        client.call("use-key", {"Key": NEW})
        client.call("tags", {"Tags": {"role": "web"}, "DeleteTags": []})
    assert json.loads(ring.read_text()) == [NEW, KEY]
    assert ring.stat().st_mode & 0o077 == 0
    assert json.loads(tags.read_text()) == {"role": "web"}
    assert KEY not in agent.text
    assert NEW not in agent.text


def test_handlers_run_and_their_failures_hurt_nobody(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "out"
    agent = start(
        "-node=a", "-tag=role=web", f"-event-handler=member-join=cat >> {out}", "-event-handler=user=exit 3",
        f"-event-handler=user:deploy=echo $SERF_USER_EVENT $SERF_TAG_ROLE >> {out}",
    )  # fmt: skip
    with agent.client() as client:
        client.call("event", {"Name": "deploy", "Payload": None, "Coalesce": False})
    deadline = time.monotonic() + 20
    while not (out.exists() and len(out.read_text().splitlines()) == 2):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert sorted(out.read_text().splitlines()) == ["a\t127.0.0.1\tweb\trole=web", "deploy web"]
    agent.wait_for("handler_failed")
    assert names(agent) == {"a": "alive"}


def next_event(client: RpcClient, agent: Agent) -> dict[str, Any]:
    found = next(client.records(), None)
    assert found is not None, f"the agent hung up; it said:\n{agent.text}"
    return found[1]


def test_a_token_is_asked_for_and_rumors_own_events_come_by_name(start: Start, tmp_path: Path) -> None:
    other = start("-node=other", "-rpc-auth=secret")
    refused = subprocess.run(
        [sys.executable, "-m", "rumor", "members", f"-rpc-addr={other.rpc}", "-rpc-auth=wrong"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert (refused.returncode, refused.stderr) == (1, "Invalid authentication token\n")
    agent = start("-node=a", f"-join={other.gossip}")
    with RpcClient(parse_endpoint(agent.rpc)) as client:
        client.call("stream", {"Type": "member-suspect,member-refuted"})
        os.kill(other.process.pid, signal.SIGSTOP)
        record = next_event(client, agent)
        assert record["Event"] == b"member-suspect"
        assert [member["Name"] for member in record["Members"]] == [b"other"]
        os.kill(other.process.pid, signal.SIGCONT)
        assert next_event(client, agent)["Event"] == b"member-refuted"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-profile=x"], "==> Unknown profile: x\n"),
        (["-tag=bad"], "==> Error: Invalid tag: 'bad'\n"),
        (["-discover=a.b"], "==> Invalid -discover 'a.b': letters, digits, - and _, at most 50\n"),
    ],
)
def test_what_is_wrong_ends_it_before_it_starts(words: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rumor", "agent", *words], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (1, said)
