"""The balancer's loop beside a HAProxy in memory: what it serves, refuses, repairs and journals."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.certificates import certificate

from rumor.agent.balancing import Balancing, BalancingSettings
from rumor.agent.drain import Holding, Question
from rumor.agent.operator_words import OperatorWords
from rumor.agent.pin import Pin
from rumor.agent.revisions import Revisions
from rumor.atomic_file import write_atomically
from rumor.errors import Refused
from rumor.haproxy.apply import Applier, ApplierSettings
from rumor.haproxy.certificates import Certificates
from rumor.haproxy.fake import FakeHaproxy
from rumor.journal import Journal
from rumor.model import Cause, Member, MemberStatus, Seconds, StoredRevision, Table
from rumor.names import Endpoint, HostPort, MemberName, ServiceName
from rumor.pool.table import PoolSettings
from rumor.render.publish import read_template
from rumor.render.settings import BackendSettings, BalancerTimeouts, CheckRule, ClientTls, Raw, RenderSettings, Route
from rumor.render.template import render
from rumor.sources.base import Refusal, Snapshot

WEB = ServiceName("web")
DEADLINE = 10.0


def member(name: str, number: int, *, says: str = "ready", status: MemberStatus = MemberStatus.ALIVE) -> Member:
    return Member(
        MemberName(name), HostPort(f"10.0.0.{number}", 7946), {"service:web": f"80;state={says}"}, status, incarnation=1
    )


@dataclass
class World:
    """A balancer's loop, and all it has to do with."""

    haproxy: FakeHaproxy
    balancing: Balancing
    journal: Journal
    snapshot: Snapshot
    rules: RenderSettings
    kept: list[str] = field(default_factory=list)
    """Templates that passed their check."""
    probed: list[str] = field(default_factory=list)
    unwell: set[str] = field(default_factory=set)
    """Hosts whose apps fail their checks."""
    words: str = ""
    """What `haproxy -c` says of anything new."""

    def see(self, *members: Member, refusals: tuple[Refusal, ...] = (), is_blind: bool = False) -> None:
        self.snapshot = Snapshot("gossip", members, is_blind, refusals)
        self.balancing.wake()

    @property
    def serving(self) -> dict[str, str]:
        """The servers that HAProxy gives requests to."""
        return {
            name: server.address.host for (_, name), server in self.haproxy.servers.items() if server.takes_requests
        }

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                while not holds():
                    self.haproxy.run_checks()
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(f"not within {DEADLINE:g} s: {what}; {self.haproxy.servers}")

    async def settled(self) -> None:
        """Wait until all that was done is journalled, too, and nothing more is wanted."""
        cycles = self.balancing.counters.cycles
        await self.until(lambda: self.balancing.counters.cycles > cycles + 1, "two cycles")
        await self.until(lambda: self.balancing.is_converged, "converged")

    async def kinds(self) -> list[str]:
        return [record.kind for record in await self.journal.records(limit=1000)]

    async def revisions(self) -> list[StoredRevision]:
        return list(await self.journal.revisions(limit=100))


def rules(directory: Path, template: str) -> RenderSettings:
    backend = BackendSettings(
        service=WEB, routes=(Route(),), check=CheckRule("/", Seconds(1.0), Seconds(0.5), 2, 2), balance="leastconn",
        drain=Seconds(5.0), retries=3, repeat_post=False, sticky_key="",
    )  # fmt: skip
    return RenderSettings(
        binds=(Endpoint("127.0.0.1", 8080),), stats=None, run_directory=directory, maxconn=100,
        timeouts=BalancerTimeouts(server=Seconds(5.0)), backends=(backend,), template_text=template,
    )  # fmt: skip


