"""What supervisord does not do by itself: try for ever, with pauses that grow, and say how a program ended."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rumor.model import Instant, Seconds, WallTime
from rumor.supervise.backoff import FORGIVEN_AFTER, Backoff
from rumor.supervise.base import Program, ProgramState, ProgramStatus
from rumor.supervise.exit_files import write_exit
from rumor.supervise.exits import Exit
from rumor.supervise.supervisord import Supervisord
from rumor.supervise.supervisord_log import LoggedEnd, read_ends

_READ_LIMIT = 256 * 1024


@dataclass(slots=True)
class _Ends:
    """A program's ends in a row."""

    count: int = 0
    last: float = 0.0


class Reviver:
    """Looks after one supervisord; call `look` a few times a second."""

    def __init__(self, supervisor: Supervisord) -> None:
        self._supervisor = supervisor
        self._backoffs: dict[str, Backoff] = {}
        self._ends: dict[str, _Ends] = {}
        self._pids: dict[str, int] = {}
        self._log = _Follower(supervisor.log)

    async def look(self) -> tuple[ProgramStatus, ...]:
        """Note who ended, start again what has fallen and whose pause is over; return the states.

        Raises:
            Unreachable: supervisord does not answer.
        """
        programs = {program.name: program for program in await self._supervisor.programs()}
        statuses = await self._supervisor.states()
        now = Instant(time.monotonic())
        due = [
            status.name
            for status in statuses
            if status.name in programs and self._note_state(status, programs[status.name], now)
        ]
        # After the states: an end is in the log by the time its state says so.
        ends: dict[str, Exit] = {}
        for end in read_ends(await asyncio.to_thread(self._log.new_lines)):
            if end.program in programs:
                ends[end.program] = await asyncio.to_thread(self._keep, programs[end.program], end)
        self._end_what_is_left(statuses)
        if due:
            await self._supervisor.revive(due)
        return tuple(
            replace(status, last_exit=ends[status.name]) if status.name in ends else status for status in statuses
        )

    def _note_state(self, status: ProgramStatus, program: Program, now: Instant) -> bool:
        """Note a program's state; say whether it is to be started again now."""
        backoff = self._backoffs.get(status.name, Backoff())
        is_due = False
        if status.state is ProgramState.BACKOFF:
            backoff = backoff.note_failed(now, longest=program.longest_pause)
            is_due = backoff.is_due(now)
            if is_due:
                backoff = backoff.note_retried()
        elif status.state is ProgramState.RUNNING:
            backoff = backoff.note_running(now)
        self._backoffs[status.name] = backoff
        return is_due

    def _end_what_is_left(self, statuses: Sequence[ProgramStatus]) -> None:
        """End what a program that is gone has started and left behind: it would hold its port, and its log."""
        pids = {status.name: status.pid for status in statuses if status.pid is not None}
        for name, pid in self._pids.items():
            # supervisord makes each program the leader of a group; a leader that lives is somebody else by now.
            if pids.get(name) != pid and not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
        self._pids = pids

    def _keep(self, program: Program, end: LoggedEnd) -> Exit:
        now = time.monotonic()
        ends = self._ends.setdefault(program.name, _Ends())
        ends.count = ends.count + 1 if now - ends.last < FORGIVEN_AFTER + program.longest_pause else 1
        ends.last = now
        retry_at = self._backoffs.get(program.name, Backoff()).retry_at
        pause = Seconds(max(0.0, retry_at - now)) if retry_at is not None else Seconds(0.0)
        known = Exit(WallTime(time.time()), end.status, end.signal, ends.count, pause, program.log)
        write_exit(program.exits, program.name, known)
        return known


class _Follower:
    """Reads what is added to a log, from its present end on; a log that was rotated away is read from its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = b""
        self._offset = 0
        with contextlib.suppress(OSError):
            self._offset = path.stat().st_size

    def new_lines(self) -> list[str]:
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = self._offset if self._offset <= size else 0
            file.seek(start)
            read = file.read(_READ_LIMIT)
            self._offset = start + len(read)
            *lines, self._rest = (self._rest + read).split(b"\n")
            self._rest = self._rest[-_READ_LIMIT:]
            return [line.decode("utf-8", "replace") for line in lines]
        return []
