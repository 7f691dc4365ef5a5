"""Processes by pid and start time: a pid alone may be somebody else's by now."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rumor.model import Seconds

_TERM_WAIT = Seconds(5.0)


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, past and future reuse of its pid included."""

    pid: int
    start_time: int
    """In clock ticks since boot, field 22 of /proc/PID/stat."""


def identify(pid: int) -> ProcessId | None:
    """Return the process that has this pid now, None if there is none (a zombie counts as none)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in the second field may hold spaces and brackets; the rest is plain.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else ProcessId(pid, int(fields[19]))


def is_running(process: ProcessId) -> bool:
    return identify(process.pid) == process


def write_record(path: Path, processes: Mapping[str, ProcessId]) -> None:
    """Keep which processes are ours, for a successor of a `rumor up` that was killed."""
    value = {name: [process.pid, process.start_time] for name, process in sorted(processes.items())}
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)


def read_record(path: Path) -> dict[str, ProcessId]:
    """Return what `write_record` has kept, nothing if it does not parse."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): ProcessId(int(pid), int(start)) for name, (pid, start) in value.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def end(processes: Mapping[str, ProcessId]) -> list[str]:
    """Terminate those that still run, then kill what does not end; return the names of those that ran. Blocks."""
    running = {name: process for name, process in processes.items() if is_running(process)}
    for number, wait in ((signal.SIGTERM, _TERM_WAIT), (signal.SIGKILL, Seconds(2.0))):
        deadline = time.monotonic() + wait
        # supervisord first: it would start again what falls before it.
        for _, process in sorted(running.items(), key=lambda entry: entry[0] != "supervisord"):
            if is_running(process):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, number)
                    # A frozen process hears nothing until it is thawed.
                    os.kill(process.pid, signal.SIGCONT)
        while any(is_running(process) for process in running.values()) and time.monotonic() < deadline:
            time.sleep(0.05)
    return sorted(running)
