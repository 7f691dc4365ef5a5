"""One HAProxy on one file, and never two."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rumor.haproxy import launch

TEXT = """
global
    stats socket DIR/haproxy.sock mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend f
    bind 127.0.0.1:PORT
    http-request return status 200
"""
DEADLINE = 10.0


@pytest.fixture
def directory(free_port: Callable[[], int]) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="rumor-"))
    (path / "haproxy.cfg").write_text(TEXT.replace("DIR", str(path)).replace("PORT", str(free_port())))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(directory: Path, haproxy_program: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-S", launch.__file__, str(haproxy_program)]
        command += ["-W", "-S", f"{directory}/master.sock,mode,600", "-f", str(directory / "haproxy.cfg")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()
        process.communicate(timeout=DEADLINE)


def wait_for(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_second_one_on_the_same_file_does_not_start(
    directory: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    first = start()
    wait_for((directory / "haproxy.sock").exists, "it serves")
    for reloads in range(2):
        second = start()
        assert second.wait(DEADLINE) == launch.IN_USE
        assert second.stderr is not None
        assert f"another HAProxy runs on {directory / 'haproxy.cfg'}" in second.stderr.read()
        # The lock is held through a reload: the master starts itself anew.
        before = children(first.pid)
        os.kill(first.pid, signal.SIGUSR2)
        wait_for(lambda: bool(set(children(first.pid)) - set(before)), f"reload {reloads}")  # noqa: B023


@pytest.mark.parametrize("victim", ["master", "worker"])
def test_one_that_was_killed_leaves_the_way_free(
    directory: Path, start: Callable[[], subprocess.Popen[str]], victim: str
) -> None:
    first = start()
    # The master binds the sockets before it has a worker.
    wait_for(lambda: len(children(first.pid)) == 1, "it has a worker")
    (worker,) = children(first.pid)
    os.kill(first.pid if victim == "master" else worker, signal.SIGKILL)
    first.wait(DEADLINE)
    wait_for(lambda: not Path(f"/proc/{worker}").exists(), "the worker has ended")
    (directory / "haproxy.sock").unlink(missing_ok=True)
    second = start()
    wait_for(lambda: (directory / "haproxy.sock").exists() or second.poll() is not None, "the next one serves")
    assert second.poll() is None


@pytest.mark.parametrize(("command", "words"), [
    (["/no/haproxy", "-f", "haproxy.cfg"], "cannot start /no/haproxy"), (["haproxy"], "wants HAPROXY"),
])  # fmt: skip
def test_what_cannot_be_started_says_so(tmp_path: Path, command: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", launch.__file__, *command],
        cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert words in done.stderr