@asynccontextmanager
async def running(
    directory: Path, *, template: str = "", good_template: str = "", text: str = ""
) -> AsyncIterator[World]:
    settings = rules(directory, template or read_template(None))
    config = directory / "haproxy.cfg"
    first = replace(settings, template_text=read_template(None))
    config.write_text(text or render(Table(), first, Cause("start", "a test")).text)
    haproxy = FakeHaproxy(config, lambda address: address.host not in world.unwell)
    journal = await Journal.open(directory / "journal.db")
    world: World

    async def text_of(revision: str) -> str | None:
        stored = await journal.revision(revision)
        return None if stored is None else stored.text

    async def probe(servers: Sequence[tuple[ServiceName, HostPort]], on_well: Callable[[int], None]) -> None:
        for place in range(len(servers)):
            on_well(place)

    async def check(new: str, old: str) -> str:
        return applier.words_against(new) or world.words

    async def keep(text: str) -> None:
        world.kept.append(text)

    applier = Applier(
        ApplierSettings(config, directory, {WEB: Seconds(5.0)}),
        text_of=text_of, write=write_atomically, probe=probe, connect=haproxy.connect,
    )  # fmt: skip
    revisions = Revisions(
        journal, check=check, pin=Pin(directory / "pin.json"), good_text=config.read_text(),
        good_template=good_template, keep_template=keep,
    )  # fmt: skip
    balancing = Balancing(
        BalancingSettings(settings, {WEB: PoolSettings()}),
        applier=applier, journal=journal,
        revisions=revisions, certificates=Certificates(write_atomically), node=MemberName("balancer"),
        picture=lambda: world.snapshot,
        probe_member=lambda name: world.probed.append(name), words=OperatorWords(directory / "operator.json"),
    )  # fmt: skip
    world = World(haproxy, balancing, journal, Snapshot("gossip", ()), settings)
    loop = asyncio.create_task(balancing.run())
    try:
        yield world
        assert not loop.done(), loop
    finally:
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop
        await journal.close()
    assert haproxy.faults == []


async def test_members_become_servers_and_go_again(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: world.serving == {"one": "10.0.0.1", "two": "10.0.0.2"}, "both serve")
        world.see(member("one", 1, status=MemberStatus.LEFT), member("two", 2))
        await world.until(lambda: list(world.haproxy.servers) == [(WEB, "two")], "one is gone")
        await world.until(lambda: world.balancing.is_converged, "converged")
        found = await world.revisions()
    assert world.haproxy.reloads == 0
    assert "one" in found[0].cause.text
    assert [revision.outcome.value for revision in found[:1]] == ["applied"]


async def test_somebody_elses_hand_is_repaired_and_journalled(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving) and world.balancing.is_converged, "it serves")
        world.haproxy.servers["web", "one"].weight = 3
        world.balancing.wake()
        await world.until(lambda: world.haproxy.servers["web", "one"].weight == 100, "the weight is right again")
        await world.until(lambda: world.balancing.counters.repairs == 1, "the repair is counted")
        records = await world.journal.records(limit=5)
    assert "weight web/one" in records[0].text


@pytest.mark.parametrize(("word", "reloads"), [("disable", 0), ("shutdown", 1)])
async def test_a_frontend_that_somebody_closes_opens_again_and_is_journalled(
    tmp_path: Path, word: str, reloads: int
) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving) and world.balancing.is_converged, "it serves")
        await world.settled()
        assert world.haproxy.answer_worker(f"{word} frontend rumor") == "\n"
        await world.until(lambda: world.haproxy.frontends["rumor"] == "OPEN", "it listens again")
        await world.settled()
        assert world.haproxy.reloads == reloads
        repairs = [record.text for record in await world.journal.records(limit=50) if record.kind == "drift_repaired"]
    assert len(repairs) == 1
    assert "enable frontend rumor" in repairs[0]


