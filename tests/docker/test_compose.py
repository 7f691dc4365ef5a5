"""The compose file at the root, as a user starts it: it scales, loses nodes and gets them back under load."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import require_program
from tests.docker.conftest import ROOT, Engine

from rumor.demo.load import Load, Result
from rumor.demo.verdict import parse_log
from rumor.model import Seconds
from rumor.names import HostPort

RATE = 200.0
DEADLINE = 40.0
NEVER_READY = "FROM rumor-webapp\nENV RUMOR_SERVICE_WEB_COMMAND='python3 -c exit(7)'\n"
LOGS = """
version: "3.7"
services:
  web:
    environment: {REQUEST_LOG: /logs, DELAY: "100"}
    volumes: ["DIRECTORY:/logs"]
"""


@dataclass
class Project:
    """One `docker-compose up` of this test."""

    engine: Engine
    logs: Path
    http: int
    stats: int
    command_of_compose: tuple[str, ...]
    name: str = field(default_factory=lambda: f"rumor{uuid.uuid4().hex[:8]}")
    images: list[str] = field(default_factory=list)
    """Built on the way."""

    def compose(self, *words: str) -> str:
        files = ["-f", str(ROOT / "compose.yaml"), "-f", str(self.logs / "compose.yaml")]
        return self.engine.run(
            *self.command_of_compose, *files, "--project-directory", str(ROOT), "-p", self.name, *words,
            RUMOR_HTTP=f"127.0.0.1:{self.http}", RUMOR_STATS=f"127.0.0.1:{self.stats}",
        )  # fmt: skip

    def containers(self, service: str, *words: str, form: str = "{{.Names}}") -> list[str]:
        """Return what there is of a service's containers: compose's two versions name them differently."""
        labels = {"project": self.name, "service": service}
        filters = [
            word for key, value in labels.items() for word in ("--filter", f"label=com.docker.compose.{key}={value}")
        ]
        return sorted(self.engine.run("ps", *words, *filters, "--format", form).split())

    def container(self, service: str, number: int = 1) -> str:
        return self.containers(service, "--filter", f"label=com.docker.compose.container-number={number}")[0]

    def rumor(self, *words: str, check: bool = True) -> str:
        return self.engine.run("exec", self.container("balancer"), "rumor", *words, check=check)

    def history(self) -> list[str]:
        """Return the ids of the balancer's revisions, newest first."""
        text = self.rumor("config", "history", "--limit", "10000", "--format", "json")
        return [entry["id"] for entry in json.loads(text)["revisions"]]

    def host(self, container: str) -> str:
        """Return a container's hostname: the name of its member."""
        return self.engine.run("inspect", "--format", "{{.Config.Hostname}}", container)

    def status(self, container: str) -> int:
        return int(self.engine.run("inspect", "--format", "{{.State.ExitCode}}", container))

    def serving(self) -> set[str]:
        """Return the servers that are ready, and well by HAProxy's check."""
        text = self.rumor("table", "--format", "json", check=False)
        if not text.startswith("{"):
            return set()
        servers = [server for service in json.loads(text)["services"] for server in service["servers"]]
        return {
            server["name"] for server in servers
            if server["state"] == "ready" and server["haproxy"] and server["haproxy"]["is_up"]
        }  # fmt: skip

    def reached(self, host: str) -> set[str]:
        """Return the requests that had come to an app, by its own log."""
        with contextlib.suppress(FileNotFoundError):
            return {entry.id for entry in parse_log((self.logs / f"{host}.jsonl").read_text())}
        return set()

    async def until(self, holds: Callable[[set[str]], bool], what: str) -> None:
        """Wait until what HAProxy serves is as it should be."""
        found: set[str] = set()
        try:
            async with asyncio.timeout(DEADLINE):
                while not holds(found := await asyncio.to_thread(self.serving)):  # noqa: ASYNC110 - containers tell nobody
                    await asyncio.sleep(0.1)
        except TimeoutError:
            table = await asyncio.to_thread(self.rumor, "table", check=False)
            pytest.fail(f"not within {DEADLINE:g} s: {what}; in rotation: {sorted(found)}\n{table}")

    async def command(self, *words: str, status: int = 0, interrupt_when: Callable[[], bool] | None = None) -> Any:
        """Run one of rumor's own commands beside the containers; return its JSON.

        Args:
            words: the command.
            status: how it must end.
            interrupt_when: when it is to be sent SIGTERM.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rumor", *words, "--project", self.name, "--json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self.engine.environment},
        )  # fmt: skip
        if interrupt_when is not None:
            async with asyncio.timeout(DEADLINE):
                while not await asyncio.to_thread(interrupt_when):  # noqa: ASYNC110 - containers tell nobody
                    await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
        out, words_of_it = await process.communicate()
        assert process.returncode == status, out.decode() + words_of_it.decode()
        return json.loads(out)

    async def image(self, dockerfile: str) -> str:
        """Build an image of a Dockerfile alone; return its name."""
        name = f"{self.name}-{uuid.uuid4().hex[:6]}"
        with tempfile.TemporaryDirectory(prefix="rumor-image-") as directory:
            await asyncio.to_thread((Path(directory) / "Dockerfile").write_text, dockerfile)
            await self.do("build", "--quiet", "--network", "host", "--tag", name, directory)
        self.images.append(name)
        return name

    async def do(self, *words: str) -> str:
        return await asyncio.to_thread(self.engine.run, *words)


@pytest.fixture
def project(images: Engine, free_port: Callable[[], int]) -> Iterator[Project]:
    # The newer one where it is, else Debian's.
    if images.run("compose", "version", check=False):
        command_of_compose: tuple[str, ...] = ("compose",)
    else:
        require_program("docker-compose", "docker-compose")
        command_of_compose = ("docker-compose",)
    logs = Path(tempfile.mkdtemp(prefix="rumor-logs-"))
    logs.chmod(0o777)
    (logs / "compose.yaml").write_text(LOGS.replace("DIRECTORY", str(logs)))
    one = Project(images, logs, free_port(), free_port(), command_of_compose)
    try:
        yield one
    finally:
        one.compose("down", "--volumes", "--timeout", "2", "--remove-orphans")
        if one.images:
            images.run("image", "rm", "--force", *one.images)
        shutil.rmtree(logs, ignore_errors=True)


@asynccontextmanager
async def load(port: int) -> AsyncIterator[Load]:
    running = Load(HostPort("127.0.0.1", port), rate=RATE)
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        loop = asyncio.get_running_loop()
        await running.settle(loop.time(), Seconds(12.0))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.timeout(600)
async def test_nothing_is_lost_but_what_ran_on_a_killed_container(
    project: Project, record_property: Callable[[str, object], None]
) -> None:
    await asyncio.to_thread(project.compose, "up", "-d", "--scale", "web=3")
    await project.until(lambda found: len(found) == 3, "three web nodes")
    bad: dict[str, list[Result]] = {}
    counts: dict[str, int] = {}
    unsaveable: list[str] = []
    loop = asyncio.get_running_loop()
    async with load(project.http) as traffic:
        began = loop.time()

        async def step(name: str, deed: Awaitable[Struck | None]) -> None:
            at = loop.time()
            struck = await deed or Struck()
            await traffic.settle(loop.time(), Seconds(12.0))
            print(f"{name}: {loop.time() - at:.1f} s", flush=True)
            results, traffic.results = traffic.results, []
            counts[name] = len(results)
            failed = [result for result in results if not result.is_ok]
            excused = [it for it in failed if it.method == "POST" and it.id in struck.reached]
            unsaveable.extend(
                f"{name}: {it.method} {it.id} on {struck.host}: {it.error or it.status}" for it in excused
            )
            bad[name] = [result for result in failed if result not in excused]

        await step("scale out", scale(project, 6))
        await step("scale in", scale(project, 3))
        await step("stop", stop_and_start(project, project.container("web", 1)))
        await step("kill", kill_and_start(project, project.container("web", 2), traffic))
        await step("balancer's agent killed", strike_agent(project, project.container("balancer"), "-k"))
        await step("balancer's agent restarted", strike_agent(project, project.container("balancer"), "-r"))
        await step("web node's agent killed", strike_agent(project, project.container("web", 1), "-k"))
        await step("pause", pause(project, project.container("web", 3)))
        await step("rolling restart", restart(project))
        await step("deploy", deploy(project))
        await step("deploy that fails", deploy_in_vain(project))
        await step("deploy that is interrupted", deploy_interrupted(project))
        sent, elapsed = traffic.sent, loop.time() - began
    record_property("requests", sent)
    record_property("unsaveable", unsaveable)
    print(f"{sent} requests in {elapsed:.0f} s, {len(unsaveable)} unsaveable", *unsaveable, sep="\n")
    assert not any(bad.values()), {
        name: [(it.method, it.status, it.error) for it in them] for name, them in bad.items()
    }
    assert sent >= 0.9 * RATE * elapsed, "the load was as heavy as it should be"
    assert all(counts.values()), counts
    assert all(words.startswith("kill: POST") for words in unsaveable), unsaveable
    assert len(unsaveable) < 20, "no more can have run there at one moment"
    await recreate(project)


@dataclass(frozen=True)
class Struck:
    """A container that was killed, and the requests that had come to it by then."""

    host: str = ""
    reached: frozenset[str] = frozenset()


async def scale(project: Project, count: int) -> None:
    await asyncio.to_thread(project.compose, "up", "-d", "--no-recreate", "--scale", f"web={count}")
    await project.until(lambda found: len(found) == count, f"{count} web nodes")


async def stop_and_start(project: Project, container: str) -> None:
    host = await asyncio.to_thread(project.host, container)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await project.do("stop", container)
    assert loop.time() - began < 7 + 2, "the drain time and two seconds"
    assert await asyncio.to_thread(project.status, container) == 0
    await project.until(lambda found: host not in found, "it is out of rotation")
    await project.do("start", container)
    await project.until(lambda found: host in found, "it is back")


async def kill_and_start(project: Project, container: str, traffic: Load) -> Struck:
    host = await asyncio.to_thread(project.host, container)
    await all_have_arrived(project, traffic)
    # The load runs in this event loop, so none leaves until Docker says that the container is dead: what lies unread in
    # the sockets of a dying process is lost as well, and no log could prove it. Many are running there, POSTs too.
    project.engine.run("kill", "--signal", "KILL", container)
    # Now, before it is back: what comes to it afterwards is nobody's fault but ours.
    struck = Struck(host, frozenset(await asyncio.to_thread(project.reached, host)))
    await project.until(lambda found: host not in found, "it is out of rotation")
    await project.do("start", container)
    await project.until(lambda found: host in found, "it is back")
    return struck


async def all_have_arrived(project: Project, traffic: Load) -> None:
    """Wait for a moment in which every request that is under way has come to an app, by the apps' own logs."""
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(path.open()) for path in await asyncio.to_thread(list, project.logs.glob("*.jsonl"))
        ]
        for file in files:
            file.seek(0, os.SEEK_END)
        arrived: set[str] = set()
        async with asyncio.timeout(DEADLINE):
            while True:
                arrived |= {entry.id for file in files for entry in parse_log(file.read())}
                if traffic.in_flight and traffic.in_flight.keys() <= arrived:
                    return
                await asyncio.sleep(0.0005)


