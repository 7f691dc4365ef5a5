"""Whom to join, and how often to say that nobody answers."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import pytest

from rumor.joiner import Joiner, Warnings, failed_addresses, others_alive, pick_to_join
from rumor.model import Instant, Seconds
from rumor.names import Endpoint, HostPort
from rumor.swim.events import Synced, SyncFailed
from rumor.swim.membership import MemberState
from rumor.swim.messages import State

ME = HostPort("127.0.0.1", 7946)
OTHER = HostPort("127.0.0.2", 7946)
THIRD = HostPort("127.0.0.3", 7946)


def member(name: str, address: HostPort, state: State = State.ALIVE) -> MemberState:
    return MemberState(name, address, b"", state, 1, b"", Instant(0.0))


class FakeGossip:
    """Remembers what was asked; `members` is what the test says."""

    def __init__(self) -> None:
        self.joined: list[HostPort] = []
        self.synced: list[HostPort] = []
        self.known: tuple[MemberState, ...] = (member("me", ME),)

    def join(self, addresses: Sequence[HostPort]) -> None:
        self.joined += addresses

    def sync(self, address: HostPort) -> None:
        self.synced.append(address)

    def members(self) -> tuple[MemberState, ...]:
        return self.known


def joiner_for(gossip: FakeGossip, endpoints: Sequence[Endpoint], previous: Sequence[HostPort] = ()) -> Joiner:
    return Joiner(
        gossip, endpoints, previous, own_name="me", own=ME,
        retry_interval=Seconds(0.01), reconnect_interval=Seconds(0.02),
    )  # fmt: skip


async def run_until(joiner: Joiner, condition: Callable[[], bool]) -> None:
    task = asyncio.create_task(joiner.run())
    try:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what is waited for is plain state
                await asyncio.sleep(0.005)
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("state", [State.ALIVE, State.SUSPECT])
def test_a_suspect_is_company(state: State) -> None:
    assert others_alive([member("me", ME), member("other", OTHER, state)], "me")


@pytest.mark.parametrize("state", [State.DEAD, State.LEFT])
def test_members_that_are_gone_are_no_company(state: State) -> None:
    assert not others_alive([member("me", ME), member("other", OTHER, state)], "me")


def test_failed_members_are_looked_for_and_those_that_left_are_not() -> None:
    members = [member("a", OTHER, State.DEAD), member("b", THIRD, State.LEFT), member("c", ME, State.DEAD)]
    assert failed_addresses(members, ME) == [OTHER]


def test_oneself_is_never_joined() -> None:
    assert pick_to_join([ME, OTHER], [ME, THIRD], Counter(), ME, Random(1)) == [OTHER, THIRD]


def test_an_address_with_several_tries_under_way_is_not_tried_again() -> None:
    assert pick_to_join([OTHER, THIRD], [], Counter({OTHER: 3, THIRD: 2}), ME, Random(1)) == [THIRD]


def test_of_many_remembered_members_a_few_are_tried_and_all_in_time() -> None:
    known = [HostPort("10.0.0.1", port) for port in range(1, 101)]
    random = Random(1)
    seen: set[HostPort] = set()
    for _ in range(200):
        picked = pick_to_join([], known, Counter(), ME, random)
        assert len(picked) == 8
        seen.update(picked)
    assert seen == set(known)


def test_a_warning_is_due_at_once_and_then_ever_more_rarely() -> None:
    warnings = Warnings()
    due = [second for second in range(1000) if warnings.is_due(Instant(float(second)))]
    assert due == [0, 5, 15, 35, 75, 155, 315, 615, 915]


async def test_a_lonely_node_tries_again_and_again() -> None:
    gossip = FakeGossip()
    joiner = joiner_for(gossip, [Endpoint(OTHER.host, OTHER.port)])

    def answered_thrice() -> bool:
        for _ in range(joiner._under_way[OTHER]):
            joiner.note(SyncFailed(OTHER, "connection refused"))
        return len(gossip.joined) >= 6

    await run_until(joiner, answered_thrice)
    assert set(gossip.joined) == {OTHER}


async def test_a_node_in_company_joins_nobody_but_looks_for_the_failed() -> None:
    gossip = FakeGossip()
    gossip.known += (member("other", OTHER), member("third", THIRD, State.DEAD))
    await run_until(
        joiner_for(gossip, [Endpoint(OTHER.host, OTHER.port)]), lambda: {OTHER, THIRD} <= set(gossip.synced)
    )
    assert gossip.joined == []


async def test_a_lonely_node_without_addresses_looks_for_the_failed() -> None:
    gossip = FakeGossip()
    gossip.known += (member("third", THIRD, State.DEAD),)
    await run_until(joiner_for(gossip, []), lambda: THIRD in gossip.joined)


async def test_a_name_is_resolved_anew_at_each_try(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([OTHER, THIRD])
    # The resolver is the outside here; it answers in a thread, as the real one does.
    monkeypatch.setattr(
        "rumor.joiner.socket.getaddrinfo",
        lambda host, port, type: [(2, 1, 6, "", (next(answers, THIRD).host, port))],
    )
    gossip = FakeGossip()
    await run_until(joiner_for(gossip, [Endpoint("balancer", 7946)]), lambda: THIRD in gossip.joined)
    assert gossip.joined[0] == OTHER


async def test_a_resolver_that_hangs_is_asked_once_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def hang(host: str, port: int, type: int) -> list[object]:
        asked.append(host)
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline and len(gossip.joined) < 2:
            time.sleep(0.01)
        raise OSError(-3, "temporary failure in name resolution")

    monkeypatch.setattr("rumor.joiner.socket.getaddrinfo", hang)
    monkeypatch.setattr("rumor.joiner._RESOLVE_TIMEOUT", 0.05)
    gossip = FakeGossip()
    joiner = joiner_for(gossip, [Endpoint("balancer", 7946), Endpoint(OTHER.host, OTHER.port)])
    await run_until(joiner, lambda: len(gossip.joined) >= 2)
    assert asked == ["balancer"]
    assert caplog.messages == ["join_failed"]


def test_an_address_that_never_answers_is_named_once_at_first(caplog: pytest.LogCaptureFixture) -> None:
    joiner = joiner_for(FakeGossip(), [])
    for _ in range(3):
        joiner._join([OTHER])
        joiner.note(SyncFailed(OTHER, "no answer within 1 s"))
    assert caplog.messages == ["join_failed"]
    facts = vars(caplog.records[0])["rumor_facts"]
    assert facts["address"] == str(OTHER)
    assert facts["reason"] == "no answer within 1 s"


def test_an_exchange_that_others_asked_for_is_no_failed_join(caplog: pytest.LogCaptureFixture) -> None:
    joiner = joiner_for(FakeGossip(), [])
    joiner.note(SyncFailed(OTHER, "no answer within 1 s"))
    joiner.note(Synced(OTHER))
    assert caplog.messages == []
