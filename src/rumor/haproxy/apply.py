"""Bring the running HAProxy to a revision, and see that it stays there.

The file on disk is replaced first, so a restart of HAProxy at any moment yields the wanted state. Then servers are
changed in place, or the master reloads. What runs is read back after each round; the next call repairs whatever
differs, whoever changed it. Nothing in HAProxy depends on this process: it may die between any two commands.
"""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from rumor.errors import ConfigError, Refused, Unreachable
from rumor.haproxy.config_text import REVISION_VARIABLE, ConfigText, ServerKey, carried_revision, read_config
from rumor.haproxy.plan import (
    AddServer,
    DrainServer,
    MaintServer,
    Memory,
    Plan,
    ProbeServer,
    ReadyServer,
    RemoveServer,
    Step,
    WeightServer,
    plan,
)
from rumor.haproxy.replies import (
    Processes,
    filter_state,
    parse_info,
    parse_processes,
    parse_reload,
    parse_servers,
    parse_variable,
)
from rumor.haproxy.runtime import RELOAD_DEADLINE, CommandSocket
from rumor.log import get_logger
from rumor.model import Instant, Revision, Seconds, ServerObservation
from rumor.names import HostPort, ServiceName

log = get_logger("haproxy")

_ROUNDS = 4
_RELOAD_PAUSE = Seconds(1.0)
_PROBES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class ApplierSettings:
    """Where HAProxy's files and sockets are, and how long each service's servers may drain."""

    config: Path
    run_directory: Path
    drains: Mapping[ServiceName, Seconds]


@dataclass(frozen=True, slots=True)
class Observed:
    """The running HAProxy, read at one moment."""

    processes: Processes
    version: str
    revision: str
    """The id of the revision that runs, empty if it does not say."""
    servers: tuple[ServerObservation, ...]


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What one round of applying came to."""

    how: str
    """`runtime`, `reload`, or `none` where nothing had to be done."""
    done: tuple[str, ...] = ()
    """The steps that were carried out, in words."""
    refused: str = ""
    """HAProxy's words against the revision; then the last good one runs on."""
    is_converged: bool = False
    wake_in: Seconds | None = None
    observed: Observed | None = None
    """What ran at the end; None if HAProxy does not run."""


