"""Bad parts give way to good ones, and an operator can go back: seen with a real `haproxy -c` and a real journal."""

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rumor.agent.pin import Pin
from rumor.agent.revisions import Revisions
from rumor.errors import ConfigError, Refused
from rumor.haproxy.binds import new_binds
from rumor.haproxy.config_text import read_config
from rumor.journal import Journal
from rumor.model import Cause, Outcome, Revision, Rotation, Seconds, Server, Service, Table
from rumor.names import Endpoint, HostPort, MemberName, ServiceName
from rumor.render import publish
from rumor.render.settings import BackendSettings, CheckRule, Raw, RenderSettings, Route

WEB, API = ServiceName("web"), ServiceName("api")
CAUSE = Cause("test", "a test")


def backend(service: ServiceName, path: str) -> BackendSettings:
    return BackendSettings(
        service, (Route("*", path),), CheckRule("/", Seconds(1.0), Seconds(0.5), 2, 2), "leastconn",
        drain=Seconds(1.0), retries=3, repeat_post=False, sticky_key="",
    )  # fmt: skip


def table(*last: int) -> Table:
    servers = tuple(Server(MemberName(f"n{one}"), HostPort(f"10.0.0.{one}", 3000), 100, Rotation.READY) for one in last)
    return Table((Service(API, servers), Service(WEB, servers)))


@dataclass(slots=True)
class Stage:
    directory: Path
    journal: Journal
    revisions: Revisions
    settings: RenderSettings
    haproxy: Path

    async def check(self, text: str, running: str) -> str:
        words = await publish.check_haproxy(self.haproxy, text)
        return words or publish.test_bind(new_binds(running, text))

    async def offer(self, servers: Table, settings: RenderSettings | None = None) -> Revision:
        revision = await self.revisions.offer(servers, settings or self.settings, CAUSE)
        self.revisions.accept(revision)
        await self.journal.set_outcome(revision.id, Outcome.APPLIED, "")
        return revision

    def again(self) -> None:
        """The agent starts anew; HAProxy's file is what it left."""
        text = "" if self.revisions.newest is None else self.revisions.newest.text
        self.revisions = Revisions(self.journal, check=self.check, pin=Pin(self.directory / "pin.json"), good_text=text)

    async def kinds(self) -> list[str]:
        return [record.kind for record in reversed(await self.journal.records())]

    def change(self, service: ServiceName, **what: object) -> RenderSettings:
        changed = tuple(
            replace(entry, **what) if entry.service == service else entry  # type: ignore[arg-type]  # any field
            for entry in self.settings.backends
        )
        return replace(self.settings, backends=changed)


@pytest.fixture
async def stage(tmp_path: Path, haproxy_program: Path) -> AsyncIterator[Stage]:
    settings = RenderSettings(
        binds=(Endpoint("127.0.0.1", 0),), stats=None, run_directory=tmp_path, maxconn=100,
        backends=(backend(API, "/api"), backend(WEB, "/")), template_text=publish.read_template(None),
    )  # fmt: skip
    settings = replace(settings, binds=(Endpoint("127.0.0.1", 18_080),))
    journal = await Journal.open(tmp_path / "journal.db")
    made: Stage

    async def check(text: str, running: str) -> str:
        return await made.check(text, running)

    revisions = Revisions(journal, check=check, pin=Pin(tmp_path / "pin.json"))
    made = Stage(tmp_path, journal, revisions, settings, haproxy_program)
    yield made
    await journal.close()


def section(text: str, name: str) -> str:
    return text.split(f"\nbackend {name}\n", 1)[1].split("\n\n", 1)[0].split("\nbackend ", 1)[0]