async def test_an_operators_word_survives_repair_and_the_agents_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: len(world.serving) == 2, "both serve")
        assert await world.balancing.operate("drain", "one", by="ann") == [(WEB, "one")]
        assert await world.balancing.operate("weight", "web/two", weight=7, by="ann") == [(WEB, "two")]
        await world.until(lambda: list(world.serving) == ["two"], "one is drained")
        await world.until(lambda: world.haproxy.servers["web", "two"].weight == 7, "two is weighed")
        # Somebody else takes it back by HAProxy's own socket.
        world.haproxy.servers["web", "one"].admin = 0
        world.haproxy.servers["web", "two"].weight = 100
        world.balancing.wake()
        await world.until(lambda: list(world.serving) == ["two"], "it is drained again")
        await world.until(lambda: world.haproxy.servers["web", "two"].weight == 7, "and weighed again")
        assert "operator_drain" in await world.kinds()
    async with running(tmp_path) as world:
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: list(world.serving) == ["two"], "two serves")
        await world.until(lambda: world.balancing.is_converged, "converged")
        assert list(world.serving) == ["two"]
        await world.balancing.operate("ready", "one")
        await world.balancing.operate("weight", "two", weight=None)
        await world.until(lambda: len(world.serving) == 2, "both serve again")
        await world.until(lambda: world.haproxy.servers["web", "two"].weight == 100, "two has its own weight")


async def test_a_repair_has_a_cause_of_its_own_and_says_whom_it_is_about(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: len(world.serving) == 2 and world.balancing.is_converged, "both serve")
        world.haproxy.servers["web", "one"].weight = 3
        world.balancing.wake()
        await world.until(lambda: world.balancing.counters.repairs == 1, "the repair is counted")
        async with asyncio.timeout(DEADLINE):
            # It is counted first, and journalled then.
            while (await world.journal.records(limit=2))[1].kind != "drift_repaired":  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        applied, repaired = await world.journal.records(limit=2)
    assert (applied.kind, applied.text) == ("applied", "weight web/one 100")
    assert applied.cause == "HAProxy differed though nothing new was wanted"
    assert (repaired.kind, repaired.subject) == ("drift_repaired", "one")
    assert applied.facts == repaired.facts == {"how": "runtime", "servers": "web/one", "cause_kind": "drift"}


async def test_a_weight_is_journalled_as_a_weight(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving) and world.balancing.is_converged, "it serves")
        await world.balancing.operate("weight", "one", weight=7, by="ann")
        await world.until(lambda: world.haproxy.servers["web", "one"].weight == 7, "it is weighed")
        records = {record.text: record.cause for record in await world.journal.records(limit=10)}
    assert records["one of web: weighted 7"] == "operator: weight 7"


async def test_an_apply_to_many_servers_names_them_all(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(*(member(f"n{number}", number) for number in range(1, 31)))
        await world.until(lambda: len(world.serving) == 30, "all serve")
        wanted = {f"web/n{number}" for number in range(1, 31)}
        named: set[str] = set()
        async with asyncio.timeout(DEADLINE):
            # Each is done first, and journalled then.
            while named != wanted:
                await asyncio.sleep(0.01)
                applies = [one for one in await world.journal.records(limit=1000) if one.kind == "applied"]
                named = {name for record in applies for name in record.facts["servers"].split()}
    many = [record for record in applies if "; and " in record.text]
    assert many
    assert all(record.facts["steps"].startswith(record.text.partition("; and ")[0]) for record in many)


@pytest.mark.parametrize(
    ("target", "says"),
    [("three", "no server three; there are web/one"), ("web", "is a service: name one of its servers")],
)
async def test_a_word_about_nobody_is_refused_and_names_who_is_there(tmp_path: Path, target: str, says: str) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving), "it serves")
        with pytest.raises(Refused, match=says):
            await world.balancing.operate("drain", target)
        with pytest.raises(Refused, match="from 0 to 256"):
            await world.balancing.operate("weight", "one", weight=257)


