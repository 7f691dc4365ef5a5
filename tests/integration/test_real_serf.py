"""rumor's members and HashiCorp's own agents in one cluster: plain, and sealed with compression as real agents send.

Whatever one kind does, the other kind sees. Times are the preset local's.
"""

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from rumor.model import Instant, Seconds
from rumor.names import HostPort
from rumor.serf.events import (
    Change,
    KeyringChanged,
    MemberChanged,
    NameLost,
    QueryAcked,
    QueryAnswered,
    QueryEnded,
    QueryHeard,
    UserEventHeard,
)
from rumor.serf.layer import Clocks, QueryRequest, Serf, SerfSettings
from rumor.serf.messages import Status
from rumor.serf.tags import decode_tags
from rumor.swim.codec import encode
from rumor.swim.events import Event, LeaveDone, Synced
from rumor.swim.messages import Dead, Suspect
from rumor.swim.node import NodeSettings
from rumor.swim.presets import LOCAL
from rumor.swim.runner import GossipRunner
from rumor.swim.sealing import Keyring, format_key
from rumor.swim.wire import Wire

# Gossip with the preset's two sends leaves a member out now and then; what puts it right is a push/pull, each 15 s.
DEADLINE = 55.0
pytestmark = pytest.mark.timeout(180)
KEY, OTHER_KEY = bytes(range(32)), bytes(range(16))


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Ask again and again until it holds; each question to a real agent has its own deadline."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not await condition():  # noqa: ASYNC110 - what is waited for is in another process
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {DEADLINE:g} s: {what}")


class Rumor:
    """One rumor member in this process."""

    def __init__(
        self, name: str, address: HostPort, tags: dict[str, str], key: bytes | None, clocks: Clocks | None = None
    ) -> None:
        self.name = name
        self.address = address
        self.events: list[Event] = []
        wire = Wire(Keyring((key,)) if key else None, compresses=key is not None)
        settings = SerfSettings(NodeSettings(name, address, LOCAL, wire=wire), tags)
        self.serf = Serf(settings, random=Random(name), now=Instant(time.monotonic()), remembered=clocks)
        self.runner = GossipRunner(self.serf, address, tcp_timeout=LOCAL.tcp_timeout, on_event=self._hear)
        self._task: asyncio.Task[None] | None = None

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, QueryHeard) and event.name == "load":
            self.runner.do(lambda serf, now: serf.respond(event.key, b"0.42 " + event.payload, now))

    async def start(self) -> None:
        await self.runner.start()
        self._task = asyncio.create_task(self.runner.run(), name=self.name)

    async def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def sees(self, name: str, status: str, tags: dict[str, str] | None = None) -> bool:
        return any(
            member.name == name
            and member.status is Status[status.upper()]
            and tags in (None, decode_tags(member.state.meta))
            for member in self.serf.serf_members()
        )

    async def hears(self, *wanted: object) -> bool:
        return all(event in self.events for event in wanted)

    def changes(self, name: str) -> list[Change]:
        return [event.change for event in self.events if isinstance(event, MemberChanged) and event.member.name == name]

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def incarnation(self) -> int:
        return next(member.incarnation for member in self.runner.members() if member.name == self.name)


