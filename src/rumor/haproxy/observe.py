"""Look at the running HAProxy: its processes, servers and frontends as they are at one moment.

A HAProxy whose sockets are gone serves on and cannot be asked: it is found among the processes, and told to open them
anew.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rumor.errors import Unreachable
from rumor.haproxy.config_text import REVISION_VARIABLE
from rumor.haproxy.process import find_master, is_haproxy, listens, open_anew
from rumor.haproxy.replies import (
    Frontend,
    Processes,
    Readings,
    parse_frontends,
    parse_processes,
    parse_servers,
    parse_variable,
    split_picture,
)
from rumor.haproxy.runtime import Commands
from rumor.log import get_logger
from rumor.model import Instant, Seconds, ServerObservation

log = get_logger("haproxy")

_OLD_WORKERS_ASKED = 8
_OLD_WORKER_DEADLINE = Seconds(0.5)
_KNOCK_PAUSE = Seconds(30.0)
_PATIENCE = Seconds(0.5)
_STRANGER_PATIENCE = Seconds(5.0)
"""A master that has never answered us gets so long to open its sockets by itself."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The running HAProxy, read at one moment."""

    processes: Processes
    version: str
    revision: str
    """The id of the revision that runs, empty if it does not say."""
    servers: tuple[ServerObservation, ...]
    frontends: Mapping[str, Frontend]


class Observer:
    """Looks at one HAProxy, again and again."""

    def __init__(
        self,
        config: Path,
        run_directory: Path,
        *,
        worker: Commands,
        master: Commands,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the HAProxy that was started on `config`, and the two sockets that it has in its run directory."""
        self._config, self._run_directory = config, run_directory
        self._worker, self._master = worker, master
        self._clock = clock
        self._master_pid = 0
        self._sockets_gone: tuple[int, Instant] | None = None
        """The master that runs and does not listen, and since when."""
        self._last_knock = Instant(clock() - _KNOCK_PAUSE)
        self._readings: Readings = {}

    @property
    def silence(self) -> str:
        """Why HAProxy does not answer, in a sentence; only where it does not."""
        if self._sockets_gone is None:
            return "HAProxy does not answer"
        return f"HAProxy runs as pid {self._sockets_gone[0]}, but its sockets are gone from {self._run_directory}"

    async def observe(self) -> Observed | None:
        """Return what runs now, None if HAProxy does not run.

        Raises:
            Refused: HAProxy answers in a form we do not know.
        """
        try:
            processes = parse_processes(await self._master.ask("show proc"))
            picture = split_picture(
                await self._worker.ask(f"get var {REVISION_VARIABLE}", "show servers state", "show stat -1 5 -1")
            )
            old_stats = [stat async for stat in self._old_stats(processes)]
        except Unreachable as error:
            log.debug("haproxy_unreachable", reason=str(error))
            await asyncio.to_thread(self._knock)
            return None
        self._master_pid, self._sockets_gone = processes.master_pid, None
        servers = parse_servers(picture.state, picture.stat, old_stats, last=self._readings)
        frontends = parse_frontends(picture.stat)
        return Observed(processes, processes.version, parse_variable(picture.variable), servers, frontends)

    async def still_runs(self, processes: Processes) -> bool:
        """Say whether these are HAProxy's processes still: what was read of them is no other's."""
        try:
            return parse_processes(await self._master.ask("show proc")) == processes
        except Unreachable:
            return False

    async def _old_stats(self, processes: Processes) -> AsyncIterator[str]:
        """Yield the statistics of workers that still finish sessions; one that has just ended has none."""
        for pid in processes.old_worker_pids[-_OLD_WORKERS_ASKED:]:
            try:
                reply = await self._master.ask(f"@!{pid} show stat -1 4 -1", deadline=_OLD_WORKER_DEADLINE)
            except Unreachable:
                # A worker that ends just when it is asked leaves the question open for ever.
                if pid in parse_processes(await self._master.ask("show proc")).old_worker_pids:
                    raise
                continue
            if reply.startswith("# pxname,"):
                yield reply

    def _knock(self) -> None:
        """Let a master that runs and cannot be reached open its sockets anew."""
        config, now = self._config, self._clock()
        known = self._master_pid if is_haproxy(self._master_pid, config) else 0
        pid = known or find_master(config)
        if not pid or listens(self._run_directory / "master.sock"):
            self._sockets_gone = None
            return
        if self._sockets_gone is None or self._sockets_gone[0] != pid:
            self._sockets_gone = pid, Instant(now)
        # One that has just been started has no socket yet, and a signal would end it; one that reloads refuses shortly.
        patience = _PATIENCE if known else _STRANGER_PATIENCE
        if now - self._sockets_gone[1] >= patience and now - self._last_knock >= _KNOCK_PAUSE:
            self._last_knock = Instant(now)
            log.warning("sockets_gone", directory=self._run_directory, pid=pid)
            open_anew(pid)
