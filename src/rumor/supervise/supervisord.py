"""supervisord, from PyPI: write its configuration, start it, ask it over its UNIX socket.

It gets a session of its own, so that a Ctrl-C at the terminal reaches rumor alone and the order of stopping is kept.
Facts: supervisord stops groups one after the other, highest priority first, and the programs of one group together.
"""

import asyncio
import contextlib
import os
import re
import shlex
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

from rumor.errors import Bug, Refused, Unreachable
from rumor.model import Seconds
from rumor.supervise.base import Program, ProgramState, ProgramStatus

_DEADLINE = Seconds(10.0)
_START_DEADLINE = Seconds(10.0)
_LOG_BYTES = "10MB"
_LOG_BACKUPS = 3
# supervisor.xmlrpc.Faults
_SHUTDOWN_STATE, _ABNORMAL_TERMINATION, _SPAWN_ERROR, _ALREADY_STARTED, _NOT_RUNNING = 6, 40, 50, 60, 70

# Where a comment begins in the middle of a line; there is no way to escape it.
_COMMENT = re.compile(r"(\s)([;#])")

Answer = TypeVar("Answer")


def write_config(programs: Sequence[Program], *, run_directory: Path, log: Path) -> str:
    """Return supervisord.conf for these programs.

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
    groups: dict[str, list[Program]] = {}
    for program in programs:
        groups.setdefault(program.group, []).append(program)
        lines += _program_section(program)
    for name, members in groups.items():
        lines += [
            f"[group:{_value(name)}]",
            f"programs = {','.join(_value(member.name) for member in members)}",
            f"priority = {members[0].priority}",
            "",
        ]
    return "\n".join(lines)


def _program_section(program: Program) -> list[str]:
    environment = ",".join(f'{name}="{_quoted(value)}"' for name, value in sorted(program.environment.items()))
    return [
        f"[program:{_value(program.name)}]",
        f"command = {_command(program.command)}",
        f"directory = {_value(program.directory)}",
        *([f"environment = {environment}"] if environment else []),
        f"autostart = {str(program.autostart).lower()}",
        "autorestart = true",
        "startsecs = 1",
        # One try: pauses that grow up to a ceiling, and trying for ever, are ours.
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
    """One running supervisord, started here or found."""

    def __init__(self, run_directory: Path) -> None:
        self.socket = run_directory / "supervisor.sock"
        self._process: subprocess.Popen[bytes] | None = None

    async def launch(self, config: Path) -> None:
        """Start supervisord and wait until it answers.

        Raises:
            Unreachable: it did not come up; its own words are in the text.
        """
        log = config.with_name("supervisord.out")
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - forks once, at start-up
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)],
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

    async def is_alive(self) -> bool:
        """Say whether it answers, be it to say that it is shutting down."""
        try:
            await self._ask(lambda server: server.supervisor.getState(), fine=(_SHUTDOWN_STATE,))
        except Unreachable:
            return False
        return True

    async def pid(self) -> int:
        return cast("int", await self._ask(lambda server: server.supervisor.getPID()))

    async def states(self) -> tuple[ProgramStatus, ...]:
        rows = cast("list[dict[str, object]]", await self._ask(lambda server: server.supervisor.getAllProcessInfo()))
        return tuple(
            sorted(
                (
                    ProgramStatus(
                        str(row["name"]),
                        _state(str(row["statename"])),
                        int(str(row["pid"])) or None,
                        str(row["spawnerr"] or ""),
                    )
                    for row in rows
                ),
                key=lambda status: status.name,
            )
        )

    async def start(self, names: Sequence[str]) -> None:
        for full_name in await self._full_names(names):
            await self._ask(
                lambda server, name=full_name: server.supervisor.startProcess(name, False),  # type: ignore[misc]
                # One that falls at once is no error of ours: its state tells.
                fine=(_ALREADY_STARTED, _SPAWN_ERROR, _ABNORMAL_TERMINATION),
            )

    async def stop(self, names: Sequence[str]) -> None:
        for full_name in await self._full_names(names):
            await self._ask(
                lambda server, name=full_name: server.supervisor.stopProcess(name, False),  # type: ignore[misc]
                fine=(_NOT_RUNNING,),
            )

    async def shut_down(self) -> None:
        with contextlib.suppress(Unreachable):
            await self._ask(lambda server: server.supervisor.shutdown(), fine=(_SHUTDOWN_STATE,))

    async def wait_ended(self, deadline: Seconds) -> bool:
        """Wait until supervisord has ended; say whether it did."""
        try:
            async with asyncio.timeout(deadline):
                # A process that is not ours, or ours no longer, tells nobody when it ends: asking is all there is.
                while await self.is_alive() or (self._process is not None and self._process.poll() is None):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True

    async def _full_names(self, names: Sequence[str]) -> list[str]:
        rows = cast("list[dict[str, object]]", await self._ask(lambda server: server.supervisor.getAllProcessInfo()))
        full = {str(row["name"]): f"{row['group']}:{row['name']}" for row in rows}
        missing = [name for name in names if name not in full]
        if missing:
            raise Refused(f"supervisord knows no program {', '.join(missing)}")
        return [full[name] for name in names]

    async def _ask(
        self, call: Callable[[xmlrpc.client.ServerProxy], Answer], *, fine: Sequence[int] = ()
    ) -> Answer | None:
        """Ask supervisord one thing, in a thread; `fine` are faults that are no error here."""
        try:
            async with asyncio.timeout(_DEADLINE):
                return await asyncio.to_thread(self._ask_blocking, call)
        except TimeoutError as error:
            raise Unreachable(f"supervisord did not answer on {self.socket} within {_DEADLINE:g} s") from error
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in fine:
                return None
            raise Refused(f"supervisord says: {fault.faultString}") from fault
        except (OSError, xmlrpc.client.Error) as error:
            raise Unreachable(f"supervisord does not answer on {self.socket}: {error}") from error

    def _ask_blocking(self, call: Callable[[xmlrpc.client.ServerProxy], Answer]) -> Answer:
        # A late import: supervisor is needed only where it supervises.
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as server:
            return call(server)


def _state(name: str) -> ProgramState:
    try:
        return ProgramState(name.lower())
    except ValueError:
        return ProgramState.EXITED