@dataclass
class RealSerf:
    """One real serf agent."""

    program: Path
    name: str
    address: HostPort
    rpc: HostPort
    log: Path
    key: bytes | None = None
    process: asyncio.subprocess.Process | None = None

    async def start(self, tags: dict[str, str], *more: str) -> None:
        arguments = [f"-tag={key}={value}" for key, value in tags.items()]
        arguments += [f"-encrypt={format_key(self.key)}"] if self.key else ["-disable-compression"]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                self.program, "agent", f"-node={self.name}", f"-bind={self.address}", f"-rpc-addr={self.rpc}",
                "-profile=local", *arguments, *more, stdout=log, stderr=log,
            )  # fmt: skip
        await eventually(self.answers, f"{self.name} answers over RPC")

    async def answers(self) -> bool:
        status, _ = await self.command("members")
        return status == 0

    async def command(self, *arguments: str) -> tuple[int, str]:
        command, *rest = arguments
        process = await asyncio.create_subprocess_exec(
            self.program, command, f"-rpc-addr={self.rpc}", *rest,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(10):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def sees(self, name: str, status: str, tags: dict[str, str] | None = None) -> bool:
        _, output = await self.command("members", "-format=json")
        return any(
            member["name"] == name and member["status"] == status and tags in (None, member["tags"])
            for member in json.loads(output)["members"]
        )

    async def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
            self.process = None

    def count(self, line: str) -> int:
        return self.log.read_text().count(line)


StartRumor = Callable[..., Awaitable[Rumor]]
StartSerf = Callable[..., Awaitable[RealSerf]]


@pytest.fixture
def key(request: pytest.FixtureRequest) -> bytes | None:
    """The cluster's key: none, unless the test says so."""
    found: bytes | None = getattr(request, "param", None)
    return found


SEALED = pytest.mark.parametrize("key", [KEY], ids=["sealed"], indirect=True)
BOTH = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"], indirect=True)


@pytest.fixture
async def start_rumor(free_port: Callable[[], int], key: bytes | None) -> AsyncIterator[StartRumor]:
    started: list[Rumor] = []

    async def start(
        name: str, tags: dict[str, str] | None = None, *, address: HostPort | None = None, clocks: Clocks | None = None
    ) -> Rumor:
        rumor = Rumor(name, address or HostPort("127.0.0.1", free_port()), tags or {}, key, clocks)
        started.append(rumor)
        await rumor.start()
        return rumor

    yield start
    for rumor in started:
        await rumor.kill()
        assert not rumor.runner.faults["bug"]
        refused = rumor.runner.statistics().refused
        assert not refused, f"{rumor.name} did not understand something: {refused}"


@pytest.fixture
async def start_serf(
    serf_program: Path, free_port: Callable[[], int], tmp_path: Path, key: bytes | None
) -> AsyncIterator[StartSerf]:
    started: list[RealSerf] = []

    async def start(name: str, tags: dict[str, str] | None = None, *more: str) -> RealSerf:
        address, rpc = (HostPort("127.0.0.1", free_port()) for _ in range(2))
        serf = RealSerf(serf_program, name, address, rpc, tmp_path / f"{name}.log", key)
        started.append(serf)
        await serf.start(tags or {}, *more)
        return serf

    yield start
    for serf in started:
        await serf.kill()


async def see_each_other(rumor: Rumor, serf: RealSerf) -> None:
    rumor.runner.join([serf.address])
    await eventually(lambda: rumor.sees(serf.name, "alive"), f"{rumor.name} sees {serf.name}")
    await eventually(lambda: serf.sees(rumor.name, "alive"), f"{serf.name} sees {rumor.name}")


async def pair(start_rumor: StartRumor, start_serf: StartSerf) -> tuple[Rumor, RealSerf]:
    serf, rumor = await start_serf("serf-1"), await start_rumor("rumor-1")
    await see_each_other(rumor, serf)
    return rumor, serf


# --- members


@BOTH
async def test_three_of_each_kind_see_one_another_with_their_tags(
    start_rumor: StartRumor, start_serf: StartSerf
) -> None:
    serfs = [await start_serf(f"serf-{number}", {"service:web": f"300{number}"}) for number in (1, 2, 3)]
    rumors = [await start_rumor(f"rumor-{number}", {"service:web": f"400{number}"}) for number in (1, 2, 3)]
    rumors[0].runner.join([serfs[0].address])
    rumors[1].runner.join([rumors[0].address])
    rumors[2].runner.join([serfs[2].address])
    for serf, rumor in ((serfs[1], rumors[1]), (serfs[2], rumors[0])):
        status, words = await serf.command("join", str(rumor.address))
        assert status == 0, words
    everybody = {f"serf-{n}": f"300{n}" for n in (1, 2, 3)} | {f"rumor-{n}": f"400{n}" for n in (1, 2, 3)}
    observers: list[Rumor | RealSerf] = [*rumors, *serfs]
    for name, port in everybody.items():
        for one in observers:
            await eventually(
                lambda: one.sees(name, "alive", {"service:web": port}),  # noqa: B023
                f"{one.name} sees {name}",
            )


@BOTH
async def test_tags_that_change_are_seen_on_the_other_side(start_rumor: StartRumor, start_serf: StartSerf) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    rumor.runner.do(lambda core, now: core.set_tags({"service:web": "4001"}, now))
    await eventually(lambda: serf.sees("rumor-1", "alive", {"service:web": "4001"}), "serf sees rumor's new tag")
    await serf.command("tags", "-set=service:web=3001")
    await eventually(lambda: rumor.sees("serf-1", "alive", {"service:web": "3001"}), "rumor sees serf's new tag")
    assert Change.UPDATE in rumor.changes("serf-1")


async def test_a_killed_serf_agent_is_suspected_and_failed(start_rumor: StartRumor, start_serf: StartSerf) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    await serf.kill()
    await eventually(lambda: rumor.sees("serf-1", "failed"), "rumor sees that serf failed")
    assert rumor.changes("serf-1") == [Change.JOIN, Change.SUSPECT, Change.FAILED]


@SEALED
async def test_a_killed_rumor_member_fails_in_serf_and_comes_back(
    start_rumor: StartRumor, start_serf: StartSerf
) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    await rumor.kill()
    await eventually(lambda: serf.sees("rumor-1", "failed"), "serf sees that rumor failed")
    again = await start_rumor("rumor-1", {"service:web": "4001"}, address=rumor.address)
    again.runner.join([serf.address])
    await eventually(lambda: serf.sees("rumor-1", "alive", {"service:web": "4001"}), "rumor is alive in serf again")


async def test_a_killed_serf_agent_comes_back_under_a_new_address(
    start_rumor: StartRumor, start_serf: StartSerf
) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    await serf.kill()
    await eventually(lambda: rumor.sees("serf-1", "failed"), "rumor sees that serf failed")
    again = await start_serf("serf-1")
    status, words = await again.command("join", str(rumor.address))
    assert status == 0, words

    async def moved() -> bool:
        return any(
            member.name == "serf-1" and member.state.address == again.address and member.status is Status.ALIVE
            for member in rumor.serf.serf_members()
        )

    await eventually(moved, "rumor believes the new address")
    assert again.address != serf.address


async def test_rumor_refutes_what_is_said_of_it(start_rumor: StartRumor, start_serf: StartSerf) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        where = (serf.address.host, serf.address.port)
        before = rumor.incarnation
        stranger.sendto(encode(Suspect(before, "rumor-1", "stranger")), where)

        async def refuted() -> bool:
            return rumor.incarnation > before

        await eventually(refuted, "rumor answers a suspicion that serf passed on")
        stranger.sendto(encode(Dead(40, "rumor-1", "stranger")), where)

        async def back() -> bool:
            return serf.count("EventMemberFailed: rumor-1") == 1 and serf.count("EventMemberJoin: rumor-1") == 2

        await eventually(back, "serf takes rumor back after a false word of its death")
    assert rumor.incarnation == 41
    assert await serf.sees("rumor-1", "alive")


# --- leaving


async def test_serf_that_leaves_has_left(start_rumor: StartRumor, start_serf: StartSerf) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    await serf.command("leave")
    await eventually(lambda: rumor.sees("serf-1", "left"), "rumor sees that serf left")
    assert rumor.changes("serf-1") == [Change.JOIN, Change.LEAVE]


@BOTH
async def test_rumor_that_leaves_has_left_for_serf(start_rumor: StartRumor, start_serf: StartSerf) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    rumor.runner.leave()
    await eventually(lambda: rumor.hears(LeaveDone()), "the leave has been told")
    await eventually(lambda: serf.sees("rumor-1", "left"), "serf sees that rumor left")
    assert serf.count("EventMemberLeave: rumor-1") == 1
    assert serf.count("EventMemberFailed: rumor-1") == 0
    assert serf.count("memberlist: Suspect rumor-1") == 0


@pytest.mark.parametrize("by", ["rumor-1", "serf-1"])
async def test_a_failed_member_is_sent_away_from_either_side(
    start_rumor: StartRumor, start_serf: StartSerf, by: str
) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    third, other = await start_serf("serf-3"), await start_rumor("rumor-4")
    for address in (third.address, other.address):
        rumor.runner.join([address])
    observers: list[Rumor | RealSerf] = [rumor, serf, other]

    async def all_see(status: str) -> None:
        for one in observers:
            await eventually(lambda: one.sees("serf-3", status), f"{one.name} sees serf-3 {status}")  # noqa: B023

    await all_see("alive")
    await third.kill()
    await all_see("failed")
    if by == "rumor-1":
        rumor.runner.do(lambda core, now: core.force_leave("serf-3", now))
    else:
        await serf.command("force-leave", "serf-3")
    await all_see("left")
    assert rumor.changes("serf-3")[-2:] == [Change.FAILED, Change.LEAVE]


async def test_one_that_lives_refuses_to_be_sent_away(start_rumor: StartRumor, start_serf: StartSerf) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    # With only one other member, and that one leaving, serf tells nobody.
    third = await start_serf("serf-3")
    rumor.runner.join([third.address])
    await eventually(lambda: serf.sees("serf-3", "alive"), "three members")
    await eventually(lambda: rumor.sees("serf-3", "alive"), "three members")
    await serf.command("force-leave", "rumor-1")
    rumor.runner.do(lambda core, now: core.force_leave("serf-3", now))

    async def refuted() -> bool:
        return rumor.serf.counts()["member_time"] > 3

    await eventually(refuted, "the words cross")
    for one in (serf, third):
        await eventually(lambda: one.sees("rumor-1", "alive"), f"{one.name} sees that rumor stays")  # noqa: B023
    await eventually(lambda: rumor.sees("serf-3", "alive"), "rumor sees that serf-3 stays")


# --- user events


@BOTH
async def test_events_go_both_ways(start_rumor: StartRumor, start_serf: StartSerf, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    serf = await start_serf("serf-1", {}, f'-event-handler=user=echo "$SERF_USER_EVENT $SERF_USER_LTIME" >>{heard}')
    rumor = await start_rumor("rumor-1")
    await see_each_other(rumor, serf)
    status, words = await serf.command("event", "-coalesce=false", "deploy", "1.4")
    assert status == 0, words

    async def has_heard() -> bool:
        return any(
            isinstance(event, UserEventHeard) and (event.name, event.payload) == ("deploy", b"1.4")
            for event in rumor.events
        )

    await eventually(has_heard, "rumor hears serf's event")
    rumor.runner.do(lambda core, now: core.user_event("restart", b"now", now, coalesce=False))

    async def was_heard() -> bool:
        return heard.exists() and "restart" in heard.read_text()

    await eventually(was_heard, "serf hears rumor's event")
    assert sum("restart" in line for line in heard.read_text().splitlines()) == 1
    assert len(rumor.of(UserEventHeard)) == 2


@pytest.mark.parametrize("replays", [True, False])
async def test_a_latecomer_hears_past_events_only_if_it_asks(
    start_rumor: StartRumor, start_serf: StartSerf, replays: bool
) -> None:
    serf = await start_serf("serf-1")
    await serf.command("event", "-coalesce=false", "past", "1")
    rumor = await start_rumor("rumor-1")
    rumor.runner.do(lambda core, now: core.join([serf.address], now, replay=replays))
    await eventually(lambda: rumor.hears(Synced(serf.address)), "rumor has joined")
    assert bool(rumor.of(UserEventHeard)) is replays


async def test_a_serf_agent_that_replays_hears_rumors_past_events(
    start_rumor: StartRumor, start_serf: StartSerf
) -> None:
    rumor = await start_rumor("rumor-1")
    rumor.runner.do(lambda core, now: core.user_event("past", b"1", now, coalesce=False))
    late = await start_serf("serf-2", {}, f"-join={rumor.address}", "-replay", "-log-level=debug")

    async def replayed() -> bool:
        return "past" in late.log.read_text()

    await eventually(replayed, "serf hears of the past")


# --- queries


@BOTH
async def test_queries_from_serf_are_acked_and_answered_by_both_kinds(
    start_rumor: StartRumor, start_serf: StartSerf
) -> None:
    serf = await start_serf("serf-1", {}, "-event-handler=query:load=echo 0.1")
    rumor = await start_rumor("rumor-1")
    await see_each_other(rumor, serf)
    status, words = await serf.command("query", "-format=json", "-timeout=2s", "load", "now")
    assert status == 0, words
    found = json.loads(words)
    assert sorted(found["Acks"]) == ["rumor-1", "serf-1"]
    assert {name: text.strip() for name, text in found["Responses"].items()} == {
        "rumor-1": "0.42 now", "serf-1": "0.1",
    }  # fmt: skip


@BOTH
async def test_queries_from_rumor_are_acked_and_answered_by_both_kinds(
    start_rumor: StartRumor, start_serf: StartSerf
) -> None:
    serf = await start_serf("serf-1", {"role": "db"}, "-event-handler=query:load=echo 0.1")
    rumor = await start_rumor("rumor-1", {"role": "web"})
    third = await start_rumor("rumor-3", {"role": "web"})
    await see_each_other(rumor, serf)
    third.runner.join([rumor.address])
    await eventually(lambda: serf.sees("rumor-3", "alive"), "all three are there")
    await eventually(lambda: rumor.sees("rumor-3", "alive"), "all three are there")

    async def ask(request: QueryRequest) -> tuple[list[str], dict[str, bytes]]:
        id, _ = rumor.runner.do(lambda core, now: core.query(request, now))
        await eventually(lambda: rumor.hears(QueryEnded(id)), "the query ends")
        acks = sorted(event.sender for event in rumor.events if isinstance(event, QueryAcked) and event.query == id)
        answers = [event for event in rumor.events if isinstance(event, QueryAnswered) and event.query == id]
        return acks, {event.sender: event.payload for event in answers}

    brief = Seconds(1.5)
    everybody = QueryRequest("load", b"now", wants_acks=True, timeout=brief)
    assert await ask(everybody) == (
        ["rumor-1", "rumor-3", "serf-1"],
        {"rumor-1": b"0.42 now", "rumor-3": b"0.42 now", "serf-1": b"0.1\n"},
    )
    by_tag = QueryRequest("load", tags=(("role", "^w.b$"),), wants_acks=True, timeout=brief, relay_factor=1)
    assert (await ask(by_tag))[0] == ["rumor-1", "rumor-3"]
    by_name = QueryRequest("load", nodes=("serf-1",), wants_acks=True, timeout=brief, relay_factor=2)
    assert await ask(by_name) == (["serf-1"], {"serf-1": b"0.1\n"})


async def test_serf_filters_reach_the_right_rumor_members(start_rumor: StartRumor, start_serf: StartSerf) -> None:
    serf = await start_serf("serf-1")
    rumor = await start_rumor("rumor-1", {"role": "web"})
    await see_each_other(rumor, serf)
    for flags, acks in (
        (["-tag=role=^web$"], ["rumor-1"]),
        (["-tag=role=db"], []),
        (["-node=rumor-1"], ["rumor-1"]),
        (["-node=serf-1", "-relay-factor=1"], ["serf-1"]),
    ):
        _, words = await serf.command("query", "-format=json", "-timeout=1s", *flags, "load")
        assert sorted(json.loads(words)["Acks"] or []) == acks, flags


# --- names, coordinates, keys


@SEALED
async def test_the_younger_claimant_of_a_name_loses_the_vote(start_rumor: StartRumor, start_serf: StartSerf) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    third = await start_serf("serf-3")
    rumor.runner.join([third.address])
    await eventually(lambda: serf.sees("serf-3", "alive"), "three members")
    usurper = await start_rumor("serf-1")
    usurper.runner.join([rumor.address])

    async def lost() -> bool:
        return bool(usurper.of(NameLost))

    await eventually(lost, "the usurper learns that the name is not its own")
    await usurper.kill()
    assert await serf.sees("serf-1", "alive")


async def test_distances_are_known_on_both_sides(start_rumor: StartRumor, start_serf: StartSerf) -> None:
    rumor, serf = await pair(start_rumor, start_serf)

    async def rumor_knows() -> bool:
        return rumor.serf.coordinate("serf-1") is not None

    async def serf_knows() -> bool:
        status, words = await serf.command("rtt", "serf-1", "rumor-1")
        return status == 0 and "Estimated" in words

    await eventually(rumor_knows, "rumor knows where serf is")
    await eventually(serf_knows, "serf knows where rumor is")


@SEALED
async def test_a_key_is_rotated_under_traffic_from_either_side(start_rumor: StartRumor, start_serf: StartSerf) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    new = format_key(OTHER_KEY)
    for verb in ("-install", "-use"):
        status, words = await serf.command("keys", f"{verb}={new}")
        assert status == 0, words
    assert rumor.serf.keyring == Keyring((OTHER_KEY, KEY))
    status, words = await serf.command("keys", "-list")
    assert re.search(re.escape(new) + r"\s+\[2/2\]", words), words
    id, _ = rumor.runner.do(lambda core, now: core.key_query("remove-key", KEY, now))
    await eventually(lambda: rumor.hears(QueryEnded(id)), "the query ends")
    assert len([event for event in rumor.events if isinstance(event, QueryAnswered) and event.query == id]) == 2
    assert rumor.of(KeyringChanged)[-1] == KeyringChanged(Keyring((OTHER_KEY,)))
    status, words = await serf.command("keys", "-list")
    assert format_key(KEY) not in words
    rumor.runner.do(lambda core, now: core.set_tags({"still": "here"}, now))
    await eventually(lambda: serf.sees("rumor-1", "alive", {"still": "here"}), "they go on with the new key")


@SEALED
async def test_neither_kind_lets_in_who_has_no_key(start_serf: StartSerf, free_port: Callable[[], int]) -> None:
    serf = await start_serf("serf-1")
    stranger = Rumor("stranger", HostPort("127.0.0.1", free_port()), {}, None)
    try:
        await stranger.start()
        stranger.runner.join([serf.address])

        async def refused() -> bool:
            return any("SyncFailed" in type(event).__name__ for event in stranger.events)

        await eventually(refused, "the stranger is refused")
        assert not await serf.sees("stranger", "alive")
    finally:
        await stranger.kill()


async def test_a_member_that_remembers_its_clocks_skips_what_it_has_heard(
    start_rumor: StartRumor, start_serf: StartSerf
) -> None:
    rumor, serf = await pair(start_rumor, start_serf)
    await serf.command("event", "-coalesce=false", "past", "1")

    async def heard() -> bool:
        return bool(rumor.of(UserEventHeard))

    await eventually(heard, "rumor hears the event")
    clocks = rumor.serf.clocks
    await rumor.kill()
    again = await start_rumor(
        "rumor-1", address=rumor.address, clocks=Clocks(clocks.member - 1, clocks.event - 1, clocks.query - 1)
    )
    again.runner.do(lambda core, now: core.join([serf.address], now, replay=True))
    await eventually(lambda: again.hears(Synced(serf.address)), "rumor is back")
    assert not again.of(UserEventHeard)