async def test_a_file_that_has_gone_since_keeps_no_dead_server_in_rotation(stage: Stage) -> None:
    page = stage.directory / "down.html"
    page.write_text("down")
    with_page = stage.change(WEB, error_pages={503: page}, balance="roundrobin")
    await stage.offer(table(1), with_page)
    page.rename(stage.directory / "elsewhere")
    # No text that names it would load any more. HAProxy has it loaded, though, and servers need no reload.
    revision = await stage.offer(table(1, 2), with_page)
    assert [name for service, name in read_config(revision.text).servers if service == WEB] == ["n1", "n2"]
    assert "down.html" in stage.revisions.set_aside[WEB]
    # What needs a reload has to wait: it would leave nothing running.
    other = replace(with_page, backends=tuple(
        replace(entry, balance="random") if entry.service == API else entry for entry in with_page.backends
    ))  # fmt: skip
    with pytest.raises(Refused, match=r"down\.html"):
        await stage.offer(table(1, 2), other)
    (stage.directory / "elsewhere").rename(page)
    await stage.offer(table(1, 2), other)
    assert stage.revisions.set_aside == {}


async def test_a_bad_part_gives_way_to_the_last_good_one_with_todays_servers(stage: Stage) -> None:
    await stage.offer(table(1), stage.change(WEB, balance="roundrobin"))
    bad = stage.change(WEB, raw=Raw(backend=("no-such-word at-all",)), balance="random")
    bad = replace(bad, backends=(replace(bad.backends[0], balance="random"), bad.backends[1]))
    revision = await stage.offer(table(1, 2), bad)
    assert "balance roundrobin" in section(revision.text, "web")
    assert "no-such-word" not in revision.text
    assert "balance random" in section(revision.text, "api")
    assert [name for _, name in sorted(read_config(revision.text).servers)] == ["n1", "n2"] * 2
    assert list(stage.revisions.set_aside) == [WEB]
    assert "unknown keyword 'no-such-word'" in stage.revisions.set_aside[WEB]
    assert "service_set_aside" in await stage.kinds()
    # The same again is no news; a later table moves on; a mended part comes back.
    assert (await stage.offer(table(1, 2), bad)).id == revision.id
    later = await stage.offer(table(2), bad)
    assert [name for _, name in read_config(later.text).servers] == ["n2", "n2"]
    mended = await stage.offer(table(2), stage.change(WEB, balance="random"))
    assert "balance random" in section(mended.text, "web")
    assert stage.revisions.set_aside == {}
    kinds = await stage.kinds()
    assert kinds.count("service_set_aside") == 1
    assert kinds[-1] == "service_restored"


async def test_the_last_good_part_outlives_the_agent(stage: Stage) -> None:
    await stage.offer(table(1), stage.change(WEB, balance="roundrobin"))
    stage.again()
    revision = await stage.offer(table(2), stage.change(WEB, raw=Raw(backend=("no-such-word",))))
    assert "balance roundrobin" in section(revision.text, "web")
    assert list(stage.revisions.set_aside) == [WEB]


async def test_a_new_service_that_is_bad_answers_nothing_and_the_others_are_served(stage: Stage) -> None:
    revision = await stage.offer(table(1), stage.change(API, raw=Raw(server="no-such-word")))
    assert section(revision.text, "api").strip() == ""
    assert (WEB, MemberName("n1")) in read_config(revision.text).servers


async def test_an_address_that_is_taken_sets_its_tcp_service_aside(stage: Stage) -> None:
    await stage.offer(table(1))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = Endpoint("127.0.0.1", holder.getsockname()[1])
        revision = await stage.offer(table(1, 2), stage.change(API, mode="tcp", binds=(taken,)))
    assert list(stage.revisions.set_aside) == [API]
    assert "rumor_tcp_api" not in revision.text
    assert (API, MemberName("n2")) in read_config(revision.text).servers


@pytest.mark.parametrize("written", ["ipv4@{}", '"{}"', "{},127.0.0.1:1"])
async def test_an_address_that_is_taken_is_found_before_a_reload_however_it_is_written(
    stage: Stage, written: str
) -> None:
    await stage.offer(table(1))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        raw = Raw(frontend=(f"bind {written.format(taken)}",))
        with pytest.raises(Refused, match=f"cannot bind {taken}: Address already in use"):
            await stage.offer(table(1), replace(stage.settings, raw=raw))
        # Of a service's own frontend only the service is set aside.
        own = stage.change(API, mode="tcp", binds=(Endpoint("127.0.0.1", 18_081),), raw=raw)
        await stage.offer(table(1, 2), own)
        assert list(stage.revisions.set_aside) == [API]


