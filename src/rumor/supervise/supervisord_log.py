"""supervisord's own log -> the ends of programs: its API does not say by which signal one ended.

Facts: supervisor/process.py, `finish`; an end that was asked for is logged as `stopped`.
"""

import re
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_END = re.compile(
    r"^\S+ \S+ (?:INFO|WARN) exited: (\S+) "
    r"\((?:exit status (-?\d{1,9})|terminated by (SIG[A-Z0-9+]{1,12}|signal \d{1,3}))",
)


@dataclass(frozen=True, slots=True)
class LoggedEnd:
    """One line of supervisord's: a program ended, and nobody had asked it to."""

    program: str
    status: int | None
    signal: int | None


def read_ends(lines: Iterable[str]) -> Iterator[LoggedEnd]:
    """Yield the ends that these lines tell of, in their order."""
    for line in lines:
        match = _END.match(line)
        if match is None:
            continue
        program, status, name = match.groups()
        if status is not None:
            yield LoggedEnd(program, int(status) & 0xFF, None)
        else:
            yield LoggedEnd(program, None, _number(name))


def _number(name: str) -> int:
    if name.startswith("signal "):
        return int(name.removeprefix("signal "))
    try:
        return signal.Signals[name].value
    except KeyError:
        return 0