async def test_whom_haproxy_cannot_reach_gossip_looks_at_before_its_turn(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: len(world.serving) == 2, "both serve")
        cycles = world.balancing.counters.cycles
        await world.until(lambda: world.balancing.counters.cycles > cycles + 1, "it has looked")
        assert world.probed == []
        world.unwell.add("10.0.0.1")
        await world.until(lambda: bool(world.probed), "one is doubted")
        assert "check_failed" in await world.kinds()
    assert set(world.probed) == {"one"}


async def test_a_draining_node_is_told_how_many_sessions_are_open_and_at_once_when_none_is(tmp_path: Path) -> None:
    question, answers = Question(MemberName("one"), (WEB,)), list[Holding]()
    async with running(tmp_path) as world:
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: len(world.serving) == 2, "both serve")
        world.haproxy.servers["web", "one"].sessions = 3
        world.balancing.hear_drain(question, answers.extend)
        await world.until(lambda: answers == [Holding(WEB, is_closed=False, sessions=3)], "it has not heard of a drain")
        world.see(member("one", 1, says="draining"), member("two", 2))
        await world.until(lambda: list(world.serving) == ["two"], "one is drained")
        world.balancing.hear_drain(question, answers.extend)
        cycles = world.balancing.counters.cycles
        await world.until(lambda: world.balancing.counters.cycles > cycles + 1, "it looks again")
        assert len(answers) == 1, "it waits for the sessions to end"
        await world.until(lambda: len(answers) == 2, "but not for long")
        assert answers[1].sessions == 3
        world.balancing.hear_drain(question, answers.extend)
        world.haproxy.servers["web", "one"].sessions = 0
        await world.until(lambda: answers[-1] == Holding(WEB, is_closed=True, sessions=0), "none is open")


async def test_what_haproxy_would_not_load_is_refused_and_the_next_change_is_offered_anew(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving), "it serves")
        world.words = "[ALERT] no such thing"
        slower = BalancingSettings(replace(world.rules, maxconn=7), {WEB: PoolSettings()})
        with pytest.raises(Refused, match="no such thing"):
            await world.balancing.reconfigure(slower, Cause("sighup", "asked"))
        assert world.balancing.refusals == 1
        refused = (await world.revisions())[0]
        assert (refused.outcome.value, refused.words) == ("refused", "[ALERT] no such thing")
        world.words = ""
        await world.balancing.reconfigure(slower, Cause("sighup", "asked"))
        await world.until(lambda: world.haproxy.reloads == 1, "it reloads")


async def test_servers_come_and_go_although_haproxy_would_not_start_again(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving), "it serves")
        world.words = "[ALERT] a file has gone"
        world.see(member("two", 2))
        await world.until(lambda: list(world.serving) == ["two"], "the other serves")
        assert world.balancing.set_aside == {WEB: "[ALERT] a file has gone"}
        assert "service_set_aside" in await world.kinds()
        world.words = ""
        world.see(member("two", 2), member("three", 3))
        await world.until(lambda: len(world.serving) == 2, "both serve")
        assert world.balancing.set_aside == {}


async def test_a_broken_template_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving), "it serves")
        before = world.balancing.revision
        broken = BalancingSettings(replace(world.rules, template_text="{{ nobody }}"), {WEB: PoolSettings()})
        with pytest.raises(Refused, match="nobody"):
            await world.balancing.reconfigure(broken, Cause("sighup", "asked"))
        assert world.balancing.revision == before
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: len(world.serving) == 2, "the good template goes on")


@pytest.mark.parametrize("is_remembered", [True, False])
async def test_a_template_broken_while_nobody_watched_gives_way_to_the_last_good_one(
    tmp_path: Path, is_remembered: bool
) -> None:
    good = read_template(None)
    async with running(tmp_path, template="{{ nobody }}", good_template=good if is_remembered else "") as world:
        world.see(member("one", 1))
        await world.until(lambda: world.balancing.refusals == 1, "the broken one is refused")
        if is_remembered:
            await world.until(lambda: list(world.serving) == ["one"], "the good one serves")
        else:
            assert world.balancing.revision is None
        assert world.kept == []
        fresh = BalancingSettings(replace(world.rules, template_text=good + "# new\n"), {WEB: PoolSettings()})
        await world.balancing.reconfigure(fresh, Cause("sighup", "asked"))
        await world.until(lambda: list(world.serving) == ["one"], "the mended one serves")
        assert world.kept == [good + "# new\n"]


