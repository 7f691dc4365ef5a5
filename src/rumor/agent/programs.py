"""Watch how this node's programs end: their supervisor writes it down, and the agent tells it."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from rumor.log import get_logger
from rumor.supervise.exit_files import last_lines, read_exit
from rumor.supervise.exits import Exit

log = get_logger("programs")

_LOOK_INTERVAL = 1.0
_PROGRAMS_LIMIT = 100
_WORDS = 3
_TOLD = ".told"


class Programs:
    """Reads the directory in which each program's last unwanted end is kept.

    What was told is kept beside it, so that each end is told once, also by an agent that was down when it happened.
    """

    def __init__(self, exits: Path, *, tell: Callable[[str, Exit, tuple[str, ...]], None]) -> None:
        """Prepare.

        Args:
            exits: the node's directory for them.
            tell: called with the program, how it ended, and the last lines it wrote.
        """
        self._exits = exits
        self._tell = tell

    async def run(self) -> None:
        """Look each second until cancelled."""
        while True:
            for program, end, lines in await asyncio.to_thread(self._news):
                log.warning("program_ended", program=program, text=str(end), words=lines[-1] if lines else "")
                self._tell(program, end, lines)
            await asyncio.sleep(_LOOK_INTERVAL)

    def _news(self) -> list[tuple[str, Exit, tuple[str, ...]]]:
        found = []
        with contextlib.suppress(OSError):
            names = sorted(path.name for path in self._exits.iterdir() if not path.name.startswith("."))
            for name in names[:_PROGRAMS_LIMIT]:
                end = read_exit(self._exits, name)
                if end is not None and end != read_exit(self._exits, f".{name}{_TOLD}"):
                    found.append((name, end, last_lines(end.log, _WORDS)))
                    (self._exits / f".{name}{_TOLD}").write_bytes((self._exits / name).read_bytes())
        return found
