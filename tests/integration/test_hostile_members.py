"""Members that mean harm, rendered and read by the real HAProxy: it has the servers of the table, and nothing else.

Each byte value, and each piece of syntax that HAProxy, its command line or Jinja gives a meaning to, stands in a name,
a version, a port, a weight and a tag's key, all in one cluster; those that parse are servers, the others are refused.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.property.test_pool_injection import API, POOL, SETTINGS, WEB, pack, state

from rumor.atomic_file import write_atomically
from rumor.haproxy.replies import parse_servers
from rumor.haproxy.runtime import CommandSocket
from rumor.model import Cause, Instant, WallTime
from rumor.names import Endpoint
from rumor.pool.table import Blindness, build_table
from rumor.render.template import render
from rumor.serf.events import SerfMember
from rumor.sources.gossip import build

SYNTAX = (
    "\n    http-request return status 200", "\nbackend evil\n    server x 127.0.0.1:1", "${HOME}", "$HOME", "%[src]",
    "%%", "{{ 7 * 7 }}", "{% for x in y %}", "{#", ";show version", "a;b", "a b", "'", '"', "\\", "\\x20", "#", "//",
    "../../etc/passwd", "unix@/tmp/x", "abns@x", "127.1", "0x7f000001", "-", "--", "BACKEND", "FRONTEND", "*", "\u2028",
    "é", "web-1\r", "x" * 65_536, "70000", "-1", "1e3", "٣",
)  # fmt: skip
DEADLINE = 10.0


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="rumor-"))
    yield path
    shutil.rmtree(path)


def hostile() -> list[SerfMember]:
    pieces = [*map(chr, range(256)), *SYNTAX]
    found = []
    for number, piece in enumerate(pieces):
        host = f"10.{1 + number // 200}.{number % 200}"
        honest = f"h{number}"
        for last, (name, tags) in enumerate([
            (f"n{number}{piece}x", {"service:web": "3000"}),
            (piece, {"service:web": "3000"}),
            (f"v{honest}", {"service:web": f"3000;version=1{piece}"}),
            (f"p{honest}", {"service:web": f"3000{piece}"}),
            (f"w{honest}", {"service:web": f"3000;weight={piece}"}),
            (f"k{honest}", {f"service:web{piece}": "3000"}),
            (f"s{honest}", {"service:web": f"3000;state={piece}"}),
            (f"r{honest}", {"role": f"backend{piece}", "note": piece}),
        ]):  # fmt: skip
            found.append(state(name, pack(tags), f"{host}.{last + 1}"))
    return [*found, state("honest", pack({"service:web": "3000"}), "10.9.9.9")]


async def test_haproxy_has_the_servers_of_the_table_and_nothing_else(
    haproxy_program: Path, directory: Path, free_port: Callable[[], int]
) -> None:
    snapshot = build(hostile(), is_blind=False, now=Instant(1.0), wall=WallTime(1.0))
    table, refused = build_table(snapshot.members, POOL, (), blindness=Blindness(), now=Instant(1.0))
    assert len(snapshot.refusals) > 300
    assert len(refused) > 1000
    settings = replace(SETTINGS, binds=(Endpoint("127.0.0.1", free_port()),), run_directory=directory)
    text = render(table, settings, Cause("test", "a test")).text
    config = directory / "haproxy.cfg"
    write_atomically(config, text)
    process = await asyncio.create_subprocess_exec(
        # With -dW a warning is an error.
        haproxy_program, "-dW", "-db", "-f", config, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    worker = CommandSocket(directory / "haproxy.sock")
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                assert process.returncode is None, "HAProxy did not start"
                with contextlib.suppress(Exception):
                    await worker.ask("show info")
                    break
                await asyncio.sleep(0.05)
        backends = set((await worker.ask("show backend")).splitlines()[1:])
        assert backends == {WEB, API, "rumor_no_route"}
        rows = [line.split(",") for line in (await worker.ask("show stat -1 7 -1")).splitlines()]
        named = rows[0].index("svname")
        assert [row[0] for row in rows if row[named] == "FRONTEND"] == ["rumor"]
        # Every row, also of servers whose names we could not have taken.
        assert sum(row[named] not in ("FRONTEND", "BACKEND", "svname") for row in rows) == sum(
            len(service.servers) for service in table.services
        )
        servers = parse_servers(await worker.ask("show servers state"), await worker.ask("show stat -1 4 -1"), [])
        seen = {(entry.service, entry.server, entry.address) for entry in servers}
        wanted = {(service.name, one.name, one.address) for service in table.services for one in service.servers}
        assert seen == wanted
        assert (WEB, "honest") in {(service, name) for service, name, _ in seen}
        assert 100 < len(seen) < 700
    finally:
        process.terminate()
        await process.communicate()
