"""The lab, as a user runs it; and that it notices what must not be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from examples.lab import run as lab
from tests.docker.conftest import ROOT, Engine, wait_for

STEPS = {
    f"{name}/{number:02}-{step}"
    for name, steps in lab.SCENARIOS.items()
    for number, (step, _, _) in enumerate(steps, 1)
}


@pytest.mark.timeout(240)
def test_the_lab_runs_from_start_to_end(images: Engine, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "lab" / "run.py", "--logs", tmp_path],
        env={**os.environ, **images.environment}, capture_output=True, text=True, timeout=220, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")}
    assert (found, len(found)) == (STEPS, 13)
    for step in STEPS:
        # Before the balancer there is no haproxy.cfg; everything else is there after each step.
        without_balancer = step in ("balancer-last/01-s1", "balancer-last/02-s2")
        for name in ("haproxy.cfg", "members.txt", "containers.txt"):
            size = (tmp_path / step / name).stat().st_size
            assert (size == 0) == (without_balancer and name == "haproxy.cfg"), (step, name, size)
    last = (tmp_path / "balancer-first" / "07-s2-killed" / "members.txt").read_text()
    assert [word for word in last.split() if word in ("alive", "left", "failed")].count("alive") == 3


@pytest.mark.timeout(120)
def test_the_lab_notices_a_stranger(images: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in images.environment.items():
        monkeypatch.setenv(name, value)
    one = lab.Lab("stranger", tmp_path)
    with one.in_network():
        one.do("start", lab.BALANCER)
        one.do("start", "s1")
        one.settle()
        images.run(
            "run", "--detach", "--network", one.network, "--hostname", "stranger",
            "--env", f"RUMOR_JOIN={lab.BALANCER}", "--env", "RUMOR_CLUSTER_PRESET=local", "rumor-webapp",
        )  # fmt: skip
        # It has a `web` tag like the others, so the balancer takes it in; only who knows what was done can tell.
        wait_for(lambda: "server stranger " in one.configuration(), one.configuration)
        with pytest.raises(lab.Mismatch, match="stranger"):
            one.settle(0.0)
        one.write(1, "stranger")
    assert "server stranger " in (tmp_path / "stranger" / "01-stranger" / "haproxy.cfg").read_text()
