"""What people do with the programs of `rumor up` while requests come in: not one may fail."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.test_up import APP, Up

from rumor.demo.load import Load
from rumor.model import Seconds
from rumor.names import parse_host_port

RATE = 100.0
FILE = f"""
[service.web]
command = "{APP}"
replicas = 2
check = {{ http = "/health", interval = "300ms", timeout = "300ms" }}
drain = "5s"
environment = {{ DELAY = "20" }}
longest_pause = "2s"

[program.worker]
command = "sleep 1000"
parts = ["web"]
"""


@pytest.fixture
def start() -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start_one(directory: Path) -> Up:
        started.append(Up(directory))
        return started[-1]

    yield start_one
    for up in started:
        up.end()


async def rumor(directory: Path, *words: str, status: int | None = 0) -> dict[str, Any]:
    """Run a command that prints JSON, in the cluster's directory; None for a `status` that may be any."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rumor", *words, cwd=directory,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert status in (None, process.returncode), f"{words}: {out.decode()}{err.decode()}"
    found: dict[str, Any] = json.loads(out)
    return found


async def ps(directory: Path, status: int | None = 0) -> dict[str, dict[str, Any]]:
    shown = await rumor(directory, "ps", "--format", "json", status=status)
    assert shown["supervisor"] == "supervisord"
    return {program["name"]: program for program in shown["programs"]}


async def serving(directory: Path) -> set[str]:
    table = await rumor(directory, "table", "--format", "json")
    servers = [server for service in table["services"] for server in service["servers"]]
    return {
        server["name"] for server in servers if server["state"] == "ready" and (server["haproxy"] or {}).get("is_up")
    }


async def until_serving(directory: Path, wanted: set[str]) -> None:
    end = time.monotonic() + 30
    while (found := await serving(directory)) != wanted:
        assert time.monotonic() < end, f"{found} serve, and not {wanted}"
        await asyncio.sleep(0.2)


@asynccontextmanager
async def load(url: str) -> AsyncIterator[Load]:
    """Send requests all the while; each must have been answered well."""
    address = re.fullmatch(r"http://(.+)", url)
    assert address
    running = Load(parse_host_port(address[1]), rate=RATE)
    task = asyncio.create_task(running.run())
    began = asyncio.get_running_loop().time()
    try:
        yield running
        now = asyncio.get_running_loop().time()
        await running.settle(now, Seconds(12.0))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [(it.method, it.status, it.error) for it in running.results if not it.is_ok] == []
    assert running.sent >= 0.8 * RATE * (now - began)


@pytest.mark.timeout(240)
async def test_no_request_fails_while_programs_stop_start_change_and_are_replaced(
    tmp_path: Path, start: Callable[[Path], Up]
) -> None:
    file = tmp_path / "rumor.toml"
    file.write_text(FILE)
    up = start(tmp_path)
    url = await asyncio.to_thread(up.wait_ready)
    async with load(url):
        stopped = await rumor(tmp_path, "stop", "web-2", "--format", "json")
        assert {one["name"]: one["state"] for one in stopped["programs"]} == {
            "web-2-agent": "stopped", "web-2-app": "stopped", "web-2-worker": "stopped",
        }  # fmt: skip
        await rumor(tmp_path, "start", "web-2", "--format", "json")
        await until_serving(tmp_path, {"web-1", "web-2"})

        before = await ps(tmp_path)
        file.write_text(FILE.replace("replicas = 2", "replicas = 3").replace('DELAY = "20"', 'DELAY = "30"'))
        changed = await rumor(tmp_path, "reload-services", "--format", "json")
        assert changed["added"] == ["web-3-app", "web-3-worker", "web-3-agent"]
        assert (changed["changed"], changed["removed"]) == (["web-1-app", "web-2-app"], [])
        await until_serving(tmp_path, {"web-1", "web-2", "web-3"})
        after = await ps(tmp_path)
        assert after["web-1-worker"]["pid"] == before["web-1-worker"]["pid"], "what is the same is not touched"
        assert after["web-1-app"]["pid"] != before["web-1-app"]["pid"]

        report = await rumor(tmp_path, "restart", "web", "--rolling", "--json")
        assert report["ok"], report
        assert [step["instance"] for step in report["steps"]] == ["web-1", "web-2", "web-3"]

        command = f"{APP} --nonsense"
        report = await rumor(tmp_path, "deploy", "web", "--command", command, "--timeout", "3s", "--json", status=1)
        assert "the old ones stay" in report["reason"]
        assert "unrecognized arguments: --nonsense" in report["steps"][0]["words"]
        assert await serving(tmp_path) == {"web-1", "web-2", "web-3"}

        report = await rumor(tmp_path, "deploy", "web", "--command", f"env NEW=1 {APP}", "--json")
        assert report["ok"], report
        await until_serving(tmp_path, {"web-4", "web-5", "web-6"})
        assert set(await ps(tmp_path)) == {
            "haproxy", "balancer-agent",
            *(f"web-{number}-{kind}" for number in (4, 5, 6) for kind in ("app", "agent", "worker")),
        }  # fmt: skip

        file.write_text(file.read_text().replace("replicas = 3", "replicas = 2").replace(APP, f"env NEW=1 {APP}"))
        changed = await rumor(tmp_path, "reload-services", "--format", "json")
        assert (changed["added"], changed["changed"]) == ([], [])
        assert set(changed["removed"]) == {"web-6-app", "web-6-worker", "web-6-agent"}
        await until_serving(tmp_path, {"web-4", "web-5"})
    assert await asyncio.to_thread(up.stop) == 0
    assert [line for line in up.text.splitlines() if "fell" in line] == []


@pytest.mark.timeout(120)
async def test_how_a_program_ended_is_told_by_ps_and_by_why(tmp_path: Path, start: Callable[[Path], Up]) -> None:
    (tmp_path / "rumor.toml").write_text(FILE)
    up = start(tmp_path)
    await asyncio.to_thread(up.wait_ready)
    pid = (await ps(tmp_path))["web-2-app"]["pid"]
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while True:
        # While it waits for its next try, `ps` says so by its status, too.
        program = (await ps(tmp_path, status=None))["web-2-app"]
        records = (await rumor(tmp_path, "why", "web-2", "--format", "json"))["records"]
        told = [record["text"] for record in records if record["kind"] == "program_ended"]
        if program["last_exit"] and program["pid"] not in (None, pid) and told:
            break
        assert time.monotonic() < end, (program, records)
        await asyncio.sleep(0.2)
    assert program["last_exit"]["text"] == "ended by SIGKILL"
    assert told == ["web-2-app on web-2 ended by SIGKILL"]
    # The node's own journal has it, too.
    own = await rumor(tmp_path, "why", "web-2", "--node", "balancer", "--format", "json")
    assert own["records"]
    assert await asyncio.to_thread(up.stop) == 0
