"""s6: lay the scan directory out, ask s6-supervise for states, give it orders. The texts are in `s6_text.py`."""

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from rumor.atomic_file import write_atomically
from rumor.errors import Refused, Unreachable
from rumor.model import Seconds
from rumor.supervise.base import Program, ProgramState, ProgramStatus
from rumor.supervise.exit_files import read_exit
from rumor.supervise.inventory import Inventory, changing, format_inventory, read_inventory
from rumor.supervise.s6_text import (
    FAILURES,
    INVENTORY,
    PAUSE,
    PAUSING,
    Files,
    render_own_files,
    render_scan_directory,
    render_service,
    stop_script,
)

_DEADLINE = Seconds(10.0)
_POLL = 0.02
_FIELDS = "up,wantedup,ready,pid,updownfor"


def write_scan_directory(inventory: Inventory, scan_directory: Path) -> None:
    """Lay out the directory that s6-svscan is to start on."""
    _write(scan_directory, render_scan_directory(inventory.programs, scan_directory))
    _write_inventory(scan_directory, inventory)


class S6:
    """One scan directory under a running s6-svscan, as the `Supervisor` that rumor asks."""

    def __init__(self, scan_directory: Path) -> None:
        self._directory = scan_directory

    def inventory(self) -> Inventory:
        """Return what is supervised, and what it was made from.

        Raises:
            Unreachable: there is no scan directory of rumor's.
        """
        return read_inventory(self._directory / INVENTORY)

    async def is_alive(self) -> bool:
        """Say whether s6-svscan runs on the directory."""
        return await asyncio.to_thread(_listens, self._directory / ".s6-svscan" / "control")

    async def programs(self) -> tuple[Program, ...]:
        return self.inventory().programs

    async def states(self) -> tuple[ProgramStatus, ...]:
        programs = sorted(self.inventory().programs, key=lambda program: program.name)
        return tuple(await asyncio.gather(*map(self._state, programs)))

    async def start(self, names: Sequence[str]) -> None:
        for program in self.inventory().find(names):
            directory = self._directory / program.name
            for name in (PAUSE, FAILURES):
                (directory / name).unlink(missing_ok=True)
            # A pause under way would have to be sat out; its end is no program's.
            is_pausing = (directory / PAUSING).exists()
            await self._run("s6-svc", "-ru" if is_pausing else "-u", str(directory))

    async def stop(self, names: Sequence[str]) -> None:
        for program in self.inventory().find(names):
            await self._run("s6-svc", "-d", str(self._directory / program.name))

    async def add(self, programs: Sequence[Program]) -> None:
        async with changing(self._directory / INVENTORY):
            inventory = self.inventory().with_added(programs)
            for program in programs:
                await asyncio.to_thread(_write, self._directory, render_service(program))
            await self._keep(inventory)
            await self._run("s6-svscanctl", "-a", str(self._directory))
        fifos = [self._directory / program.name / "supervise" / "control" for program in programs]
        if not await _wait(lambda: all(map(_listens, fifos))):
            raise Unreachable(f"s6-svscan did not take in {', '.join(one.name for one in programs)} in time")

    async def remove(self, names: Sequence[str]) -> None:
        async with changing(self._directory / INVENTORY):
            inventory = self.inventory()
            inventory.find(names)
            await self._keep(inventory.without(names))
            # s6-svscan does not look at what begins with a dot; the directory stays until its s6-supervise has let go.
            gone = [(self._directory / name).rename(self._directory / f".removed-{name}") for name in names]
            await self._run("s6-svscanctl", "-an", str(self._directory))
            fifos = [path / part / "supervise" / "control" for path in gone for part in ("", "log")]
            await _wait(lambda: not any(map(_listens, fifos)))
            for path in gone:
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def shut_down(self) -> None:
        await self._run(str(self._directory / stop_script()), deadline=None)

    # --- from here on: how

    async def _state(self, program: Program) -> ProgramStatus:
        directory = self._directory / program.name
        last_exit = await asyncio.to_thread(read_exit, program.exits, program.name)
        words = (await self._run("s6-svstat", "-o", _FIELDS, str(directory), fine=(1, 100, 111))).split()
        if len(words) != len(_FIELDS.split(",")):
            return ProgramStatus(program.name, ProgramState.FATAL, None, None, last_exit, "s6 does not supervise it")
        up, wanted_up, ready = (word == "true" for word in words[:3])
        if up:
            state = ProgramState.RUNNING if ready or not program.notifies else ProgramState.STARTING
            if not wanted_up:
                state = ProgramState.STOPPING
            elif (directory / PAUSING).exists():
                state = ProgramState.BACKOFF
        else:
            state = ProgramState.BACKOFF if wanted_up else ProgramState.STOPPED
        pid = int(words[3]) if up and state is not ProgramState.BACKOFF else None
        return ProgramStatus(program.name, state, pid, Seconds(float(words[4])), last_exit)

    async def _keep(self, inventory: Inventory) -> None:
        await asyncio.to_thread(_write_inventory, self._directory, inventory)
        await asyncio.to_thread(_write, self._directory, render_own_files(inventory.programs, self._directory))

    async def _run(self, *command: str, fine: Sequence[int] = (), deadline: Seconds | None = _DEADLINE) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise Unreachable(f"{command[0]} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(deadline):
                out, err = await process.communicate()
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise Unreachable(f"{' '.join(command)} did not end within {deadline:g} s") from error
        if process.returncode not in (0, *fine):
            raise Refused(f"{' '.join(command)}: {err.decode(errors='replace').strip()[:500]}")
        return out.decode(errors="replace")


def _write(scan_directory: Path, files: Files) -> None:
    for name, (text, mode) in files.items():
        target = scan_directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # s6-svscan may read it at any moment.
        write_atomically(target, text, mode=mode)


def _write_inventory(scan_directory: Path, inventory: Inventory) -> None:
    _write(scan_directory, {INVENTORY: (format_inventory(inventory), 0o600)})


async def _wait(holds: Callable[[], bool]) -> bool:
    """Wait until something holds, as long as s6 may need for it; say whether it does. s6 tells nobody."""
    try:
        async with asyncio.timeout(_DEADLINE):
            while not holds():  # noqa: ASYNC110 - s6 wakes nobody
                await asyncio.sleep(_POLL)
    except TimeoutError:
        return False
    return True


def _listens(fifo: Path) -> bool:
    """Say whether somebody reads a named pipe; opening it for writing tells."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
