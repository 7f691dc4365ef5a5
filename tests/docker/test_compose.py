"""The compose file at the root, as a user starts it: it scales, loses nodes and gets them back under load."""

import asyncio
import contextlib
import json
import os
import shutil
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
LOGS = """
version: "3.7"
services:
  web:
    environment: {REQUEST_LOG: /logs, DELAY: "20"}
    volumes: ["DIRECTORY:/logs"]
"""


@dataclass
class Project:
    """One `docker-compose up` of this test."""

    engine: Engine
    logs: Path
    http: int
    stats: int
    name: str = field(default_factory=lambda: f"rumor{uuid.uuid4().hex[:8]}")
    images: list[str] = field(default_factory=list)
    """Built on the way."""

    def compose(self, *words: str) -> str:
        files = ["-f", str(ROOT / "compose.yaml"), "-f", str(self.logs / "compose.yaml")]
        return self.engine.run(
            "docker-compose", *files, "--project-directory", str(ROOT), "-p", self.name, *words,
            RUMOR_HTTP=f"127.0.0.1:{self.http}", RUMOR_STATS=f"127.0.0.1:{self.stats}",
        )  # fmt: skip

    def container(self, service: str, number: int = 1) -> str:
        return f"{self.name}_{service}_{number}"

    def rumor(self, *words: str, check: bool = True) -> str:
        return self.engine.run("exec", self.container("balancer"), "rumor", *words, check=check)

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

    async def command(self, *words: str, status: int = 0) -> dict[str, Any]:
        """Run one of rumor's own commands beside the containers; return its JSON."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rumor", *words, "--project", self.name, "--json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self.engine.environment},
        )  # fmt: skip
        out, words_of_it = await process.communicate()
        assert process.returncode == status, out.decode() + words_of_it.decode()
        found: dict[str, Any] = json.loads(out)
        return found

    async def image(self, dockerfile: str) -> str:
        """Build an image of a Dockerfile alone; return its name."""
        name = f"{self.name}-{uuid.uuid4().hex[:6]}"
        with tempfile.TemporaryDirectory(prefix="rumor-image-") as directory:
            await asyncio.to_thread((Path(directory) / "Dockerfile").write_text, dockerfile)
            await self.do("build", "--quiet", "--tag", name, directory)
        self.images.append(name)
        return name

    async def do(self, *words: str) -> str:
        return await asyncio.to_thread(self.engine.run, *words)


@pytest.fixture
def project(images: Engine, free_port: Callable[[], int]) -> Iterator[Project]:
    require_program("docker-compose", "docker-compose")
    logs = Path(tempfile.mkdtemp(prefix="rumor-logs-"))
    logs.chmod(0o777)
    (logs / "compose.yaml").write_text(LOGS.replace("DIRECTORY", str(logs)))
    one = Project(images, logs, free_port(), free_port())
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


@pytest.mark.timeout(300)
async def test_nothing_is_lost_but_what_ran_on_a_killed_container(project: Project) -> None:
    await asyncio.to_thread(project.compose, "up", "-d", "--scale", "web=3")
    await project.until(lambda found: len(found) == 3, "three web nodes")
    bad: dict[str, list[Result]] = {}
    unsaveable: list[str] = []
    async with load(project.http) as traffic:

        async def step(name: str, deed: Awaitable[None], killed: str = "") -> None:
            await deed
            await traffic.settle(asyncio.get_running_loop().time(), Seconds(12.0))
            failed = [result for result in traffic.results if not result.is_ok]
            reached = await asyncio.to_thread(project.reached, killed) if killed else set()
            unsaveable.extend(f"{name}: {it.method} on {killed}" for it in failed if it.id in reached)
            bad[name] = [result for result in failed if result.id not in reached or result.method != "POST"]
            traffic.results.clear()

        await step("scale out", scale(project, 6))
        await step("scale in", scale(project, 3))
        await step("stop", stop_and_start(project, project.container("web", 1)))
        await step(
            "kill", kill_and_start(project, project.container("web", 2)), project.host(project.container("web", 2))
        )
        await step("agent killed", kill_agent(project))
        await step("pause", pause(project, project.container("web", 3)))
        await step("rolling restart", restart(project))
        await step("deploy", deploy(project))
        await step("deploy that fails", deploy_in_vain(project))
        assert traffic.sent > 10 * RATE
    assert not any(bad.values()), {
        name: [(it.method, it.status, it.error) for it in them] for name, them in bad.items()
    }
    assert all(words.startswith("kill: POST") for words in unsaveable), unsaveable
    assert len(unsaveable) < 20, "no more can have run there at one moment"


async def scale(project: Project, count: int) -> None:
    await asyncio.to_thread(project.compose, "up", "-d", "--no-recreate", "--scale", f"web={count}")
    await project.until(lambda found: len(found) == count, f"{count} web nodes")


async def stop_and_start(project: Project, container: str) -> None:
    host = await asyncio.to_thread(project.host, container)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await project.do("stop", "--time", "20", container)
    assert loop.time() - began < 7 + 2, "the drain time and two seconds"
    assert await asyncio.to_thread(project.status, container) == 0
    await project.until(lambda found: host not in found, "it is out of rotation")
    await project.do("start", container)
    await project.until(lambda found: host in found, "it is back")


async def kill_and_start(project: Project, container: str) -> None:
    host = await asyncio.to_thread(project.host, container)
    await project.do("kill", "--signal", "KILL", container)
    await project.until(lambda found: host not in found, "it is out of rotation")
    await project.do("start", container)
    await project.until(lambda found: host in found, "it is back")


async def kill_agent(project: Project) -> None:
    balancer = project.container("balancer")
    pid = ("exec", balancer, "s6-svstat", "-o", "pid", "/run/rumor/service/agent")
    before = await project.do(*pid)
    await project.do("exec", balancer, "s6-svc", "-k", "/run/rumor/service/agent")
    await project.until(lambda found: len(found) == 3, "its agent is back")
    assert await project.do(*pid) != before


async def restart(project: Project) -> None:
    before = await asyncio.to_thread(project.serving)
    report = await project.command("restart", "web", "--rolling")
    assert report["ok"], report
    assert [(it["deed"], it["ok"]) for it in report["steps"]] == [("restarted", True)] * 3
    assert await asyncio.to_thread(project.serving) == before


async def deploy(project: Project) -> None:
    before = await asyncio.to_thread(project.serving)
    image = await project.image("FROM rumor-webapp\nENV SOMETHING=new\n")
    report = await project.command("deploy", "web", "--image", image)
    assert report["ok"], report
    assert {it["instance"] for it in report["steps"] if it["deed"] == "stopped"} == before
    await project.until(lambda found: len(found) == 3 and not found & before, "the new ones alone")
    shown = await project.do("ps", "--filter", f"name={project.name}_web_", "--format", "{{.Image}}")
    assert shown.split() == [image] * 3


async def deploy_in_vain(project: Project) -> None:
    before = await asyncio.to_thread(project.serving)
    image = await project.image("FROM rumor-webapp\nENV RUMOR_SERVICE_WEB_COMMAND='python3 -c exit(7)'\n")
    report = await project.command("deploy", "web", "--image", image, "--timeout", "4s", status=1)
    assert "did not become ready within 4 s; the old ones stay" in report["reason"]
    assert await asyncio.to_thread(project.serving) == before
    shown = await project.do("ps", "--all", "--filter", f"name={project.name}_web_", "--format", "{{.Image}}")
    assert image not in shown


async def pause(project: Project, container: str) -> None:
    host = await asyncio.to_thread(project.host, container)
    await project.do("pause", container)
    await project.until(lambda found: host not in found, "it is out of rotation")
    await project.do("unpause", container)
    await project.until(lambda found: host in found, "it is back")