async def strike_agent(project: Project, container: str, how: str) -> None:
    """Kill a container's agent (-k), or restart it as the documents say (-r)."""
    service = "/run/rumor/service/agent"

    async def pid() -> int:
        return int(await project.do("exec", container, "s6-svstat", "-o", "pid", service))

    before, serving = await pid(), await asyncio.to_thread(project.serving)
    assert before > 1
    await project.do("exec", container, "s6-svc", how, service)
    async with asyncio.timeout(DEADLINE):
        while (now := await pid()) in (before, -1):  # noqa: ASYNC110 - s6 tells nobody out here
            await asyncio.sleep(0.1)
    assert now > 1
    await project.until(lambda found: found == serving, f"its agent is back, and so are {serving}")


async def restart(project: Project) -> None:
    before = await asyncio.to_thread(project.serving)
    report = await project.command("restart", "web", "--rolling")
    assert report["ok"], report
    assert [(it["deed"], it["ok"]) for it in report["steps"]] == [("restarted", True)] * 3
    # One check that comes late on a busy machine makes a server doubtful for a moment.
    await project.until(lambda found: found == before, "the same ones, all of them")


async def deploy(project: Project) -> None:
    before = await asyncio.to_thread(project.serving)
    # Root for what needs it, as the documents show.
    image = await project.image("FROM rumor-webapp\nUSER root\nRUN touch /etc/made-by-root\nUSER rumor\n")
    report = await project.command("deploy", "web", "--image", image)
    assert report["ok"], report
    assert {it["instance"] for it in report["steps"] if it["deed"] == "stopped"} == before
    await project.until(lambda found: len(found) == 3 and not found & before, "the new ones alone")
    assert await asyncio.to_thread(project.containers, "web", form="{{.Image}}") == [image] * 3
    # Compose sees nothing to do, whichever way it is asked.
    after = await asyncio.to_thread(project.containers, "web", form="{{.ID}}")
    for words in (["--no-recreate"], []):
        await asyncio.to_thread(project.compose, "up", "-d", *words, "--scale", "web=3")
        assert await asyncio.to_thread(project.containers, "web", form="{{.ID}}") == after, words


