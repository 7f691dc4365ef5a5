"""Run a planned cluster on this machine: start, watch, revive, stop, and leave nothing behind.

supervisord keeps the processes alive; this file asks it. Order: HAProxy and apps first, agents after them; at the end
agents first (drain, leave), then HAProxy, then the apps.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rumor.agent.first_config import write_first_config
from rumor.api_client import AgentApi
from rumor.errors import ConfigError, Refused, RumorError, Unreachable
from rumor.local.plan import BALANCER, LocalPlan, NodePlan, node_names
from rumor.local.planning import ClusterSettings, make_directories, origin_of, plan_cluster, tools_of
from rumor.local.ports import LOOPBACK, Ports
from rumor.local.processes import ProcessId, end, identify, read_record, write_record
from rumor.model import Seconds
from rumor.names import Endpoint
from rumor.places import places, run_directory
from rumor.render.publish import find_haproxy
from rumor.supervise.base import AILING, ProgramState, ProgramStatus
from rumor.supervise.exit_files import last_lines
from rumor.supervise.inventory import Inventory
from rumor.supervise.operating import stop_in_order
from rumor.supervise.reviver import Reviver
from rumor.supervise.supervisord import Supervisord

_WATCH_INTERVAL = 0.25
_POLL = 0.05


class LocalCluster:
    """One cluster on this machine; at most one per data directory."""

    def __init__(self, settings: ClusterSettings, *, say: Callable[[str], None], environ: Mapping[str, str]) -> None:
        """Prepare; nothing is touched before `start`.

        Args:
            settings: which cluster, and where.
            say: told, in one line, what takes a while.
            environ: for finding programs.
        """
        self._settings = settings
        self._say = say
        self._environ = environ
        self._data = settings.data
        self._run = run_directory(settings.data)
        self._supervisor = Supervisord(settings.data)
        self._reviver = Reviver(self._supervisor)
        self._lock: int | None = None
        self._ports: Ports | None = None
        self._tools = tools_of(settings.file, environ)
        self._haproxy = find_haproxy(environ).path
        self.plan: LocalPlan = LocalPlan(self._data, (), (), (), None)
        """Empty before `start`."""

    async def start(self) -> None:
        """Start everything that is not on standby; what a killed predecessor left running is ended first.

        Raises:
            ConfigError: something is wrong before anything was started; the text says what to do.
            Unreachable: supervisord did not come up.
        """
        make_directories(self._data, self._nodes())
        self._take_lock()
        try:
            await self._end_predecessor()
            self._ports = ports = Ports(self._data / "ports.json")
            self.plan = plan_cluster(self._settings, ports, self._tools)
            balancer = replace(self._settings.config.balancer, binds=self.plan.binds, stats=self.plan.stats)
            config = replace(self._settings.config, balancer=balancer)
            await write_first_config(config, self.plan.balancer_places, self._haproxy)
            ports.keep()
            await self._launch()
        except BaseException:
            self._release_lock()
            raise

    async def stop(self) -> None:
        """Stop everything in order; afterwards no process and no socket of the cluster is left."""
        try:
            await stop_in_order(self._supervisor, await self._supervisor.programs())
            await self._supervisor.shut_down()
            await self._supervisor.wait_ended(Seconds(10.0))
        except RumorError as error:
            self._say(f"supervisord does not help to stop: {error}")
        await asyncio.to_thread(end, read_record(self._record))
        self._clean_up()
        remove_run_directory(self._data)
        self._release_lock()

    async def stop_now(self) -> None:
        """End everything at once, without draining."""
        await asyncio.to_thread(end, read_record(self._record))
        self._clean_up()
        remove_run_directory(self._data)
        self._release_lock()

    def detach(self) -> None:
        """Leave the cluster running; `rumor down` ends it."""
        self._release_lock()

    # --- single nodes

    async def start_node(self, name: str) -> None:
        """Start a node's app and its agent, without waiting until they are ready."""
        node = self.plan.node(name)
        # The agent first: it takes longer to come up, and asks for the app ten times a second until it answers.
        await self._supervisor.start([node.agent, node.process])

    async def stop_node(self, name: str, *, at_once: bool = False) -> None:
        """Stop a node as its supervisor would: the agent first (drain, leave), then the app; or both at once."""
        node = self.plan.node(name)
        if at_once:
            await self._stop_programs([node.process, node.agent])
        else:
            await self._stop_programs([node.agent])
            await self._stop_programs([node.process])

    async def states(self) -> tuple[ProgramStatus, ...]:
        return await self._supervisor.states()

    async def pid(self, program: str) -> int | None:
        """Return the pid of a program, such as `web-1-app`, None if it does not run."""
        return next((status.pid for status in await self.states() if status.name == program), None)

    # --- looking

    def api(self, node: str = BALANCER) -> AgentApi:
        return AgentApi(socket_path=places(self._data, node).agent_socket)

    async def ask(self, path: str, node: str = BALANCER) -> dict[str, Any]:
        """Return what an agent's API answers.

        Raises:
            Unreachable: the agent does not answer.
            Refused: it answers with an error.
        """
        return await asyncio.to_thread(self.api(node).get, path)

    @property
    def url(self) -> str:
        return _url(self.plan.binds[0])

    @property
    def stats_url(self) -> str:
        return _url(self.plan.stats) if self.plan.stats else ""

    def started_nodes(self) -> list[NodePlan]:
        """Return the nodes with an app that are not on standby."""
        return [node for node in self.plan.nodes if node.part != BALANCER and not node.is_standby]

    async def wait_ready(self, deadline: Seconds, names: Sequence[str] | None = None) -> None:
        """Wait until HAProxy routes to all these nodes (all started ones by default).

        Raises:
            Unreachable: it does not within the deadline; the text says what is missing.
        """
        wanted = set(names if names is not None else [node.name for node in self.started_nodes()])
        missing = ", ".join(sorted(wanted)) or "the balancer"
        told, told_at = "", time.monotonic()
        fallen: set[str] = set()
        try:
            async with asyncio.timeout(deadline):
                while True:
                    with contextlib.suppress(Unreachable, Refused):
                        await self.ask("/ready")
                        missing = ", ".join(sorted(wanted - await self._serving()))
                        if not missing:
                            return
                    if missing != told and time.monotonic() - told_at > 2:
                        told, told_at = missing, time.monotonic()
                        self._say(f"waiting for {missing}")
                    for status in await self._revive():
                        if status.state in AILING and status.name not in fallen:
                            fallen.add(status.name)
                            self._say(self._describe_fall(status))
                    await asyncio.sleep(_POLL)
        except TimeoutError as error:
            logs = f"see the logs in {self._data}/NODE/log"
            raise Unreachable(f"not ready after {deadline:g} s: {missing}{await self._ailing()}; {logs}") from error

    async def keep_alive(self, on_change: Callable[[ProgramStatus], None] = lambda _: None) -> None:
        """Revive what supervisord has given up on, and keep the record of our processes, until cancelled."""
        last: dict[str, ProgramState] = {}
        while True:
            with contextlib.suppress(Unreachable, Refused):
                for status in await self._revive():
                    if last.get(status.name, status.state) is not status.state:
                        on_change(status)
                    last[status.name] = status.state
            await asyncio.sleep(_WATCH_INTERVAL)

    # --- from here on: how

    def _nodes(self) -> list[str]:
        names = [name for name, *_ in node_names(self._settings.config, self._settings.standby)]
        # Others may have come since: their sockets are to go, too.
        there = [path.name for path in self._data.iterdir() if path.is_dir()] if self._data.is_dir() else []
        return [BALANCER, *dict.fromkeys([*names, *there])]

    @property
    def _record(self) -> Path:
        return self._data / "processes.json"

    def _take_lock(self) -> None:
        handle = _lock(self._data)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._lock = handle

    def _release_lock(self) -> None:
        if self._ports is not None:
            self._ports.release()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _end_predecessor(self) -> None:
        """End what a killed predecessor has left running, so that this start begins clean."""
        if await self._supervisor.is_alive():
            self._say("a cluster of an earlier start still runs here: ending it first")
            await self._supervisor.shut_down()
            await self._supervisor.wait_ended(Seconds(60.0))
        ended = await asyncio.to_thread(end, read_record(self._record))
        if ended:
            self._say(f"ended what an earlier start has left: {', '.join(ended)}")
        self._clean_up()

    async def _launch(self) -> None:
        await self._supervisor.launch(Inventory(self.plan.programs, origin_of(self._settings, self.plan)))
        await self._keep_record(await self.states())

    async def _stop_programs(self, names: Sequence[str]) -> None:
        await stop_in_order(
            self._supervisor, [program for program in await self._supervisor.programs() if program.name in names]
        )

    async def _revive(self) -> tuple[ProgramStatus, ...]:
        statuses = await self._reviver.look()
        await self._keep_record(statuses)
        return statuses

    async def _keep_record(self, statuses: Sequence[ProgramStatus]) -> None:
        ours: dict[str, ProcessId] = {}
        pids = {status.name: status.pid for status in statuses} | {"supervisord": await self._supervisor.pid()}
        for name, pid in pids.items():
            process = identify(pid) if pid else None
            if process is not None:
                ours[name] = process
        if ours != read_record(self._record):
            # A full disk must not end the cluster: the next look writes it.
            with contextlib.suppress(OSError):
                await asyncio.to_thread(write_record, self._record, ours)

    async def _serving(self) -> set[str]:
        """Return the servers that HAProxy routes to now."""
        table = await self.ask("/v1/table")
        return {
            server["name"]
            for service in table["services"]
            for server in service["servers"]
            if server["state"] == "ready" and str((server["haproxy"] or {}).get("status", "")).startswith("UP")
        }

    def _describe_fall(self, status: ProgramStatus) -> str:
        log = next((program.log for program in self.plan.programs if program.name == status.name), self._data)
        how = str(status.last_exit) if status.last_exit else status.words
        words = "".join(last_lines(log, 1))
        return f"{status.name} {how or 'fell'}, and is tried again{f': {words}' if words else ''} (log: {log})"

    async def _ailing(self) -> str:
        with contextlib.suppress(RumorError):
            bad = [f"{s.name} is {s.state.value}" for s in await self.states() if s.state in AILING]
            return f" ({', '.join(bad)})" if bad else ""
        return ""

    def _clean_up(self) -> None:
        """Remove the sockets; the processes that made them are gone."""
        for node in self._nodes():
            for socket in places(self._data, node).run_directory.glob("*.sock"):
                socket.unlink(missing_ok=True)
        for name in ("supervisor.sock", "supervisord.pid"):
            (self._run / name).unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)


def remove_run_directory(data: Path) -> None:
    """Remove the run directory of a stopped cluster where it lies in the system's temporary directory."""
    if run_directory(data) != data:
        shutil.rmtree(run_directory(data), ignore_errors=True)


def refuse_second(data: Path) -> None:
    """Make sure that no `rumor up` runs in a data directory.

    Raises:
        ConfigError: one does.
    """
    if (data / "up.lock").exists():
        os.close(_lock(data))


def _lock(data: Path) -> int:
    handle = os.open(data / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        pid = os.pread(handle, 20, 0).decode(errors="replace").strip()
        os.close(handle)
        raise ConfigError(
            f"this cluster is run by process {pid or 'unknown'} already: stop that, or choose another --data"
        ) from error
    return handle


def _url(endpoint: Endpoint) -> str:
    host = LOOPBACK if endpoint.host in ("", "0.0.0.0") else endpoint.host  # noqa: S104 - "any" is reached here, too
    return f"http://{Endpoint('::1' if host == '::' else host, endpoint.port)}"
