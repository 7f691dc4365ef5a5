"""How often the applier looks at HAProxy, and how it asks new servers, with a HAProxy in memory."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rumor.haproxy.apply import Applier, ApplierSettings
from rumor.haproxy.fake import FakeHaproxy
from rumor.model import Cause, Revision, Seconds, Table
from rumor.names import HostPort, ServiceName
from rumor.render.template import identified

WEB = ServiceName("web")


def revision(count: int) -> Revision:
    servers = "".join(f"    server s{n:03} 10.0.{n // 250}.{n % 250 + 1}:80 weight 1 check\n" for n in range(count))
    text = f"global\n    set-var proc.rumor_revision str({'0' * 64})\nbackend web\n{servers}"
    return identified(text, Table(), Cause("test", "a test"))


class Stage:
    """One fake HAProxy that runs `first`, and its applier."""

    def __init__(self, directory: Path, first: Revision) -> None:
        path = directory / "haproxy.cfg"
        path.write_text(first.text)
        self.haproxy = FakeHaproxy(path, lambda address: True)
        self.unwell: set[HostPort] = set()

        async def text_of(wanted: str) -> str | None:
            return None

        async def probe(servers: Sequence[tuple[ServiceName, HostPort]], on_well: Callable[[int], None]) -> None:
            for place, (_, address) in enumerate(servers):
                await asyncio.sleep(0)
                if address not in self.unwell:
                    on_well(place)

        def write(path: Path, text: str) -> None:
            path.write_text(text)

        self.applier = Applier(
            ApplierSettings(path, directory, {WEB: Seconds(0.0)}),
            text_of=text_of,
            write=write,
            probe=probe,
            connect=self.haproxy.connect,
        )


async def test_what_was_seen_just_now_is_not_looked_at_again(tmp_path: Path) -> None:
    wanted = revision(3)
    stage = Stage(tmp_path, wanted)
    seen = await stage.applier.observe()
    before = stage.haproxy.commands
    report = await stage.applier.apply(wanted, seen=seen)
    assert report.is_converged
    assert report.observed is seen
    assert stage.haproxy.commands == before


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_what_was_seen_before_the_file_was_written_counts_if_haproxy_is_the_same(
    tmp_path: Path, is_restarted: bool
) -> None:
    stage = Stage(tmp_path, revision(3))
    seen = await stage.applier.observe()
    tables = list[str]()

    def before(line: str) -> None:
        if "add server" in line or "show servers state" in line:
            tables.append(line.split()[0])

    stage.haproxy.before = before
    if is_restarted:
        # With the old file, while the new one was checked: as if somebody had gone to an empty pool.
        stage.haproxy.config.write_text(revision(0).text)
        stage.haproxy.restart()
    report = await stage.applier.apply(revision(4), seen=seen)
    # Servers that HAProxy no longer has are added as well.
    assert tables == (["get", *["add"] * 4, "get"] if is_restarted else ["add", "get"])
    assert report.observed is not None
    assert len(report.observed.servers) == 4


async def test_of_many_new_servers_only_those_that_are_well_come_in(tmp_path: Path) -> None:
    stage = Stage(tmp_path, revision(3))
    stage.unwell = {HostPort("10.0.0.9", 80)}
    await stage.applier.apply(revision(300))
    ready = [name for (_, name), server in stage.haproxy.servers.items() if server.takes_requests]
    assert len(ready) == 299
    assert "s008" not in ready


async def test_configuration_is_read_in_advance_and_one_without_an_id_or_sense_is_passed_over(tmp_path: Path) -> None:
    stage = Stage(tmp_path, revision(3))
    wanted = revision(4)
    stage.applier.learn(wanted.text)
    stage.applier.learn("no configuration of ours")
    stage.applier.learn(wanted.text.replace("s001", "s000"))
    assert (await stage.applier.apply(wanted)).how == "runtime"
