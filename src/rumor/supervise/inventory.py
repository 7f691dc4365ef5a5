"""What a supervisor supervises, kept beside its own files: every command of rumor's reads there what runs here.

The file holds the environment of the programs, secrets among it, so it is for its owner alone.
"""

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rumor.errors import Refused, Unreachable
from rumor.model import Seconds
from rumor.supervise.base import Program

_LOCK_DEADLINE = Seconds(30.0)
_LOCK_POLL = 0.02


@dataclass(frozen=True, slots=True)
class Inventory:
    """The programs, and what they were made from."""

    programs: tuple[Program, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What whoever planned them needs in order to plan them again: strings, numbers, lists."""

    def with_added(self, programs: Sequence[Program]) -> "Inventory":
        """Return the inventory with more programs.

        Raises:
            Refused: one of them is supervised already.
        """
        there = {program.name for program in self.programs}
        twice = [program.name for program in programs if program.name in there]
        if twice:
            raise Refused(f"{', '.join(twice)}: supervised already")
        return Inventory((*self.programs, *programs), self.origin)

    def without(self, names: Sequence[str]) -> "Inventory":
        return Inventory(tuple(program for program in self.programs if program.name not in names), self.origin)

    def find(self, names: Sequence[str]) -> tuple[Program, ...]:
        """Return programs by their names.

        Raises:
            Refused: one is not there.
        """
        known = {program.name: program for program in self.programs}
        missing = [name for name in names if name not in known]
        if missing:
            raise Refused(f"no program {', '.join(missing)} is supervised here: `rumor ps` lists them")
        return tuple(known[name] for name in names)


def format_inventory(inventory: Inventory) -> str:
    programs = [
        {
            "name": program.name,
            "group": program.group,
            "node": program.node,
            "command": list(program.command),
            "directory": str(program.directory),
            "log": str(program.log),
            "exits": str(program.exits),
            "environment": dict(program.environment),
            "forgets": list(program.forgets),
            "user": program.user,
            "stop_signal": program.stop_signal,
            "stop_wait": program.stop_wait,
            "notifies": program.notifies,
            "longest_pause": program.longest_pause,
            "priority": program.priority,
            "autostart": program.autostart,
            "writes": [str(path) for path in program.writes],
            "binds_low_ports": program.binds_low_ports,
            "reads_homes": program.reads_homes,
        }
        for program in inventory.programs
    ]
    return json.dumps({"origin": dict(inventory.origin), "programs": programs}, indent=2) + "\n"


def parse_inventory(text: str) -> Inventory:
    """Read what `format_inventory` wrote.

    Raises:
        Refused: it is not that.
    """
    try:
        value = json.loads(text)
        return Inventory(tuple(_program(entry) for entry in value["programs"]), dict(value["origin"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"the list of supervised programs cannot be read: {error}") from error


def read_inventory(path: Path) -> Inventory:
    """Read the file of a supervisor that runs.

    Raises:
        Unreachable: there is no such file.
        Refused: it is not one of ours.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unreachable(f"cannot read {path}: {getattr(error, 'strerror', error)}") from error
    return parse_inventory(text)


@asynccontextmanager
async def changing(path: Path) -> AsyncIterator[None]:
    """Hold the file for oneself from reading to writing: two who change it at once would undo one another's change.

    Raises:
        Unreachable: somebody else has held it for too long.
    """
    handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            async with asyncio.timeout(_LOCK_DEADLINE):
                while not _lock(handle):  # noqa: ASYNC110 - the kernel wakes nobody without blocking a thread
                    await asyncio.sleep(_LOCK_POLL)
        except TimeoutError as error:
            raise Unreachable(f"somebody else has been changing what is supervised for {_LOCK_DEADLINE:g} s") from error
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _program(entry: Mapping[str, Any]) -> Program:
    paths = {key: Path(entry[key]) for key in ("directory", "log", "exits")}
    waits = {key: Seconds(float(entry[key])) for key in ("stop_wait", "longest_pause")}
    words = {key: tuple(entry[key]) for key in ("command", "forgets")}
    # An inventory of an earlier version has no such key.
    writes = tuple(Path(path) for path in entry.get("writes", ()))
    return Program(**{**entry, **paths, **waits, **words, "writes": writes})
