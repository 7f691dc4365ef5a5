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
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rumor.errors import ConfigError, Refused, Unreachable
from rumor.haproxy.config_text import REVISION_VARIABLE, ConfigText, carried_revision, read_config
from rumor.haproxy.lines import Done, NotAtRunTime, commands, describe, read_reply
from rumor.haproxy.observe import Observed, Observer
from rumor.haproxy.parts import without_lines
from rumor.haproxy.plan import Memory, Plan, plan
from rumor.haproxy.refusals import Refusals
from rumor.haproxy.replies import filter_state, parse_reload
from rumor.haproxy.runtime import RELOAD_DEADLINE, Commands, CommandSocket, WorkerSocket
from rumor.haproxy.steps import FrontendStep, MoveServer, ProbeServer, ReadyServer, Step
from rumor.log import get_logger
from rumor.model import Instant, Revision, Seconds
from rumor.names import HostPort, ServiceName

log = get_logger("haproxy")

_ROUNDS = 4
_RELOAD_PAUSE = Seconds(1.0)
_GATHERING = Seconds(0.005)
"""Good answers that come so soon after one another go to HAProxy together."""
_TEXTS_KEPT = 8

Probe = Callable[[Sequence[tuple[ServiceName, HostPort]], Callable[[int], None]], Awaitable[None]]
"""Asks servers side by side whether they are well, and says the place of each that is as soon as it has answered.

It has a deadline of its own, a short one: a server that is slower comes in by HAProxy's own check.
"""


@dataclass(frozen=True, slots=True)
class ApplierSettings:
    """Where HAProxy's files and sockets are, and how long each service's servers may drain."""

    config: Path
    run_directory: Path
    drains: Mapping[ServiceName, Seconds]


@dataclass(frozen=True, slots=True)
class RefusedStep:
    """A step that HAProxy would not take while it runs."""

    subject: str
    """Whom it is about."""
    step: str
    words: str
    """HAProxy's own."""


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What one round of applying came to."""

    how: str
    """`runtime`, `reload`, or `none` where nothing had to be done."""
    done: tuple[str, ...] = ()
    """The steps that were carried out, in words."""
    refused: str = ""
    """HAProxy's words against the revision, said once; the last good one runs on, and is what the file holds."""
    is_converged: bool = False
    wake_in: Seconds | None = None
    """When to call again at the latest, if something waits."""
    observed: Observed | None = None
    """What ran at the end; None if HAProxy does not run."""
    unwritten: str = ""
    """Why the file could not be written: a restart of HAProxy would bring back an older configuration."""
    refused_steps: tuple[RefusedStep, ...] = ()
    """What HAProxy would not do in this round; a reload is to bring it."""
    unable: tuple[RefusedStep, ...] = ()
    """What neither HAProxy's command socket nor a reload could bring, as long as it is wanted."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The text of a revision, and the same taken apart."""

    text: str
    config: ConfigText


