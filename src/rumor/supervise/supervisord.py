"""supervisord, from PyPI: write its configuration, start it, ask it over its UNIX socket.

It gets a session of its own, so that a Ctrl-C at the terminal reaches rumor alone and the order of stopping is kept.
Facts: supervisord stops groups one after the other, highest priority first; whoever wants to stop many at once asks
for it program by program (`operating.py`).
"""

import asyncio
import contextlib
import os
import re
import shlex
import subprocess
import sys
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from rumor.atomic_file import write_atomically
from rumor.errors import Bug, Refused, Unreachable
from rumor.model import Seconds
from rumor.places import run_directory
from rumor.supervise.backoff import FIRST_PAUSE
from rumor.supervise.base import Program, ProgramState, ProgramStatus
from rumor.supervise.exit_files import read_exit
from rumor.supervise.inventory import Inventory, changing, format_inventory, read_inventory
from rumor.supervise.waiting import wait_until

_DEADLINE = Seconds(10.0)
_START_DEADLINE = Seconds(10.0)
_LOG_BYTES = "10MB"
_LOG_BACKUPS = 3
_DOWN = "down"
# supervisor.xmlrpc.Faults
_SHUTDOWN_STATE, _BAD_NAME, _ABNORMAL_TERMINATION, _SPAWN_ERROR, _ALREADY_STARTED, _NOT_RUNNING = 6, 10, 40, 50, 60, 70

_FALLEN = (ProgramState.EXITED, ProgramState.FATAL)
# Where a comment begins in the middle of a line; there is no way to escape it.
_COMMENT = re.compile(r"(\s)([;#])")


def write_config(programs: Sequence[Program], *, run_directory: Path, log: Path) -> str:
    """Return supervisord.conf for these programs, each in a group of its own, named GROUP.PROGRAM.

    supervisord adds and removes whole groups only, so programs that shared one could not come and go.

    Raises:
        Refused: supervisord has no way to write a value of the user's.
        Bug: a value holds a line break, which would start a directive of its own.
    """
    socket = run_directory / "supervisor.sock"
    lines = [
        "[supervisord]",
        "nodaemon = true",
        f"logfile = {_value(log)}",
        f"logfile_maxbytes = {_LOG_BYTES}",
        f"logfile_backups = {_LOG_BACKUPS}",
        f"pidfile = {_value(run_directory / 'supervisord.pid')}",
        f"childlogdir = {_value(run_directory)}",
        "umask = 077",
        "",
        "[unix_http_server]",
        f"file = {_value(socket)}",
        "chmod = 0600",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        "",
    ]
    for program in programs:
        lines += _program_section(program)
        lines += [
            f"[group:{_value(_group(program))}]",
            f"programs = {_value(program.name)}",
            f"priority = {program.priority}",
            "",
        ]
    return "\n".join(lines)


def _group(program: Program) -> str:
    return f"{program.group}.{program.name}"


def _program_section(program: Program) -> list[str]:
    # What is inherited cannot be taken away here, only emptied.
    variables = {**dict.fromkeys(program.forgets, ""), **program.environment}
    environment = ",".join(f'{name}="{_quoted(value)}"' for name, value in sorted(variables.items()))
    return [
        f"[program:{_value(program.name)}]",
        f"command = {_command(program.command)}",
        f"directory = {_value(program.directory)}",
        *([f"environment = {environment}"] if environment else []),
        *([f"user = {_value(program.user)}"] if program.user else []),
        f"autostart = {str(program.autostart).lower()}",
        # One try: pauses that grow up to a ceiling, and trying for ever, are ours (`reviver.py`).
        f"autorestart = {str(program.longest_pause <= FIRST_PAUSE).lower()}",
        "startsecs = 1",
        "startretries = 0",
        f"stopsignal = {_value(program.stop_signal)}",
        f"stopwaitsecs = {max(1, round(program.stop_wait))}",
        "stopasgroup = false",
        "killasgroup = true",
        "redirect_stderr = true",
        f"stdout_logfile = {_value(program.log)}",
        f"stdout_logfile_maxbytes = {_LOG_BYTES}",
        f"stdout_logfile_backups = {_LOG_BACKUPS}",
        "",
    ]


