"""What the steps of the demo stand on: the cluster, the load, HAProxy's own statistics, the apps' logs."""

import asyncio
import contextlib
import csv
import os
import signal
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from rumor.demo.load import Load
from rumor.demo.report import StepReport
from rumor.demo.verdict import LoggedRequest, parse_log
from rumor.errors import RumorError, Unreachable
from rumor.local.cluster import LocalCluster
from rumor.model import Seconds

POLL = 0.03
_STRIKE_POLL = 0.0005
_STRIKE_DEADLINE = Seconds(5.0)
_DYING = 0.2
_SEEN = 0.005


@dataclass(frozen=True, slots=True)
class HaproxyRow:
    """One server's row of HAProxy's statistics page, read past rumor."""

    status: str
    sessions_total: int
    connect_errors: int

    @property
    def is_in_rotation(self) -> bool:
        return self.status.startswith("UP")


@dataclass(slots=True)
class Stage:
    """Everything one run of the demo holds."""

    cluster: LocalCluster
    load: Load
    log: Path
    template: Path
    started: list[str]
    """Names of the web nodes that run now, in order."""
    standby: list[str]
    drains: bool = True
    """Whether nodes are stopped as their supervisor would, the agent first."""
    struck: set[int] = field(default_factory=set)
    """Pids of app processes that were killed or frozen."""
    frozen: tuple[int, ...] = ()
    """Pids that stand still now."""

    async def until(self, holds: Callable[[], Awaitable[bool]], deadline: Seconds, what: str) -> float:
        """Wait until something holds; return the moment, on the monotonic clock.

        Raises:
            Unreachable: it does not within the deadline; `what` is in the text.
        """
        try:
            async with asyncio.timeout(deadline):
                while True:
                    with contextlib.suppress(RumorError, OSError):
                        if await holds():
                            return time.monotonic()
                    await asyncio.sleep(POLL)
        except TimeoutError as error:
            raise Unreachable(f"{what}: not within {deadline:g} s") from error

    async def rows(self) -> dict[str, HaproxyRow]:
        """Return HAProxy's own view of the servers."""
        return await asyncio.to_thread(self._read_rows)

    def _read_rows(self) -> dict[str, HaproxyRow]:
        # The address is our own HAProxy's statistics page on loopback.
        with urllib.request.urlopen(f"{self.cluster.stats_url}/;csv", timeout=2) as response:  # noqa: S310
            text = response.read(4 * 1024 * 1024).decode()
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return {
            row["svname"]: HaproxyRow(row["status"], int(row["stot"] or 0), int(row["econ"] or 0))
            for row in rows
            if row["pxname"] == "web" and row["svname"] not in ("FRONTEND", "BACKEND")
        }

    async def in_rotation(self, name: str) -> bool:
        row = (await self.rows()).get(name)
        return row is not None and row.is_in_rotation

    async def out_of_rotation(self, name: str) -> bool:
        return not await self.in_rotation(name)

    async def gone(self, name: str) -> bool:
        return name not in await self.rows()

    async def app_pid(self, name: str) -> int:
        return await self._pid(f"{name}-app")

    async def agent_pid(self, name: str) -> int:
        return await self._pid(f"{name}-agent")

    async def _pid(self, program: str) -> int:
        pid = await self.cluster.pid(program)
        if pid is None:
            raise Unreachable(f"{program} does not run")
        return pid

    async def stop_node(self, name: str) -> None:
        if self.drains:
            await self.cluster.stop_node(name)
        else:
            await self.cluster.stop_node(name, at_once=True)

    async def logged(self) -> list[LoggedRequest]:
        """Return what the apps have written down so far."""
        return parse_log(await asyncio.to_thread(self.log.read_text, "utf-8", "replace"))

    async def strike_in_post(self, pid: int) -> bool:
        """Kill an app with -9 while a POST runs in it and nothing is on its way; say whether such a moment came.

        So the kill is as nasty as can be, and fair: a POST that lies unread in the sockets of a dying process is lost
        as well, but no log could prove it. The load runs in this event loop: none leaves between the look and the kill.
        """
        logged: dict[str, LoggedRequest] = {}
        deadline = time.monotonic() + _STRIKE_DEADLINE
        with self.log.open(encoding="utf-8", errors="replace") as log:
            log.seek(0, os.SEEK_END)
            while time.monotonic() < deadline:
                logged |= {request.id: request for request in parse_log(log.read())}
                running = [logged.get(id) for id in self.load.in_flight]
                if None not in running and any(
                    request is not None and request.pid == pid and request.method == "POST" for request in running
                ):
                    os.kill(pid, signal.SIGKILL)
                    _stand_still_until_dead(pid)
                    return True
                await asyncio.sleep(_STRIKE_POLL)
        os.kill(pid, signal.SIGKILL)
        return False


def _stand_still_until_dead(pid: int) -> None:
    """Let no request leave before the process has let go of its sockets, and HAProxy has seen that.

    A kill takes a moment. What reaches the sockets in it is read by nobody, and no log could prove that it was lost
    there. The whole event loop stands still on purpose, and so does the load in it.
    """
    deadline = time.monotonic() + _DYING
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            break
        if state in ("Z", "X"):
            break
        time.sleep(_STRIKE_POLL)
    time.sleep(_SEEN)


Step = Callable[[Stage, StepReport], Awaitable[None]]
