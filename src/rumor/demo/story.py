"""`rumor demo`: start a cluster, put it under load, tell the story step by step, and judge it.

The exit status is 0 only if no request failed that another server could have answered, and every step was as it should
be. Ctrl-C ends the cluster in order.
"""

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import rumor
from rumor.config import load
from rumor.demo.load import Load
from rumor.demo.report import TITLES, StepReport, as_json, step_line, summary
from rumor.demo.stage import Stage
from rumor.demo.steps import STEPS, thaw
from rumor.demo.verdict import Count, judge
from rumor.errors import ConfigError, RumorError
from rumor.local.cluster import LocalCluster
from rumor.local.planning import ClusterSettings
from rumor.model import Seconds
from rumor.names import HostPort, ServiceName
from rumor.render.publish import read_template

"""What `--without` can switch off, to show that the demo fails then."""
_READY_DEADLINE = Seconds(20.0)
_SETTLE = 1.5
_REQUESTS_END = Seconds(12.0)
_STANDBY = 2


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What the command line says."""

    rate: float = 200.0
    nodes: int = 3
    delay_ms: int = 20
    steps: tuple[str, ...] = ()
    """Which steps to tell; empty for all."""
    without: frozenset[str] = field(default_factory=frozenset)
    as_json: bool = False
    keep: bool = False
    data: Path | None = None


async def run_demo(settings: DemoSettings, environ: Mapping[str, str]) -> int:
    """Tell the whole story; return the exit status."""
    story = _Story(settings, environ)
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    error = ""
    try:
        await story.tell()
    except RumorError as failure:
        error = str(failure)
        story.say(f"the demo ends here: {error}")
    except asyncio.CancelledError:
        error = "interrupted"
        story.say("interrupted: stopping the cluster")
    finally:
        await story.end()
    return story.conclude(error)


class _Story:
    def __init__(self, settings: DemoSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._is_temporary = settings.data is None and not settings.keep
        self._data = (settings.data or Path(tempfile.mkdtemp(prefix="rumor-demo-"))).absolute()
        self._cluster: LocalCluster | None = None
        self._stage: Stage | None = None
        self._told: list[tuple[StepReport, Count]] = []
        self._total = Count(0, (), ())
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Print progress: on stderr where stdout belongs to the JSON object."""
        print(text, file=sys.stderr if self._settings.as_json else sys.stdout, flush=True)

    async def tell(self) -> None:
        stage = await self._begin()
        names = [name for name in STEPS if not self._settings.steps or name in self._settings.steps]
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(stage.load.run(), name="load"),
                tasks.create_task(stage.cluster.keep_alive(), name="keep alive"),
            ]
            try:
                await asyncio.sleep(_SETTLE)
                began = time.monotonic()
                held: list[StepReport] = []
                for name in names:
                    report = await self._tell_step(stage, name)
                    held.append(report)
                    # What had reached a frozen process can be proved only when it runs again.
                    if not stage.frozen:
                        await self._close_steps(stage, held)
                        held = []
                if held:
                    thaw(stage)
                    await self._close_steps(stage, held)
                self._total = await self._count(stage, began, time.monotonic())
            finally:
                thaw(stage)
                for task in background:
                    task.cancel()

    async def end(self) -> None:
        """Stop the cluster, or leave it running if asked to."""
        if self._cluster is None:
            return
        if self._stage is not None:
            thaw(self._stage)
        if self._settings.keep and self._stage is not None:
            self._cluster.detach()
            self.say(f"the cluster runs on: {self._cluster.url}; end it with: rumor down --data {self._data}")
            return
        with contextlib.suppress(RumorError):
            await self._cluster.stop()
        if self._is_temporary and not self._failed:
            await asyncio.to_thread(shutil.rmtree, self._data, ignore_errors=True)

    @property
    def _failed(self) -> bool:
        return bool(self._total.failed) or not self._told or any(step.problems for step, _ in self._told)

    def conclude(self, error: str) -> int:
        """Print the end; return the exit status."""
        ok = not error and not self._failed
        problems = sum(bool(step.problems) for step, _ in self._told)
        if self._settings.as_json:
            print(json.dumps(as_json(self._told, self._total, ok=ok, error=error)), flush=True)
        elif self._told:
            self.say(summary(self._total, problems, time.monotonic() - self._began, ok=ok))
        if not ok and self._data.exists():
            self.say(f"logs: {self._data}")
        return 0 if ok else 1

    # --- from here on: how

    async def _begin(self) -> Stage:
        settings = self._settings
        self.say(f"rumor demo: a balancer and {settings.nodes} web nodes in {self._data}")
        file = await asyncio.to_thread(self._write_files)
        cluster = LocalCluster(
            ClusterSettings(
                load(file, environ={}),
                file,
                self._data,
                standby={ServiceName("web"): _STANDBY},
                join="gossip" not in settings.without,
            ),
            say=lambda text: self.say(f"  {text}"),
            environ=self._environ,
        )
        self._cluster = cluster
        began = time.monotonic()
        await cluster.start()
        await cluster.wait_ready(_READY_DEADLINE)
        web = [node.name for node in cluster.started_nodes()]
        self.say(
            f"ready after {time.monotonic() - began:.1f} s: {cluster.url} ({len(web)} servers), "
            f"stats {cluster.stats_url}; {settings.rate:g} requests/s"
        )
        bind = cluster.plan.binds[0]
        self._stage = Stage(
            cluster=cluster,
            load=Load(HostPort("127.0.0.1", bind.port), rate=settings.rate),
            log=self._data / "requests.log",
            template=self._data / "haproxy.cfg.j2",
            started=web,
            standby=[node.name for node in cluster.plan.nodes if node.is_standby],
            drains="drain" not in settings.without,
        )
        return self._stage

    def _write_files(self) -> Path:
        settings = self._settings
        self._data.mkdir(parents=True, exist_ok=True)
        (self._data / "requests.log").write_text("")
        (self._data / "haproxy.cfg.j2").write_text(read_template(None), encoding="utf-8")
        command = [sys.executable, str(find_webapp()), "--host", "{host}", "--port", "{port}"]
        file = self._data / "rumor.toml"
        file.write_text(
            f"""# The cluster of `rumor demo`.
[cluster]
name = "demo"

[balancer]
timeouts = {{ server = "2s" }}
template = "haproxy.cfg.j2"

[service.web]
command = {json.dumps(" ".join(json.dumps(word) for word in command))}
replicas = {settings.nodes}
check = {{ http = "/health", interval = "500ms", timeout = "300ms" }}
drain = "{"0s" if "drain" in settings.without else "5s"}"
retries = {0 if "redispatch" in settings.without else 3}
environment = {{ REQUEST_LOG = {json.dumps(str(self._data / "requests.log"))}, DELAY = "{settings.delay_ms}" }}
""",
            encoding="utf-8",
        )
        return file

    async def _tell_step(self, stage: Stage, name: str) -> StepReport:
        report = StepReport(name, time.monotonic())
        try:
            await STEPS[name](stage, report)
        except RumorError as error:
            report.problems.append(str(error))
        await asyncio.sleep(_SETTLE)
        report.end = time.monotonic()
        return report

    async def _close_steps(self, stage: Stage, reports: Sequence[StepReport]) -> None:
        for report in reports:
            count = await self._count(stage, report.begin, report.end)
            self._told.append((report, count))
            self.say(step_line(report, count))

    async def _count(self, stage: Stage, begin: float, end: float) -> Count:
        await stage.load.settle(end, _REQUESTS_END)
        return judge(stage.load.results, await stage.logged(), frozenset(stage.struck), begin, end)


def find_webapp() -> Path:
    """Return the example app: beside the package where rumor is installed, in the repository where it is worked on.

    Raises:
        ConfigError: it is in neither.
    """
    package = Path(rumor.__file__).parent
    for path in (package / "demo" / "webapp.py", package.parents[1] / "examples" / "webapp" / "webapp.py"):
        if path.is_file():
            return path
    raise ConfigError("the example app is not part of this installation: install rumor from its wheel")


def step_names() -> tuple[str, ...]:
    return tuple(TITLES)