def _value(value: object) -> str:
    """Return a value as it must stand in supervisord.conf, where `%` starts an expansion."""
    text = str(value)
    if not text.isprintable():
        raise Bug(f"this cannot stand in supervisord.conf: {text[:120]!a}")
    if _COMMENT.search(text):
        raise Refused(f"supervisord cannot carry {text[:120]!a}: what follows the blank would be a comment")
    return text.replace("%", "%%")


def _command(words: Sequence[str]) -> str:
    """Return a command line: words in which a comment would begin are quoted in two pieces."""
    return _value(_COMMENT.sub(r"\1''\2", shlex.join(words)))


def _quoted(value: str) -> str:
    if '"' in value or "\\" in value:
        raise Refused(f"supervisord cannot carry the environment value {value[:80]!a}: it holds a quote or backslash")
    return _value(value)


class Supervisord:
    """The supervisord of one data directory, started here or found."""

    def __init__(self, data: Path) -> None:
        self._run_directory = run_directory(data)
        self.socket = self._run_directory / "supervisor.sock"
        self._config = data / "supervisord.conf"
        self.log = data / "supervisord.log"
        self._inventory = data / "programs.json"
        self._process: subprocess.Popen[bytes] | None = None

    async def launch(self, inventory: Inventory) -> None:
        """Start supervisord and wait until it answers.

        Raises:
            Unreachable: it did not come up; its own words are in the text.
        """
        await asyncio.to_thread(self._write, inventory)
        self._let_run([program.name for program in inventory.programs])
        log = self._config.with_name("supervisord.out")
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - forks once, at start-up
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        try:
            async with asyncio.timeout(_START_DEADLINE):
                while not await self.is_alive():
                    if self._process.poll() is not None:
                        words = await asyncio.to_thread(log.read_text, errors="replace")
                        raise Unreachable(f"supervisord ended at once: {words.strip()[-2000:]}")
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise Unreachable(f"supervisord did not answer within {_START_DEADLINE:g} s; see {log}") from error

    def inventory(self) -> Inventory:
        """Return what is supervised, and what it was made from.

        Raises:
            Unreachable: nothing was ever supervised in this directory.
        """
        return read_inventory(self._inventory)

    async def is_alive(self) -> bool:
        """Say whether it answers, be it to say that it is shutting down."""
        try:
            await self._ask("getState", fine=(_SHUTDOWN_STATE,))
        except Unreachable:
            return False
        return True

    async def pid(self) -> int:
        return cast("int", await self._ask("getPID"))

    async def programs(self) -> tuple[Program, ...]:
        return self.inventory().programs

    async def states(self) -> tuple[ProgramStatus, ...]:
        rows = cast("list[dict[str, object]]", await self._ask("getAllProcessInfo"))
        exits = {program.name: program.exits for program in self.inventory().programs}
        found = [_status(row, exits) for row in rows]
        down = await asyncio.to_thread(lambda: {name for name in exits if self._down(name).exists()})
        return tuple(
            replace(status, state=ProgramState.STOPPED)
            if status.state is ProgramState.BACKOFF and status.name in down
            else status
            for status in sorted(found, key=lambda status: status.name)
        )

    async def start(self, names: Sequence[str]) -> None:
        full_names = await self._full_names(names)
        self._let_run(names)
        await self._start(full_names)

    async def revive(self, names: Sequence[str]) -> None:
        """Start programs that have fallen, but those that somebody has stopped meanwhile."""
        await self._start(await self._full_names([name for name in names if not self._down(name).exists()]))

    async def _start(self, full_names: Sequence[str]) -> None:
        for full_name in full_names:
            # One that falls at once is no error of ours: its state tells.
            fine = (_ALREADY_STARTED, _SPAWN_ERROR, _ABNORMAL_TERMINATION)
            await self._ask("startProcess", full_name, False, fine=fine)

    async def stop(self, names: Sequence[str]) -> None:
        full_names = await self._full_names(names)
        # Also one that waits for its next try, of which supervisord knows nothing.
        self._run_directory.joinpath(_DOWN).mkdir(exist_ok=True)
        for name in names:
            self._down(name).touch()
        for full_name in full_names:
            await self._ask("stopProcess", full_name, False, fine=(_NOT_RUNNING,))

    async def add(self, programs: Sequence[Program]) -> None:
        async with changing(self._inventory):
            await asyncio.to_thread(self._write, self.inventory().with_added(programs))
            await self._ask("reloadConfig")
            # Earlier ones of their names were stopped before they were removed.
            self._let_run([program.name for program in programs])
            for program in programs:
                await self._ask("addProcessGroup", _group(program))

    async def remove(self, names: Sequence[str]) -> None:
        async with changing(self._inventory):
            inventory = self.inventory()
            for program in inventory.find(names):
                await self._ask("removeProcessGroup", _group(program), fine=(_BAD_NAME,))
            await asyncio.to_thread(self._write, inventory.without(names))
            await self._ask("reloadConfig")

    def _let_run(self, names: Sequence[str]) -> None:
        for name in names:
            self._down(name).unlink(missing_ok=True)

    def _down(self, name: str) -> Path:
        """Return the file that is there while a program is not to run."""
        return self._run_directory / _DOWN / name

    async def shut_down(self) -> None:
        with contextlib.suppress(Unreachable):
            await self._ask("shutdown", fine=(_SHUTDOWN_STATE,))

    def _write(self, inventory: Inventory) -> None:
        text = write_config(inventory.programs, run_directory=self._run_directory, log=self.log)
        for path, content in ((self._config, text), (self._inventory, format_inventory(inventory))):
            write_atomically(path, content)

    async def wait_ended(self, deadline: Seconds) -> bool:
        """Wait until supervisord has ended; say whether it did."""

        async def has_ended() -> bool:
            return not await self.is_alive() and (self._process is None or self._process.poll() is not None)

        return await wait_until(has_ended, deadline)

    async def _full_names(self, names: Sequence[str]) -> list[str]:
        rows = cast("list[dict[str, object]]", await self._ask("getAllProcessInfo"))
        full = {str(row["name"]): f"{row['group']}:{row['name']}" for row in rows}
        missing = [name for name in names if name not in full]
        if missing:
            raise Refused(f"supervisord knows no program {', '.join(missing)}")
        return [full[name] for name in names]

    async def _ask(self, method: str, *arguments: object, fine: Sequence[int] = ()) -> object:
        """Ask supervisord one thing, in a thread; `fine` are faults that are no error here."""
        try:
            async with asyncio.timeout(_DEADLINE):
                return await asyncio.to_thread(self._ask_blocking, method, arguments)
        except TimeoutError as error:
            raise Unreachable(f"supervisord did not answer on {self.socket} within {_DEADLINE:g} s") from error
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in fine:
                return None
            raise Refused(f"supervisord says: {fault.faultString}") from fault
        except (OSError, xmlrpc.client.Error) as error:
            raise Unreachable(f"supervisord does not answer on {self.socket}: {error}") from error

    def _ask_blocking(self, method: str, arguments: Sequence[object]) -> object:
        # A late import: supervisor is needed only where it supervises.
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as server:
            answer: object = getattr(server.supervisor, method)(*arguments)
            return answer


def _status(row: Mapping[str, object], exits: Mapping[str, Path]) -> ProgramStatus:
    name = str(row["name"])
    since = Seconds(float(str(row["now"])) - max(float(str(row["start"])), float(str(row["stop"]))))
    last_exit = read_exit(exits[name], name) if name in exits else None
    pid = int(str(row["pid"])) or None
    return ProgramStatus(name, _state(str(row["statename"])), pid, since, last_exit, str(row["spawnerr"] or ""))


def _state(name: str) -> ProgramState:
    """Return a state; whatever has ended and was not asked to is tried again, which supervisord does not know."""
    try:
        state = ProgramState(name.lower())
    except ValueError:
        return ProgramState.BACKOFF
    return ProgramState.BACKOFF if state in _FALLEN else state
