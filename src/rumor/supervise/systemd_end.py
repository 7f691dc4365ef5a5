"""Write down how the program of a unit ended, and let its pauses grow. systemd runs this after each end:

    ExecStopPost=-+python -I -m rumor.supervise.systemd_end PROGRAM EXITS LOG LONGEST_PAUSE

systemd's own pauses grow since 254 only, and are never forgiven: here a pause is a drop-in of the unit, and systemd is
reloaded when it changes. What fails here costs a word about the end, or a longer pause; the program is started again.
It runs as root, and becomes the user `rumor` before it touches what lies in that user's directories.
"""

import contextlib
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rumor.atomic_file import write_atomically
from rumor.model import Seconds, WallTime
from rumor.supervise.backoff import FIRST_PAUSE, FORGIVEN_AFTER
from rumor.supervise.exit_files import write_exit
from rumor.supervise.exits import Exit
from rumor.supervise.systemd_text import USER, pause_file, render_pause, unit_name
from rumor.supervise.systemd_words import PROPERTIES, Unit, parse_asked, parse_end, parse_units

_DEADLINE = Seconds(5.0)
_LINES = 20
_LINES_BYTES = 16 * 1024
_FAILURES_LIMIT = 16


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    program, exits, log, longest = arguments[0], Path(arguments[1]), Path(arguments[2]), Seconds(float(arguments[3]))
    unit = unit_name(program)
    how = parse_end(environ)
    if how is None or parse_asked(_say("systemctl", "list-jobs", "--plain", "--no-legend", "--full", unit), unit):
        _set_pause(program, FIRST_PAUSE)
        return 0
    told = parse_units(_say("systemctl", "show", f"--property={PROPERTIES}", unit))[unit]
    failures = failures_of(told)
    if failures == 1 and told.restarts:
        # systemd counts anew, too.
        _say("systemctl", "reset-failed", unit)
    pause = pause_after(failures, longest)
    _set_pause(program, pause)
    words = _last_words(environ.get("INVOCATION_ID", ""))
    _become(USER)
    with contextlib.suppress(OSError):
        write_atomically(log, words)
    status, signal = how
    write_exit(exits, program, Exit(WallTime(time.time()), status, signal, failures, pause, log))
    return 0


def failures_of(unit: Unit) -> int:
    """Return how many ends in a row this is, without a minute of running between."""
    return 1 if unit.ran >= FORGIVEN_AFTER else min(unit.restarts + 1, _FAILURES_LIMIT)


def pause_after(failures: int, longest: Seconds) -> Seconds:
    return Seconds(max(FIRST_PAUSE, min(longest, FIRST_PAUSE * 2 ** (failures - 1))))


def _set_pause(program: str, pause: Seconds) -> None:
    path, wanted = pause_file(program), render_pause(pause) if pause > FIRST_PAUSE else ""
    there = path.read_text() if path.exists() else ""
    if there == wanted:
        return
    if wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, wanted, mode=0o644)
    else:
        path.unlink()
    _say("systemctl", "daemon-reload")


def _last_words(run: str) -> str:
    """Return the last lines that a program wrote in one of its runs."""
    # What it wrote in its last moment is still on its way.
    _say("journalctl", "--sync")
    match = f"_SYSTEMD_INVOCATION_ID={run}"
    return _say("journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={_LINES}", match)[-_LINES_BYTES:]


def _become(user: str) -> None:
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _say(*command: str) -> str:
    """Run a command and return what it says; nothing where it cannot be run, or takes too long."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, timeout=_DEADLINE, check=False, stdin=subprocess.DEVNULL)
        return done.stdout.decode("utf-8", "replace")
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
