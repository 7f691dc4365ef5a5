"""The files of `exits.py` on disk, and the last words of a log."""

import contextlib
import os
from pathlib import Path

from rumor.atomic_file import write_atomically
from rumor.supervise.exits import LIMIT, Exit, format_exit, parse_exit, printable

_TAIL_BYTES = 16 * 1024
_LINE_LIMIT = 300


def write_exit(directory: Path, program: str, end: Exit) -> None:
    """Keep a program's last end; on a full disk it is lost, and nothing else is."""
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / program, format_exit(end), mode=0o644)


def read_exit(directory: Path, program: str) -> Exit | None:
    """Return how a program ended last without having been asked to, None if it never did."""
    with contextlib.suppress(OSError), (directory / program).open("rb") as file:
        return parse_exit(file.read(LIMIT).decode("utf-8", "replace"))
    return None


def last_lines(log: Path, count: int) -> tuple[str, ...]:
    """Return the last lines that a program wrote to its log, oldest first, in printable characters."""
    path = log / "current" if log.is_dir() else log
    with contextlib.suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = printable(file.read(_TAIL_BYTES).decode("utf-8", "replace").split("\n"), limit=_LINE_LIMIT)
        return lines[-count:]
    return ()
