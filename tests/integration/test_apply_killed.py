"""The apply is killed with -9 anywhere, under load: the next one brings file, HAProxy and table together again."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from tests.integration import applier_process
from tests.integration.test_haproxy_apply import load, serving

from rumor.atomic_file import write_atomically
from rumor.haproxy.config_text import read_config
from rumor.haproxy.observe import Observed
from rumor.journal import Journal
from rumor.model import Outcome, Revision
from rumor.names import HostPort

DEADLINE = 15.0


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not tmp_path: a UNIX socket's path may have 108 bytes at most.
    path = Path(tempfile.mkdtemp(prefix="rumor-"))
    yield path
    shutil.rmtree(path)


@asynccontextmanager
async def haproxy(program: Path, directory: Path, first: Revision) -> AsyncIterator[None]:
    write_atomically(directory / "haproxy.cfg", first.text)
    process = await asyncio.create_subprocess_exec(
        program, "-W", "-S", f"{directory}/master.sock,mode,600", "-f", directory / "haproxy.cfg",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def kill_one(directory: Path, port: int, number: int, addresses: list[HostPort], after: float) -> None:
    """Let a process apply revisions from `number` on, and kill it `after` seconds later."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, applier_process.__file__, str(directory), str(port), str(number), *map(str, addresses),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    async with asyncio.timeout(DEADLINE):
        assert await child.stdout.readline() == b"ready\n"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(after):
            await child.wait()
            pytest.fail(f"it ended by itself with {child.returncode}")
    child.kill()
    await child.wait()


async def bring_together(directory: Path, journal: Journal, revision: Revision) -> Observed:
    one = applier_process.applier(directory, journal)
    one.lock()
    try:
        await journal.add_revision(revision, Outcome.PENDING)
        async with asyncio.timeout(DEADLINE):
            while True:
                report = await one.apply(revision)
                if report.is_converged and report.observed is not None:
                    return report.observed
                await asyncio.sleep(report.wake_in or 0.02)
    finally:
        one.close()


def assert_agreement(directory: Path, revision: Revision, observed: Observed) -> None:
    table = {server.name: server for service in revision.table.services for server in service.servers}
    assert (directory / "haproxy.cfg").read_text() == revision.text
    assert observed.revision == revision.id
    assert sorted(entry.server for entry in observed.servers) == sorted(table), "none lost, none doubled"
    for entry in observed.servers:
        server = table[entry.server]
        assert (entry.address, entry.rotation, entry.weight) == (server.address, server.rotation, server.weight)
    assert {name for _, name in read_config(revision.text).servers} == set(table)


async def killed_at_points(program: Path, directory: Path, port: int, points: int) -> None:
    random = Random(points)
    async with serving(6) as apps:
        addresses = [app.address for app in apps]
        rules = applier_process.rules(directory, port)
        first = applier_process.wanted(rules, addresses, 1)
        journal = await Journal.open(directory / "journal.db")
        async with haproxy(program, directory, first):
            await bring_together(directory, journal, first)
            async with load(port) as traffic:
                for point in range(points):
                    # Most of what an apply does is done in its first moments.
                    after = random.choice((random.uniform(0.0, 0.03), random.uniform(0.0, 0.4)))
                    await kill_one(directory, port, point * 10, addresses, after)
                    revision = applier_process.wanted(rules, addresses, point * 10 + 5)
                    assert_agreement(directory, revision, await bring_together(directory, journal, revision))
            assert traffic.failures == []
        await journal.close()


@pytest.mark.timeout(120)
async def test_an_apply_killed_at_some_points_is_succeeded_without_a_lost_request(
    haproxy_program: Path, directory: Path, free_port: Callable[[], int]
) -> None:
    await killed_at_points(haproxy_program, directory, free_port(), 15)


@pytest.mark.soak
async def test_an_apply_killed_at_two_hundred_points_is_succeeded_without_a_lost_request(
    haproxy_program: Path, directory: Path, free_port: Callable[[], int]
) -> None:
    await killed_at_points(haproxy_program, directory, free_port(), 200)