async def deploy_in_vain(project: Project) -> None:
    before = await asyncio.to_thread(project.serving)
    image = await project.image(NEVER_READY)
    report = await project.command("deploy", "web", "--image", image, "--timeout", "4s", status=1)
    assert "did not become ready within 4 s; the old ones stay" in report["reason"]
    assert await asyncio.to_thread(project.serving) == before
    assert image not in await asyncio.to_thread(project.containers, "web", "--all", form="{{.Image}}")


async def deploy_interrupted(project: Project) -> None:
    """By SIGTERM, when the first of the new containers is there and the others are not."""
    before = await asyncio.to_thread(project.containers, "web", "--all")
    image = await project.image(NEVER_READY)
    report = await project.command(
        "deploy", "web", "--image", image, status=128 + signal.SIGTERM,
        interrupt_when=lambda: len(project.containers("web", "--all")) > len(before),
    )  # fmt: skip
    assert (report["ok"], report["reason"]) == (False, "interrupted by SIGTERM")
    assert await asyncio.to_thread(project.containers, "web", "--all") == before


async def recreate(project: Project) -> None:
    """All containers anew, one killed before: web nodes get new hostnames, on volumes that compose keeps."""
    first = (await asyncio.to_thread(project.history))[-1]
    await project.do("kill", "--signal", "KILL", (await asyncio.to_thread(project.containers, "web"))[0])
    await asyncio.to_thread(project.compose, "up", "-d", "--force-recreate", "--scale", "web=3")
    await project.until(lambda found: len(found) == 3, "three web nodes, made anew")
    for service in ("balancer", "web"):
        for container in await asyncio.to_thread(project.containers, service):
            assert "ready" in await project.do("exec", container, "rumor", "health")
    assert first in await asyncio.to_thread(project.history), "the balancer remembers"


async def pause(project: Project, container: str) -> None:
    host = await asyncio.to_thread(project.host, container)
    await project.do("pause", container)
    await project.until(lambda found: host not in found, "it is out of rotation")
    await project.do("unpause", container)
    await project.until(lambda found: host in found, "it is back")