class Applier:
    """The one writer to one HAProxy."""

    def __init__(
        self,
        settings: ApplierSettings,
        *,
        text_of: Callable[[str], Awaitable[str | None]],
        write: Callable[[Path, str], None],
        probe: Callable[[ServiceName, HostPort], Awaitable[bool]],
    ) -> None:
        """Take the HAProxy of one run directory.

        Args:
            settings: files, sockets, drain times.
            text_of: returns the text of a revision by its id, None if nobody knows it.
            write: replaces a file atomically.
            probe: asks one server of a service whether it is well, within its own deadline.
        """
        self.settings = settings
        self._text_of = text_of
        self._write = write
        self._probe = probe
        self._worker = CommandSocket(settings.run_directory / "haproxy.sock")
        self._master = CommandSocket(settings.run_directory / "master.sock")
        self._memory = Memory()
        self._known: dict[str, ConfigText] = {}
        self._last_reload = -_RELOAD_PAUSE
        self._lock: int | None = None

    def lock(self) -> None:
        """Make sure that nobody else steers this HAProxy.

        Raises:
            ConfigError: another process does.
        """
        path = self.settings.run_directory / "steer.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise ConfigError(
                f"another agent steers the HAProxy in {self.settings.run_directory}: stop it, or use another --data"
            ) from error
        self._lock = handle

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def observe(self) -> Observed | None:
        """Return what runs now, None if HAProxy does not run.

        Raises:
            Refused: HAProxy answers in a form we do not know.
        """
        try:
            processes = parse_processes(await self._master.ask("show proc"))
            info = parse_info(await self._worker.ask("show info"))
            variable = await self._worker.ask(f"get var {REVISION_VARIABLE}")
            servers = await self._servers()
        except Unreachable as error:
            log.debug("haproxy_unreachable", reason=str(error))
            return None
        return Observed(processes, info.get("Version", ""), parse_variable(variable), servers)

    async def apply(self, revision: Revision) -> ApplyReport:
        """Do what can be done now to bring HAProxy to this revision.

        Call again after `wake_in`, on every change, and now and then to repair what somebody else changed.

        Raises:
            Refused: the text is not one rumor can steer, or HAProxy refused a step it should have taken.
            Unreachable: HAProxy stopped answering half-way.
        """
        config = self._config(revision.id, revision.text)
        previous = await asyncio.to_thread(self._replace_file, revision.text)
        self._learn(previous)
        observed = await self.observe()
        if observed is None:
            return ApplyReport("none", wake_in=Seconds(0.5))
        done: list[str] = []
        how = "none"
        for _ in range(_ROUNDS):
            todo = self._plan(revision, config, observed, await self._running_config(observed.revision))
            if todo.reload_reason:
                wait = self._last_reload + _RELOAD_PAUSE - time.monotonic()
                if wait > 0:
                    return ApplyReport(how, tuple(done), wake_in=Seconds(wait), observed=observed)
                words = await self._reload(config)
                if words:
                    if previous is not None:
                        await asyncio.to_thread(self._replace_file, previous)
                    return ApplyReport("reload", tuple(done), refused=words, observed=await self.observe())
                how = "reload"
                done.append(f"reload: {todo.reload_reason}")
            else:
                done += await self._carry_out(todo.steps)
                if how == "none" and any(not isinstance(step, ProbeServer) for step in todo.steps):
                    how = "runtime"
                if observed.revision != revision.id and not todo.is_replacing:
                    await self._set_revision(revision.id)
                if not todo.steps or todo.wake_in:
                    is_converged = not todo.steps and todo.wake_in is None
                    return ApplyReport(how, tuple(done), "", is_converged, todo.wake_in, await self.observe())
            seen = await self.observe()
            if seen is None:
                return ApplyReport(how, tuple(done), wake_in=Seconds(0.5))
            observed = seen
        return ApplyReport(how, tuple(done), wake_in=Seconds(0.1), observed=observed)

    def _plan(self, revision: Revision, config: ConfigText, observed: Observed, running: ConfigText | None) -> Plan:
        now = Instant(time.monotonic())
        return plan(revision, config, observed.servers, running, self._memory, self.settings.drains, now)

    def _config(self, revision: str, text: str) -> ConfigText:
        if revision not in self._known:
            if len(self._known) >= 8:
                self._known.pop(next(iter(self._known)))
            self._known[revision] = read_config(text)
        return self._known[revision]

    async def _running_config(self, revision: str) -> ConfigText | None:
        if revision in self._known or not revision:
            return self._known.get(revision)
        text = await self._text_of(revision)
        try:
            return None if text is None else self._config(revision, text)
        except Refused:
            return None

    def _learn(self, text: str | None) -> None:
        """Remember what the file held: HAProxy may have been started with it, before any journal knew it."""
        revision = carried_revision(text or "")
        if text is not None and revision and revision not in self._known:
            with contextlib.suppress(Refused):
                self._config(revision, text)

    def _replace_file(self, text: str) -> str | None:
        """Write the file if it differs; return what it held before."""
        path = self.settings.config
        previous: str | None = None
        with contextlib.suppress(FileNotFoundError):
            previous = path.read_text(encoding="utf-8")
        if previous != text:
            self._write(path, text)
        return previous

    async def _servers(self) -> tuple[ServerObservation, ...]:
        return parse_servers(await self._worker.ask("show servers state"), await self._worker.ask("show stat -1 4 -1"))

    async def _reload(self, config: ConfigText) -> str:
        """Reload; return HAProxy's words against it, empty if the new worker serves."""
        wanted = {(str(key[0]), str(key[1])): line.address for key, line in config.servers.items()}
        state = filter_state(await self._worker.ask("show servers state"), wanted)
        await asyncio.to_thread(self._write, self.settings.run_directory / "haproxy.state", state)
        self._last_reload = time.monotonic()
        return parse_reload(await self._master.ask("reload", deadline=RELOAD_DEADLINE))

    async def _set_revision(self, revision: str) -> None:
        reply = await self._worker.ask(
            "experimental-mode on", f"set var {REVISION_VARIABLE} str({revision})", f"get var {REVISION_VARIABLE}"
        )
        if revision not in reply:
            raise Refused(f"HAProxy would not keep the revision's id: {reply[:200]!a}")

    async def _carry_out(self, steps: tuple[Step, ...]) -> list[str]:
        done: list[str] = []
        probes = [step for step in steps if isinstance(step, ProbeServer)]
        for step in steps:
            if not isinstance(step, ProbeServer):
                done += await self._carry_out_step(step)
        for start in range(0, len(probes), _PROBES_AT_ONCE):
            batch = probes[start : start + _PROBES_AT_ONCE]
            answers = await asyncio.gather(*(self._probe(step.key[0], step.address) for step in batch))
            for step, is_well in zip(batch, answers, strict=True):
                if is_well:
                    self._memory.probed[step.key] = step.address
                    done += await self._carry_out_step(ReadyServer(step.key))
        return done

    async def _carry_out_step(self, step: Step) -> list[str]:
        """Carry out one step; return what was done, in words."""
        match step:
            case AddServer(server):
                name = _path(server.key)
                reply = await self._worker.ask(
                    f"add server {name} {server.address} weight {server.weight} {server.keywords}"
                )
                if "New server registered" not in reply and "Already exists" not in reply:
                    raise Refused(f"HAProxy would not add server {name}: {reply[:500]!a}")
                await self._quiet(f"enable health {name}", f"set server {name} state drain")
                return [f"add {name} {server.address}"]
            case ReadyServer(key):
                await self._quiet(f"set server {_path(key)} state ready")
                return [f"ready {_path(key)}"]
            case DrainServer(key, from_maint):
                before = [f"enable health {_path(key)}"] if from_maint else []
                await self._quiet(*before, f"set server {_path(key)} state drain")
                return [f"drain {_path(key)}"]
            case MaintServer(key):
                await self._quiet(f"set server {_path(key)} state maint")
                return [f"maint {_path(key)}"]
            case WeightServer(key, weight):
                await self._quiet(f"set server {_path(key)} weight {weight}")
                return [f"weight {_path(key)} {weight}"]
            case RemoveServer(key, cut_sessions):
                return await self._remove(_path(key), cut_sessions=cut_sessions)
            case ProbeServer():
                return []
            case _:
                assert_never(step)

    async def _remove(self, name: str, *, cut_sessions: bool) -> list[str]:
        if cut_sessions:
            await self._worker.ask(f"shutdown sessions server {name}")
        # Drain once more before maint: that is what lets go of idle connections at once.
        reply = await self._worker.ask(
            f"set server {name} state drain", f"set server {name} state maint", f"del server {name}"
        )
        if "Server deleted" in reply or "No such server" in reply:
            return [f"delete {name}"]
        if "still has connections" in reply:
            return []
        raise Refused(f"HAProxy would not delete server {name}: {reply[:500]!a}")

    async def _quiet(self, *commands: str) -> None:
        """Send commands that say nothing when they work."""
        reply = await self._worker.ask(*commands)
        if reply and "No such server" not in reply:
            raise Refused(f"HAProxy refused `{'; '.join(commands)}`: {reply[:500]!a}")


def _path(key: ServerKey) -> str:
    return f"{key[0]}/{key[1]}"
