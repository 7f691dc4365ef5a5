"""systemd: write units, ask `systemctl` for states, give it orders. The texts are in `systemd_text.py`.

A unit that pauses sits its pause out also when it is started; when the pause gets shorter meanwhile, it does not.
"""

import asyncio
import contextlib
import os
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable, Sequence
from pathlib import Path

from rumor.atomic_file import write_atomically
from rumor.errors import Refused, Unreachable
from rumor.model import Seconds
from rumor.supervise.base import Program, ProgramStatus
from rumor.supervise.exit_files import read_exit
from rumor.supervise.inventory import Inventory, changing, format_inventory, read_inventory
from rumor.supervise.systemd_text import (
    INVENTORY,
    TARGET,
    environment_file,
    pause_file,
    render_files,
    unit_file,
    unit_name,
)
from rumor.supervise.systemd_words import PROPERTIES, Unit, parse_units, state_of

_DEADLINE = Seconds(30.0)
"""A host of many units takes seconds to read them anew."""
_STOP_SLACK = Seconds(5.0)
_OUTPUT_LIMIT = 1024 * 1024
_NO_SYSTEMD = ("Failed to connect to bus", "not been booted with systemd")


class Systemd:
    """rumor's units under a host's systemd, as the `Supervisor` that rumor asks; what it changes, root alone may."""

    def __init__(self, root: Path = Path("/"), systemctl: Sequence[str] = ("systemctl",)) -> None:
        """Prepare.

        Args:
            root: where this host's files begin.
            systemctl: how its systemd is asked.
        """
        self._root = root
        self._systemctl = systemctl
        self._inventory = self._at(INVENTORY)

    def inventory(self) -> Inventory:
        """Return what is supervised, and what it was made from.

        Raises:
            Unreachable: rumor was never installed here, or this user may not know.
        """
        try:
            return read_inventory(self._inventory)
        except Unreachable as error:
            if os.geteuid() != 0 and self.is_installed():
                raise Unreachable(f"{error}: what systemd supervises is told to root alone, so use sudo") from error
            raise

    def is_installed(self) -> bool:
        """Say whether `rumor install` has left anything here."""
        return self._inventory.exists()

    async def programs(self) -> tuple[Program, ...]:
        return self.inventory().programs

    async def states(self) -> tuple[ProgramStatus, ...]:
        programs = sorted(self.inventory().programs, key=lambda program: program.name)
        if not programs:
            return ()
        names = _units(program.name for program in programs)
        units = parse_units(await self._run("show", f"--property={PROPERTIES}", *names))
        missing = [name for name in names if name not in units]
        if missing:
            raise Refused(f"systemctl show says nothing of {', '.join(missing)}")
        return await asyncio.to_thread(
            lambda: tuple(self._status(program, units[unit_name(program.name)]) for program in programs)
        )

    async def start(self, names: Sequence[str]) -> None:
        self.inventory().find(names)
        await self._forget_failures(names)
        await self._run("start", "--no-block", *_units(names))

    async def stop(self, names: Sequence[str]) -> None:
        self.inventory().find(names)
        await self._run("stop", "--no-block", *_units(names))

    async def add(self, programs: Sequence[Program]) -> None:
        async with changing(self._inventory):
            inventory = self.inventory().with_added(programs)
            await self._keep(inventory)
        starting = [program.name for program in programs if program.autostart]
        if starting:
            await self._run("start", "--no-block", *_units(starting))

    async def remove(self, names: Sequence[str]) -> None:
        async with changing(self._inventory):
            inventory = self.inventory()
            inventory.find(names)
            for name in names:
                for path in (unit_file(name), environment_file(name), pause_file(name)):
                    self._at(path).unlink(missing_ok=True)
            await self._keep(inventory.without(names))
        # One that has failed would be remembered without its file; one that has not may be forgotten already.
        with contextlib.suppress(Refused):
            await self._run("reset-failed", *_units(names))

    async def shut_down(self) -> None:
        programs = self.inventory().programs
        patience = sum(program.stop_wait + _STOP_SLACK for program in programs)
        # Each is named, since systemctl waits for those alone; the target first, so that all know of each other.
        names = _units(program.name for program in programs)
        await self._run("stop", TARGET, *names, deadline=Seconds(_DEADLINE + patience))

    # --- from here on: how

    def _at(self, path: Path) -> Path:
        return self._root / path.relative_to("/")

    def _status(self, program: Program, unit: Unit) -> ProgramStatus:
        state, words = state_of(unit)
        since = None if unit.changed is None else Seconds(max(0.0, time.monotonic() - unit.changed))
        return ProgramStatus(
            program.name, state, unit.pid, since, read_exit(self._at(program.exits), program.name), words
        )

    async def _keep(self, inventory: Inventory) -> None:
        """Write all units anew, since each says after which others it starts; the inventory last, when all is done."""
        await asyncio.to_thread(self._write_units, inventory.programs)
        await self._run("daemon-reload")
        await asyncio.to_thread(write_atomically, self._inventory, format_inventory(inventory))

    def _write_units(self, programs: Sequence[Program]) -> None:
        for path, (text, mode) in render_files(programs, sys.executable).items():
            target = self._at(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, text, mode=mode)

    async def _forget_failures(self, names: Sequence[str]) -> None:
        """Let pauses be short again, one under way, too."""
        pauses = [path for name in names if (path := self._at(pause_file(name))).exists()]
        for path in pauses:
            path.unlink(missing_ok=True)
        if pauses:
            await self._run("daemon-reload")
        # systemd's own count; it has none of what it has not loaded.
        with contextlib.suppress(Refused):
            await self._run("reset-failed", *_units(names))

    async def _run(self, *words: str, deadline: Seconds = _DEADLINE) -> str:
        order = f"systemctl {' '.join(words)}"[:200]
        try:
            process = await asyncio.create_subprocess_exec(
                *self._systemctl, *words, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
            )
        except OSError as error:
            raise Unreachable(f"{self._systemctl[0]} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(deadline):
                out, err = await asyncio.gather(_first_of(process.stdout), _first_of(process.stderr))
                await process.wait()
        except TimeoutError as error:
            raise Unreachable(f"{order} did not end within {deadline:g} s") from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        said = err.decode(errors="replace").strip()[:500]
        if process.returncode and any(sign in said for sign in _NO_SYSTEMD):
            raise Unreachable(f"systemd does not answer, is it this host's first process? {said}")
        if process.returncode:
            raise Refused(f"{order}: {said}")
        return out.decode(errors="replace")


def _units(names: Iterable[str]) -> list[str]:
    return [unit_name(name) for name in names]


async def _first_of(stream: asyncio.StreamReader | None) -> bytes:
    """Read to the end and return the first of it."""
    kept = b""
    while stream is not None and (piece := await stream.read(_OUTPUT_LIMIT)):
        kept = (kept + piece)[:_OUTPUT_LIMIT]
    return kept
