"""Invariant 1 under load, as the demo tells it; and that the demo can fail."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STEPS = [
    "nodes_join", "node_leaves", "app_killed", "agent_killed", "node_frozen", "node_resumed", "balancer_agent_killed",
    "rolling_restart", "broken_template",
]  # fmt: skip


def run_demo(data: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Return exit status, the one object on stdout, and the progress from stderr."""
    command = [sys.executable, "-m", "rumor", "demo", "--json", "--data", str(data), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    value: dict[str, Any] = json.loads(lines[0])
    return done.returncode, value, done.stderr


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_no_request_fails_that_another_server_could_have_answered(tmp_path: Path) -> None:
    status, value, progress = run_demo(tmp_path)
    assert status == 0, progress
    assert value["ok"] is True
    assert [step["name"] for step in value["steps"]] == STEPS
    assert value["failed"] == 0
    assert value["sent"] >= sum(step["sent"] for step in value["steps"]) > 2000
    effects = {step["name"]: step["effect_ms"] for step in value["steps"]}
    assert all(effect is not None for effect in effects.values())
    # A POST was running on the app when it was killed: that the category is not empty shows that the kill was real.
    assert sum(step["unsaveable"] for step in value["steps"]) >= 1, progress
    assert not list(tmp_path.rglob("*.sock"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("switch", "words"),
    [
        pytest.param("gossip", [], id="gossip"),
        pytest.param("drain", ["--delay", "100", "--step", "rolling_restart"], id="drain"),
        pytest.param("redispatch", ["--delay", "100", "--step", "app_killed"], id="redispatch"),
    ],
)
def test_the_demo_fails_without(tmp_path: Path, switch: str, words: list[str]) -> None:
    status, value, progress = run_demo(tmp_path, "--without", switch, *words)
    assert status == 1, progress
    assert value["ok"] is False
    if switch == "gossip":
        assert "not ready" in value["error"]
    else:
        assert value["failed"] > 0, progress


@pytest.mark.counts
@pytest.mark.timeout(120)
@pytest.mark.parametrize("step", ["rolling_restart", "app_killed"])
def test_the_same_steps_pass_with_everything_on(tmp_path: Path, step: str) -> None:
    status, value, progress = run_demo(tmp_path, "--delay", "100", "--step", step)
    assert (status, value["failed"]) == (0, 0), progress


def test_an_unknown_step_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "rumor", "demo", "--step", "no_such_step"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "rolling_restart" in done.stderr