async def test_new_settings_come_by_one_reload(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving) and world.balancing.is_converged, "it serves")
        other = replace(world.rules, backends=(replace(world.rules.backends[0], balance="roundrobin"),))
        said = await world.balancing.reconfigure(
            BalancingSettings(other, {WEB: PoolSettings()}), Cause("sighup", "rumor.toml was read again")
        )
        assert "is accepted" in said
        await world.until(lambda: world.haproxy.reloads == 1, "it is reloaded")
        await world.until(lambda: list(world.serving) == ["one"], "it serves on")


def with_line(world: World, line: str) -> BalancingSettings:
    """The settings, with a line of the operator's own."""
    return BalancingSettings(replace(world.rules, raw=Raw(frontend=(line,))), {WEB: PoolSettings()})


async def test_a_refused_reload_holds_up_neither_drain_nor_leave_and_everybody_is_told(tmp_path: Path) -> None:
    tries: list[str] = []

    def load(text: str) -> str:
        tries.append(text)
        return "[ALERT] Starting frontend rumor: cannot bind" if "# taken" in text or "bind :1" in text else ""

    async with running(tmp_path) as world:
        world.see(member("one", 1), member("two", 2), member("three", 3))
        await world.until(lambda: len(world.serving) == 3 and world.balancing.is_converged, "all serve")
        world.haproxy.check_load = load
        said = await world.balancing.reconfigure(with_line(world, "bind :1"), Cause("sighup", "asked"))
        assert "was refused by HAProxy: [ALERT] Starting frontend rumor: cannot bind" in said
        await world.balancing.operate("drain", "one")
        await world.balancing.operate("weight", "two", weight=7)
        world.see(member("one", 1), member("two", 2), member("three", 3, status=MemberStatus.LEFT), member("four", 4))
        await world.until(lambda: set(world.serving) == {"two", "four"}, "the drain, the leave and the join hold")
        await world.until(lambda: world.haproxy.servers["web", "two"].weight == 7, "and so does the weight")
        await world.settled()
        assert len(tries) == 1, "each try may cost HAProxy two seconds"
        assert any("was refused by HAProxy: [ALERT]" in problem for problem in world.balancing.problems)
        assert "cannot bind" in world.balancing.set_aside[WEB]
        config = world.haproxy.config.read_text()
        assert "bind :1" not in config
        assert "server four" in config, "a restart would bring back what runs"
        world.see()
        await world.until(lambda: not world.haproxy.servers, "the last ones go as well")
        world.see(member("two", 2), member("four", 4))
        await world.until(lambda: set(world.serving) == {"two", "four"}, "and come again, with their checks")
        assert all(server.has_check for server in world.haproxy.servers.values())
        assert len(tries) == 1
        outcomes = {revision.outcome.value for revision in await world.revisions() if "bind :1" in revision.text}
        assert outcomes == {"refused"}
        # A better line comes at once, and nothing speaks against it any more.
        said = await world.balancing.reconfigure(with_line(world, "bind :2"), Cause("sighup", "asked"))
        assert said.endswith("is accepted")
        await world.until(lambda: world.balancing.is_converged, "it runs")
        assert world.balancing.problems == ()
        assert set(world.serving) == {"two", "four"}
        assert len(tries) == 2


