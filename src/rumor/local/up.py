"""`rumor up` and `rumor down`: a whole cluster on this machine, in the foreground, and its end."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path

from rumor.config import Config
from rumor.errors import ConfigError, RumorError
from rumor.local.cluster import LocalCluster, remove_run_directory
from rumor.local.planning import ClusterSettings
from rumor.local.processes import end, read_record
from rumor.model import Seconds
from rumor.places import Places, places, run_directory
from rumor.supervise.base import AILING, ProgramState, ProgramStatus
from rumor.supervise.operating import stop_in_order
from rumor.supervise.supervisord import Supervisord

_READY_DEADLINE = Seconds(60.0)
_DOWN_DEADLINE = Seconds(120.0)
_LOOK_INTERVAL = 1.0


async def run_up(
    config: Config,
    *,
    file: Path,
    data: Path,
    environ: Mapping[str, str],
    settings: tuple[str, ...] = (),
    app_directory: Path | None = None,
) -> int:
    """Run the cluster until SIGINT, SIGTERM or SIGHUP; return the exit status. A second signal hurries.

    Raises:
        RumorError: it could not be started.
    """
    cluster = LocalCluster(
        ClusterSettings(config, file, data, standby={}, settings=settings, app_directory=app_directory),
        say=_say,
        environ=environ,
    )
    if not any(service.command for service in config.services):
        raise ConfigError(f"{file}: no service has a command, so there is nothing to run: set service.NAME.command")
    for service in config.services:
        if not service.command:
            _say(f"service {service.name} has no command: its servers are run by others")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # A terminal that is closed says SIGHUP; a cluster left behind by it would hold its ports.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    _say("starting")
    started = False
    try:
        await cluster.start()
        started = True
        if await _until(stop, cluster.wait_ready(_READY_DEADLINE)):
            servers = len(cluster.started_nodes())
            stats = f", stats {cluster.stats_url}" if cluster.stats_url else ""
            print(f"ready: {cluster.url} ({servers} server{'s' if servers != 1 else ''}){stats}", flush=True)
            await _watch(cluster, stop)
    finally:
        if started:
            await _stop(cluster, stop)
    return 0


async def run_down(data: Path) -> int:
    """End the cluster of a data directory, whoever started it; return the exit status."""
    supervisor = Supervisord(data)
    record = read_record(data / "processes.json")
    if await supervisor.is_alive():
        _say("stopping: agents drain and leave first")
        try:
            await stop_in_order(supervisor, await supervisor.programs())
        except RumorError as error:
            _say(str(error))
        await supervisor.shut_down()
        if not await supervisor.wait_ended(_DOWN_DEADLINE):
            _say("supervisord takes too long: ending its processes one by one")
    elif not record:
        _say(f"no cluster runs in {data}")
        return 0
    ended = await asyncio.to_thread(end, record)
    if ended:
        _say(f"ended: {', '.join(ended)}")
    for directory in {run_directory(data), *(place.run_directory for place in _all_places(data))}:
        for socket in directory.glob("*.sock"):
            socket.unlink(missing_ok=True)
    remove_run_directory(data)
    (data / "processes.json").unlink(missing_ok=True)
    _say("stopped")
    return 0


async def _watch(cluster: LocalCluster, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as tasks:
        keeper = tasks.create_task(cluster.keep_alive(_Teller().tell), name="keep alive")
        if sys.stdout.isatty():
            # A late import: rich is loaded only where somebody looks.
            from rumor.local.live import show_live

            viewer = tasks.create_task(show_live(cluster), name="live table")
        else:
            viewer = tasks.create_task(_tell_changes(cluster), name="changes")
        await stop.wait()
        keeper.cancel()
        viewer.cancel()


async def _tell_changes(cluster: LocalCluster) -> None:
    """Print one plain line for each change of a server."""
    last: dict[str, str] | None = None
    while True:
        with contextlib.suppress(RumorError):
            table = await cluster.ask("/v1/table")
            now = {server["name"]: _state(server) for service in table["services"] for server in service["servers"]}
            if last is not None:
                for name in sorted(now.keys() | last.keys()):
                    if now.get(name) != last.get(name):
                        print(f"{time.strftime('%H:%M:%S')} {name}: {now.get(name, 'gone')}", flush=True)
            last = now
        await asyncio.sleep(_LOOK_INTERVAL)


def _state(server: Mapping[str, object]) -> str:
    haproxy = server.get("haproxy")
    status = f", HAProxy says {haproxy['status']}" if isinstance(haproxy, dict) and haproxy["is_up"] is False else ""
    return f"{server['state']}{status}"


async def _stop(cluster: LocalCluster, stop: asyncio.Event) -> None:
    _say("stopping: agents drain and leave, then HAProxy, then the apps (once more to hurry)")
    stop.clear()
    stopping = asyncio.create_task(cluster.stop(), name="stop")
    hurry = asyncio.create_task(stop.wait(), name="hurry")
    await asyncio.wait((stopping, hurry), return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not stopping.done():
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        await cluster.stop_now()
    await asyncio.gather(hurry, return_exceptions=True)
    if not stopping.cancelled():
        stopping.result()
    _say("stopped")


async def _until(stop: asyncio.Event, work: Coroutine[object, object, None]) -> bool:
    """Do the work unless `stop` comes first; say whether it was done."""
    task = asyncio.create_task(work, name="work")
    waiter = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait((task, waiter), return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    await asyncio.gather(task, waiter, return_exceptions=True)
    return False


class _Teller:
    """Says when a program falls, and when it is back."""

    def __init__(self) -> None:
        self._fallen: set[str] = set()

    def tell(self, status: ProgramStatus) -> None:
        has_fallen = status.state in AILING
        if has_fallen or (status.state is ProgramState.RUNNING and status.name in self._fallen):
            words = f": {status.words}" if status.words else ""
            _say(f"{status.name} is {status.state.value}{words}")
            (self._fallen.add if has_fallen else self._fallen.discard)(status.name)


def _all_places(data: Path) -> list[Places]:
    nodes = [path.name for path in data.iterdir() if path.is_dir()] if data.is_dir() else []
    return [places(data, node) for node in nodes]


def _say(text: str) -> None:
    print(f"rumor: {text}", file=sys.stderr, flush=True)