class Applier:
    """The one writer to one HAProxy."""

    def __init__(
        self,
        settings: ApplierSettings,
        *,
        text_of: Callable[[str], Awaitable[str | None]],
        write: Callable[[Path, str], None],
        probe: Probe,
        connect: Callable[[Path], Commands] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the HAProxy of one run directory.

        Args:
            settings: files, sockets, drain times.
            text_of: returns the text of a revision by its id, None if nobody knows it.
            write: replaces a file atomically.
            probe: asks servers of services whether they are well.
            connect: returns the commands behind a socket's path; the fake HAProxy has its own. None for the real one.
            clock: a monotonic clock.
        """
        self.settings = settings
        self._text_of = text_of
        self._write = write
        self._probe = probe
        self._clock = clock
        worker, master = settings.run_directory / "haproxy.sock", settings.run_directory / "master.sock"
        self._worker: Commands = WorkerSocket(worker, master) if connect is None else connect(worker)
        self._master: Commands = CommandSocket(master) if connect is None else connect(master)
        self._observer = Observer(
            settings.config, settings.run_directory, worker=self._worker, master=self._master, clock=clock
        )
        self._unwritten = ""
        self._memory = Memory()
        self._known: dict[str, _Known] = {}
        self._refusals = Refusals()
        self._refused_steps: list[RefusedStep] = []
        """Those that no report has told of yet."""
        self._unable: tuple[RefusedStep, ...] = ()
        self._last_reload = Instant(clock() - _RELOAD_PAUSE)
        self._lock: int | None = None

    @property
    def worker(self) -> Commands:
        """The running HAProxy's own socket, for what no revision holds."""
        return self._worker

    @property
    def silence(self) -> str:
        """Why HAProxy does not answer, in a sentence; only where it does not."""
        return self._observer.silence

    async def observe(self) -> Observed | None:
        """Return what runs now, None if HAProxy does not run.

        Raises:
            Refused: HAProxy answers in a form we do not know.
        """
        return await self._observer.observe()

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

    def learn(self, text: str) -> None:
        """Take a configuration apart in advance, if it says which revision it is; it may be never applied."""
        revision = carried_revision(text)
        if revision:
            with contextlib.suppress(Refused):
                self._learn(revision, text)

    def words_against(self, text: str) -> str:
        """Return HAProxy's words against a configuration that it refused lately; empty if it may be tried now."""
        if not self._refusals:
            return ""
        held = self._refusals.held(read_config(text).base, Instant(self._clock()))
        return "" if held is None else without_lines(held.words)

    async def apply(self, revision: Revision, *, seen: Observed | None = None) -> ApplyReport:
        """Do what can be done now to bring HAProxy to this revision.

        Call again after `wake_in`, on every change, and now and then to repair what somebody else changed.

        Args:
            revision: what is wanted.
            seen: what runs, where the caller has looked just now.

        Raises:
            Refused: the text is not one rumor can steer, or HAProxy would not keep the revision's id.
            Unreachable: HAProxy stopped answering half-way.
        """
        report = await self._apply(revision, seen)
        told, self._refused_steps = tuple(self._refused_steps), []
        return replace(report, refused_steps=told, unable=self._unable)

    async def _apply(self, revision: Revision, seen: Observed | None) -> ApplyReport:
        config = self._learn(revision.id, revision.text).config
        held = self._refusals.held(config.base, Instant(self._clock()))
        pause = Seconds(0.0 if held is None else held.until - self._clock())
        if held is not None and not await self._runs(config.base):
            return ApplyReport("none", wake_in=pause, observed=await self._observer.observe())
        previous = await self._put_on_disk(revision.text)
        # Where the file is new, HAProxy may have been started with the old one since the look.
        is_current = seen is not None and (previous == revision.text or await self._observer.still_runs(seen.processes))
        observed = seen if is_current else await self._observer.observe()
        how, done = "none", list[str]()
        for _ in range(_ROUNDS):
            if observed is None:
                return ApplyReport(how, tuple(done), wake_in=Seconds(0.5))
            running = await self._running(observed.revision)
            can_reload = held is None and not self._unwritten
            todo = self._plan(revision, config, observed, None if running is None else running.config, can_reload)
            self._unable = tuple(_refused_step(step, words) for step, words in todo.unable)
            if todo.reload_reason and held is not None:
                return ApplyReport(how, tuple(done), wake_in=pause, observed=observed)
            if todo.reload_reason and self._unwritten:
                # A reload would read the old file. Servers in place: that is all that can be done now.
                return ApplyReport(
                    how, tuple(done), wake_in=_RELOAD_PAUSE, observed=observed, unwritten=self._unwritten
                )
            if todo.reload_reason:
                wait = self._last_reload + _RELOAD_PAUSE - self._clock()
                if wait > 0:
                    return ApplyReport(how, tuple(done), wake_in=Seconds(wait), observed=observed)
                words = await self._reload(config, None if running is None else running.config)
                if words:
                    await self._put_back(running, previous)
                    return ApplyReport("reload", tuple(done), refused=words, observed=await self._observer.observe())
                how = "reload"
                done.append(f"reload: {todo.reload_reason}")
            else:
                carried_out = await self._carry_out(todo.steps)
                done += carried_out
                if how == "none" and carried_out:
                    how = "runtime"
                if observed.revision != revision.id and not todo.precedes_reload:
                    await self._set_revision(revision.id)
                    observed = replace(observed, revision=revision.id)
                if not todo.steps:
                    is_converged = todo.wake_in is None and not self._unwritten and not todo.unable
                    return ApplyReport(how, tuple(done), "", is_converged, todo.wake_in, observed, self._unwritten)
                if todo.wake_in and not carried_out:
                    return ApplyReport(how, tuple(done), wake_in=todo.wake_in, observed=observed)
            observed = await self._observer.observe()
        return ApplyReport(how, tuple(done), wake_in=todo.wake_in or Seconds(0.1), observed=observed)

    def _plan(
        self, revision: Revision, config: ConfigText, observed: Observed, running: ConfigText | None, can_reload: bool
    ) -> Plan:
        return plan(
            revision, config, observed.servers, running, self._memory, self.settings.drains, Instant(self._clock()),
            frontends=observed.frontends, can_reload=can_reload,
        )  # fmt: skip

    async def _runs(self, base: str) -> bool:
        """Say whether HAProxy runs this already, so that servers need no reload."""
        observed = await self._observer.observe()
        running = None if observed is None else await self._running(observed.revision)
        return running is not None and running.config.base == base

    # --- texts: what is known of revisions, and the file

    def _learn(self, revision: str, text: str) -> _Known:
        if revision not in self._known:
            if len(self._known) >= _TEXTS_KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[revision] = _Known(text, read_config(text))
        return self._known[revision]

    async def _running(self, revision: str) -> _Known | None:
        if revision in self._known or not revision:
            return self._known.get(revision)
        text = await self._text_of(revision)
        try:
            return None if text is None else self._learn(revision, text)
        except Refused:
            return None

    async def _put_on_disk(self, text: str) -> str | None:
        """Write the file first, so that a restart yields what is wanted; return what it held before.

        On a disk that is full servers still come and go: what runs matters more than what would run.
        """
        try:
            previous = await asyncio.to_thread(self._replace_file, text)
        except OSError as error:
            self._unwritten = f"{self.settings.config} cannot be written: {error.strerror or error}"
            return None
        self._unwritten = ""
        # HAProxy may have been started with it, before any journal knew it.
        self.learn(previous or "")
        return previous

    def _replace_file(self, text: str) -> str | None:
        """Write the file if it differs; return what it held before."""
        path = self.settings.config
        previous: str | None = None
        with contextlib.suppress(FileNotFoundError):
            previous = path.read_text(encoding="utf-8")
        if previous != text:
            self._write(path, text)
        return previous

    async def _put_back(self, running: _Known | None, previous: str | None) -> None:
        """Let the file hold what runs, so that a restart of HAProxy does not meet what it refused."""
        text = running.text if running is not None else previous
        if text is not None:
            await self._put_on_disk(text)

    # --- HAProxy

    async def _reload(self, config: ConfigText, running: ConfigText | None) -> str:
        """Reload; return HAProxy's words against it, empty if the new worker serves."""
        wanted = {(str(key[0]), str(key[1])): line.address for key, line in config.servers.items()}
        state = filter_state(await self._worker.ask("show servers state"), wanted)
        try:
            await asyncio.to_thread(self._write, self.settings.run_directory / "haproxy.state", state)
        except OSError as error:
            # Without it servers that are down would come back as up.
            raise Unreachable(f"HAProxy cannot be reloaded: its state cannot be written: {error.strerror}") from error
        self._last_reload = Instant(self._clock())
        words = parse_reload(await self._master.ask("reload", deadline=RELOAD_DEADLINE))
        if words:
            self._refusals.add(config.base, words, self._last_reload)
            return words
        self._refusals.forget(config.base)
        self._memory.note_reload(is_new_base=running is None or running.base != config.base)
        return ""

    async def _set_revision(self, revision: str) -> None:
        reply = await self._worker.ask(
            "experimental-mode on", f"set var {REVISION_VARIABLE} str({revision})", f"get var {REVISION_VARIABLE}"
        )
        if revision not in reply:
            raise Refused(f"HAProxy would not keep the revision's id: {reply[:200]!a}")

    async def _carry_out(self, steps: Iterable[Step]) -> list[str]:
        """Carry out steps; return what was done, in words.

        Servers are probed side by side while HAProxy does what needs no probe. What follows a good answer follows at
        once after that, together with what else is due by then.
        """
        now, probes = list[Step](), list[ProbeServer]()
        for step in steps:
            if isinstance(step, ProbeServer):
                probes.append(step)
            else:
                now.append(step)
        if not probes:
            return await self._carry_out_now(now)
        well: list[ReadyServer | MoveServer] = []
        wake = asyncio.Event()

        def on_well(place: int) -> None:
            well.append(probes[place].then)
            wake.set()

        asked = [(step.key[0], step.address) for step in probes]
        probing = asyncio.ensure_future(self._probe(asked, on_well))
        probing.add_done_callback(lambda _: wake.set())
        try:
            done = await self._carry_out_now(now)
            while not probing.done() or well:
                await wake.wait()
                if not probing.done():
                    await asyncio.sleep(_GATHERING)
                wake.clear()
                refused = {step.key for step in self._memory.refused if not isinstance(step, FrontendStep)}
                due: list[Step] = [step for step in well if step.key not in refused]
                well.clear()
                done += await self._carry_out_now(due)
            await probing
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
        return done

    async def _carry_out_now(self, steps: Sequence[Step]) -> list[str]:
        """Carry out steps that are HAProxy's in one conversation; return what was done, in words."""
        done: list[str] = []
        for step, reply in zip(steps, await self._worker.ask_each([commands(step) for step in steps]), strict=True):
            outcome = read_reply(step, reply)
            if isinstance(outcome, NotAtRunTime):
                log.warning("step_refused", step=describe(step), words=outcome.words)
                self._memory.refused[step] = outcome.words
                self._refused_steps.append(_refused_step(step, outcome.words))
            if isinstance(outcome, Done):
                done.append(describe(step))
        return done


def _refused_step(step: Step, words: str) -> RefusedStep:
    subject = step.name if isinstance(step, FrontendStep) else step.key[1]
    return RefusedStep(subject, describe(step), words)
