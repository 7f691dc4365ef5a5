"""Processes are known by pid and start time, and only ours are ended."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rumor.local.processes import ProcessId, end, identify, is_running, read_record, write_record

STUBBORN = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('set', flush=True); time.sleep(60)"
)


@pytest.fixture
def run() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def of(process: subprocess.Popen[str]) -> ProcessId:
    found = identify(process.pid)
    assert found is not None
    return found


def test_a_process_is_running_until_it_has_ended(run: Callable[[str], subprocess.Popen[str]]) -> None:
    process = run("import time; time.sleep(60)")
    known = of(process)
    assert is_running(known)
    assert not is_running(ProcessId(known.pid, known.start_time - 1)), "a pid used again is another process"
    process.kill()
    process.wait(10)
    assert not is_running(known)


def test_a_zombie_is_not_running(run: Callable[[str], subprocess.Popen[str]]) -> None:
    process = run("print('done', flush=True)")
    assert process.stdout is not None
    process.stdout.read()
    # Not waited for, so it stays a zombie as soon as it has ended.
    deadline = 200_000
    while identify(process.pid) is not None and deadline:
        deadline -= 1
    assert identify(process.pid) is None


def test_what_does_not_end_by_itself_is_killed(
    run: Callable[[str], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rumor.local.processes._TERM_WAIT", 0.2)
    gentle, stubborn = run("import time; print('set', flush=True); time.sleep(60)"), run(STUBBORN)
    for process in (gentle, stubborn):
        assert process.stdout is not None
        process.stdout.readline()
    known = {"gentle": of(gentle), "stubborn": of(stubborn), "gone": ProcessId(gentle.pid, 1)}
    assert end(known) == ["gentle", "stubborn"]
    assert gentle.wait(10) == -signal.SIGTERM
    assert stubborn.wait(10) == -signal.SIGKILL


def test_a_frozen_process_is_ended_too(run: Callable[[str], subprocess.Popen[str]]) -> None:
    process = run("import time; print('set', flush=True); time.sleep(60)")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    assert end({"frozen": of(process)}) == ["frozen"]
    assert process.wait(10) == -signal.SIGTERM


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = {"web-1-app": ProcessId(7, 100), "haproxy": ProcessId(8, 200)}
    write_record(tmp_path / "processes.json", record)
    assert read_record(tmp_path / "processes.json") == record


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": ["x", "y"]}'])
def test_a_broken_record_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "processes.json").write_text(text)
    assert read_record(tmp_path / "processes.json") == {}
