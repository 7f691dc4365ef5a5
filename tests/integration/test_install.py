"""`rumor install --systemd`, judged by systemd's own reader of units."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import require_program

FILE = f"""
[cluster]
key = "AAAAAAAAAAAAAAAAAAAAAA=="

[balancer]
bind = [":80", ":8443"]

[service.web]
command = "{sys.executable} -m http.server {{port}} --directory '/tmp/a b %h $HOME'"
port = 3000
environment = {{ WHO = "it's \\"me\\"" }}
drain = "12s"
user = "www-data"
stop_signal = "INT"

[program.worker]
command = "sleep 1000"
parts = ["web"]

[template.hosts]
source = "hosts.j2"
destination = "out/hosts"
"""


def rumor(directory: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rumor", "install", "--systemd", *words],
        cwd=directory, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.fixture
def units(tmp_path: Path) -> dict[str, str]:
    """The units of a node that plays everything, by their names."""
    require_program("systemctl", "systemd")
    (tmp_path / "rumor.toml").write_text(FILE)
    value: dict[str, Any] = json.loads(
        rumor(tmp_path, "--dry-run", "--node", "n1", "--format", "json", "balancer", "web")
    )
    assert value["applied"] is False
    secret = [file for file in value["files"] if file["path"].startswith("/etc/rumor/")]
    assert [Path(file["path"]).name for file in secret] == ["web-app.env", "worker.env", "programs.json"]
    assert all((file["mode"], file["text"]) == ("0600", "") for file in secret)
    return {Path(file["path"]).name: file["text"] for file in value["files"] if file not in secret}


def verify(directory: Path, units: dict[str, str]) -> subprocess.CompletedProcess[str]:
    program = require_program("systemd-analyze", "systemd")
    place = directory / "units"
    place.mkdir()
    for name, text in units.items():
        (place / name).write_text(text)
    paths: Sequence[Path] = [place / name for name in units]
    return subprocess.run(
        [program, "verify", "--man=no", *paths], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{place}:"},
    )  # fmt: skip


def test_systemd_reads_all_units_without_a_word(tmp_path: Path, units: dict[str, str]) -> None:
    assert sorted(units) == [
        "rumor-agent.service", "rumor-haproxy.service", "rumor-web-app.service", "rumor-worker.service", "rumor.target",
    ]  # fmt: skip
    done = verify(tmp_path, units)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemds_reader_would_see_a_wrong_key(tmp_path: Path, units: dict[str, str]) -> None:
    wrong = units["rumor-agent.service"].replace("TimeoutStopSec=", "TimeoutStopSecs=")
    done = verify(tmp_path, {**units, "rumor-agent.service": wrong})
    assert "TimeoutStopSecs" in done.stderr


def test_units_say_what_rumor_toml_says(units: dict[str, str]) -> None:
    app = units["rumor-web-app.service"].splitlines()
    assert "User=www-data" in app
    assert "KillSignal=SIGINT" in app
    assert '--directory "/tmp/a b %%h $$HOME"' in next(line for line in app if line.startswith("ExecStart="))
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in units["rumor-haproxy.service"].splitlines()
    assert "User=rumor" in units["rumor-agent.service"].splitlines()
    assert "TimeoutStopSec=19" in units["rumor-agent.service"].splitlines(), "the drain, and time to leave"


def test_it_says_either_and_needs_parts(tmp_path: Path) -> None:
    (tmp_path / "rumor.toml").write_text(FILE)
    assert "either --dry-run" in rumor(tmp_path, "balancer", status=2)
    assert "either --dry-run" in rumor(tmp_path, "--dry-run", "--apply", "balancer", status=2)
    assert "what does this node play?" in rumor(tmp_path, "--dry-run", status=2)
    assert "there is no part 'shop'" in rumor(tmp_path, "--dry-run", "shop", status=2)