async def test_an_address_that_was_refused_is_tried_again_as_long_as_nobody_runs_it(stage: Stage) -> None:
    await stage.offer(table(1))
    raw = replace(stage.settings, raw=Raw(frontend=("bind 127.0.0.1:18082",)))
    passed = await stage.revisions.offer(table(1), raw, CAUSE)
    # HAProxy refused it: the port was taken in the moment between.
    await stage.revisions.refuse(passed, "[ALERT] cannot bind", "reload")
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 18_082))
        holder.listen()
        with pytest.raises(Refused, match=r"cannot bind 127\.0\.0\.1:18082"):
            await stage.revisions.offer(table(1, 2), raw, CAUSE)
        gone_on = await stage.revisions.carry_on(table(1, 2), CAUSE)
        assert gone_on is not None
        assert "18082" not in gone_on.text
        assert [name for service, name in read_config(gone_on.text).servers if service == WEB] == ["n1", "n2"]
        assert "was refused by HAProxy" in gone_on.cause.text
    again = await stage.offer(table(1, 2), raw)
    assert "18082" in again.text


async def test_what_belongs_to_all_is_refused_as_a_whole(stage: Stage) -> None:
    good = await stage.offer(table(1))
    with pytest.raises(Refused, match="no-such-word"):
        await stage.offer(table(1, 2), replace(stage.settings, raw=Raw(global_=("no-such-word",))))
    assert stage.revisions.newest == good
    assert stage.revisions.set_aside == {}


# --- going back


async def test_going_back_holds_all_but_the_servers_until_it_is_released(stage: Stage) -> None:
    first = await stage.offer(table(1), stage.change(WEB, balance="roundrobin"))
    await stage.offer(table(1, 2), stage.change(WEB, balance="random"))
    pinned = await stage.revisions.roll_back("", table(1, 2), "anna@here")
    assert pinned.revision == first.id
    back = await stage.offer(table(1, 2), stage.change(WEB, balance="random"))
    assert read_config(back.text).base == read_config(first.text).base
    assert [name for service, name in read_config(back.text).servers if service == WEB] == ["n1", "n2"]
    # Servers come and go; the agent may start anew, and rumor.toml change: the pin holds.
    stage.again()
    later = await stage.offer(table(3), stage.change(WEB, balance="leastconn"))
    assert read_config(later.text).base == read_config(first.text).base
    assert [name for service, name in read_config(later.text).servers if service == WEB] == ["n3"]
    assert stage.revisions.pinned == pinned
    assert (await stage.revisions.release("ben")).revision == first.id
    free = await stage.offer(table(3), stage.change(WEB, balance="leastconn"))
    assert "balance leastconn" in section(free.text, "web")
    assert {"rolled_back", "released"} <= set(await stage.kinds())
    stage.again()
    assert stage.revisions.pinned is None


async def test_going_back_says_what_stands_against_it(stage: Stage) -> None:
    with pytest.raises(Refused, match="there is no applied revision"):
        await stage.revisions.roll_back("", table(1), "")
    await stage.offer(table(1))
    with pytest.raises(Refused, match="no revision begins with abc"):
        await stage.revisions.roll_back("abc", table(1), "")
    page = stage.directory / "down.html"
    page.write_text("down")
    with_page = await stage.offer(table(1), stage.change(WEB, error_pages={503: page}))
    await stage.offer(table(1))
    page.unlink()
    with pytest.raises(Refused, match=f"HAProxy would not load revision {with_page.id[:12]} today: .*down.html"):
        await stage.revisions.roll_back(with_page.id[:8], table(1), "")
    with pytest.raises(Refused, match="no configuration is pinned"):
        await stage.revisions.release("")
    with pytest.raises(Refused):
        await stage.offer(table(1), replace(stage.settings, raw=Raw(global_=("no-such-word",))))
    refused = next(entry for entry in await stage.journal.revisions() if entry.outcome is Outcome.REFUSED)
    with pytest.raises(Refused, match=r"was refused when it was new: .*no-such-word"):
        await stage.revisions.roll_back(refused.id, table(1), "")


def test_a_damaged_pin_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pin.json").write_text("{")
    with pytest.raises(ConfigError, match=r"pin.json is damaged .*: delete it to release the configuration"):
        Pin(tmp_path / "pin.json")