async def test_a_restarted_agent_gives_what_runs_todays_servers_where_rumor_toml_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving) and world.balancing.is_converged, "it serves")
        text = world.haproxy.config.read_text()
    broken = read_template(None).replace("    timeout tunnel", "    no-such-word\n    timeout tunnel")
    async with running(tmp_path, template=broken, text=text) as world:
        world.words = "[ALERT] no such word"
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: len(world.serving) == 2, "both serve")
        await world.until(lambda: any("no such word" in words for words in world.balancing.problems), "it is told")
        assert "no-such-word" not in world.haproxy.config.read_text()
        assert world.haproxy.reloads == 0


async def test_a_step_that_haproxy_refuses_comes_by_one_reload_and_is_journalled(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: len(world.serving) == 2 and world.balancing.is_converged, "both serve")
        static = "Backend is using a static LB algorithm and only accepts weights '0%' and '100%'."
        world.haproxy.refuses = lambda command: static if " weight " in command else ""
        await world.balancing.operate("weight", "two", weight=33)
        await world.until(lambda: world.haproxy.servers["web", "two"].weight == 33, "the weight has come")
        await world.settled()
        refused = next(record for record in await world.journal.records(limit=50) if record.kind == "step_refused")
        assert (refused.subject, refused.cause) == ("two", static)
        assert (await world.revisions())[0].outcome.value == "applied"
        assert world.balancing.problems == ()
    assert world.haproxy.reloads == 1


async def test_what_no_reload_brings_is_told_and_stops_nothing_else(tmp_path: Path) -> None:
    answers: list[Holding] = []
    async with running(tmp_path) as world:
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: len(world.serving) == 2 and world.balancing.is_converged, "both serve")
        world.haproxy.refuses = lambda command: "Nothing changed." if command.endswith("web/one weight 33") else ""
        load = world.haproxy.check_load
        world.haproxy.check_load = lambda text: load(text) or ("[ALERT] no" if "weight 33" in text else "")
        await world.balancing.operate("weight", "one", weight=33)
        await world.until(lambda: any("weight web/one 33" in words for words in world.balancing.problems), "it is told")
        world.balancing.hear_drain(Question(MemberName("two"), (WEB,)), answers.extend)
        world.see(member("one", 1), member("two", 2, says="draining"), member("three", 3))
        await world.until(lambda: set(world.serving) == {"one", "three"}, "all else goes on")
        await world.until(lambda: answers == [Holding(WEB, is_closed=True, sessions=0)], "drains are answered")
        cycles = world.balancing.counters.cycles
        await world.until(lambda: world.balancing.counters.cycles > cycles + 1, "all is journalled")
        kinds = await world.kinds()
        assert kinds.count("step_refused") == 1
        assert kinds.count("step_given_up") == 1
    assert world.haproxy.reloads == 0


async def test_what_was_refused_for_a_passing_reason_is_tried_again_without_a_change(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving) and world.balancing.is_converged, "it serves")
        fresh = BalancingSettings(replace(world.rules, maxconn=7), {WEB: PoolSettings()})
        await world.balancing.reconfigure(fresh, Cause("sighup", "asked"))
        await world.until(lambda: world.balancing.is_converged, "it serves")
        # The agent would make a revision of its own now: a new certificate, say.
        world.words = "haproxy -c ended with status 137"
        world.balancing._settings = replace(fresh, render=replace(fresh.render, maxconn=8))
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: any("status 137" in words for words in world.balancing.problems), "it is told")
        await world.until(lambda: len(world.serving) == 2, "servers come all the same")
        assert "maxconn 7" in world.haproxy.config.read_text()
        world.words = ""
        await world.until(lambda: "maxconn 8" in world.haproxy.config.read_text(), "it is tried again")
        await world.until(lambda: world.balancing.problems == (), "all is well")


async def test_a_restarted_agent_knows_that_what_runs_is_applied(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving) and world.balancing.is_converged, "it serves")
        text = world.haproxy.config.read_text()
    async with running(tmp_path, text=text) as world:
        world.haproxy.servers["web", "one"].admin = 0
        world.haproxy.run_checks()
        world.see(member("one", 1))
        await world.settled()
        newest = (await world.revisions())[0]
        assert (newest.outcome.value, newest.how) == ("applied", "none")


