"""How a program ended that nobody had asked to end, as one line of a file.

Each program's last such end is kept in a file of its name: whoever supervises it writes the file, and its node's agent
and `rumor ps` read it. A file outlives them all, so a crash is told also if the agent was down when it happened.
"""

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rumor.model import Seconds, WallTime

LIMIT = 8 * 1024
"""More than this is no file of ours."""
_BY_SIGNAL = 256
"""The status that stands for a signal, as s6 hands it to `finish`."""
_LINE = re.compile(r"(\d{1,12}) (\d{1,3}) (\d{1,3}) (\d{1,6}) (\d{1,6}) ([^\n]+)\n?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Exit:
    """One end that nobody asked for."""

    at: WallTime
    status: int | None
    """None if a signal ended it."""
    signal: int | None
    failures: int
    """How many in a row this is, without a minute of running between."""
    pause: Seconds
    """How long its supervisor waits before it starts it again."""
    log: Path
    """Where its own words are: a file, or a directory of s6-log's."""

    def __str__(self) -> str:
        how = f"ended with status {self.status}" if self.signal is None else f"ended by {signal_name(self.signal)}"
        again = f", {self.failures} times in a row" if self.failures > 1 else ""
        return f"{how}{again}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def format_exit(end: Exit) -> str:
    """Return the line that `parse_exit` reads, and that the `finish` script of s6 writes."""
    status = _BY_SIGNAL if end.status is None else end.status
    return f"{end.at:.0f} {status} {end.signal or 0} {end.failures} {end.pause:.0f} {end.log}\n"


def parse_exit(text: str) -> Exit | None:
    """Return what a file says, None if it is no such line: it may be half written, or somebody else's."""
    match = _LINE.fullmatch(text) if len(text) <= LIMIT else None
    if match is None:
        return None
    at, status, number, failures, pause = (int(match[group]) for group in range(1, 6))
    by_signal = status == _BY_SIGNAL
    return Exit(
        WallTime(float(at)), None if by_signal else status, number if by_signal else None, failures,
        Seconds(float(pause)), Path(match[6]),
    )  # fmt: skip


def printable(lines: Iterable[str], *, limit: int) -> tuple[str, ...]:
    """Return a program's own words fit for a journal and a terminal: no control characters, each line bounded."""
    return tuple(
        "".join(character if character.isprintable() else "?" for character in line.strip())[:limit]
        for line in lines
        if line.strip()
    )