async def test_a_certificate_that_haproxy_will_not_take_is_told_once_and_holds_no_drain_up(tmp_path: Path) -> None:
    answers: list[Holding] = []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.test.pem").write_text(certificate("a.test"))
    loaded = f"SHA1 FingerPrint: {'0' * 40}"
    async with running(tmp_path) as world:
        tls = ClientTls((Endpoint("127.0.0.1", 8443),), tmp_path / "copies", (), redirects=False)
        settings = BalancingSettings(replace(world.rules, tls=tls), {WEB: PoolSettings()}, tmp_path / "mine")
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: len(world.serving) == 2, "both serve")
        await world.balancing.reconfigure(settings, Cause("sighup", "asked"))
        says = {"show ssl cert": loaded, "set ssl cert": "unable to load it"}
        world.haproxy.refuses = lambda command: next(
            (words for begin, words in says.items() if command.startswith(begin)), ""
        )
        await world.until(lambda: any("unable to load it" in one for one in world.balancing.problems), "it is told")
        world.balancing.hear_drain(Question(MemberName("two"), (WEB,)), answers.extend)
        world.see(member("one", 1), member("two", 2, says="draining"))
        await world.until(lambda: answers == [Holding(WEB, is_closed=True, sessions=0)], "drains are answered")
        cycles = world.balancing.counters.cycles
        await world.until(lambda: world.balancing.counters.cycles > cycles + 2, "it goes on")
        assert (await world.kinds()).count("certificate_refused") == 1
        says["set ssl cert"] = "Transaction created for certificate a.test.pem!"
        says["commit ssl cert"] = "Success!"
        await world.until(lambda: world.balancing.problems == (), "it is taken")
        assert "certificate_loaded" in await world.kinds()


async def test_what_the_network_offers_wrongly_is_journalled_once(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        for number in range(3):
            world.see(member("one", 1), refusals=(Refusal("evil\\n", "not a name"),))
            await world.until(lambda least=number: world.balancing.counters.cycles > least, "a cycle")  # type: ignore[misc]
        await world.until(lambda: bool(world.serving), "the good one serves")
        assert (await world.kinds()).count("offer_refused") == 1
    assert world.balancing.counters.offers_refused == 1


async def test_a_haproxy_that_comes_late_gets_everything(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.haproxy.is_running = False
        world.see(member("one", 1))
        cycles = world.balancing.counters.cycles
        await world.until(lambda: world.balancing.counters.cycles > cycles, "it looks")
        assert world.balancing.observed is None
        assert not world.balancing.is_converged
        world.haproxy.restart()
        world.haproxy.is_running = True
        world.balancing.wake()
        await world.until(lambda: list(world.serving) == ["one"], "it serves")


async def test_a_haproxy_that_is_started_anew_between_look_and_deed_is_told_too(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving), "it serves")
        await world.settled()
        assert "haproxy_restarted" not in await world.kinds()

        def restart(line: str) -> None:
            if "show stat" in line:
                world.haproxy.before = lambda line: None
                world.haproxy.restart()

        world.haproxy.before = restart
        world.see(member("one", 1), member("two", 2))
        await world.until(lambda: set(world.serving) == {"one", "two"}, "both serve")
        await world.settled()
        assert (await world.kinds()).count("haproxy_restarted") == 1


async def test_a_balancer_that_sees_nobody_removes_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        world.see(member("one", 1))
        await world.until(lambda: bool(world.serving), "it serves")
        cycles = world.balancing.counters.cycles
        world.see(is_blind=True)
        await world.until(lambda: world.balancing.counters.cycles > cycles + 1, "it looks")
        assert list(world.serving) == ["one"]
        assert world.haproxy.servers["web", "one"].admin == 0
        world.see()
        await world.until(lambda: not world.haproxy.servers, "an empty picture empties the pool")
