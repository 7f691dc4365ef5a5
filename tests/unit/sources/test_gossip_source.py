"""Gossip's records become members, or refusals; never anything in between."""

import msgpack
import pytest

from rumor.model import Instant, MemberStatus, WallTime
from rumor.names import HostPort
from rumor.serf.events import SerfMember
from rumor.serf.messages import Status
from rumor.serf.tags import encode_tags
from rumor.sources.base import Refusal, Snapshot
from rumor.sources.gossip import build
from rumor.swim.membership import MemberState
from rumor.swim.messages import State

NOW, WALL = Instant(1000.0), WallTime(1_700_000_000.0)


def state(
    name: str = "web-1", *, meta: bytes | None = None, says: State = State.ALIVE, accuser: str = ""
) -> MemberState:
    return MemberState(
        name=name,
        address=HostPort("10.0.0.7", 7946),
        meta=encode_tags({"service:web": "3000"}) if meta is None else meta,
        state=says,
        incarnation=4,
        versions=bytes((1, 5, 2, 2, 5, 5)),
        changed_at=Instant(NOW - 2.5),
        accuser=accuser,
    )


SERFS = {State.ALIVE: Status.ALIVE, State.SUSPECT: Status.ALIVE, State.DEAD: Status.FAILED, State.LEFT: Status.LEFT}


def see(*states: MemberState, is_blind: bool = False) -> Snapshot:
    records = [SerfMember(state, SERFS[state.state]) for state in states]
    return build(records, is_blind=is_blind, now=NOW, wall=WALL)


def test_a_member_carries_all_that_gossip_knows() -> None:
    (member,) = see(state(says=State.SUSPECT, accuser="node-2")).members
    assert member.name == "web-1"
    assert member.address == HostPort("10.0.0.7", 7946)
    assert member.tags == {"service:web": "3000"}
    assert member.incarnation == 4
    assert member.status_by == "node-2"
    assert member.status_since == WALL - 2.5
    assert member.vsn == bytes((1, 5, 2, 2, 5, 5))


@pytest.mark.parametrize(
    ("says", "status"),
    [
        (State.ALIVE, MemberStatus.ALIVE),
        (State.SUSPECT, MemberStatus.SUSPECT),
        (State.DEAD, MemberStatus.FAILED),
        (State.LEFT, MemberStatus.LEFT),
    ],
)
def test_the_wires_dead_is_serfs_failed(says: State, status: MemberStatus) -> None:
    assert see(state(says=says)).members[0].status is status


def test_one_that_said_it_leaves_is_leaving_though_its_node_still_answers() -> None:
    record = SerfMember(state(), Status.LEAVING)
    assert build([record], is_blind=False, now=NOW, wall=WALL).members[0].status is MemberStatus.LEAVING


def test_every_state_of_the_wire_has_a_status() -> None:
    assert len(see(*(state(f"node-{number}", says=says) for number, says in enumerate(State))).members) == len(State)


def test_members_come_in_order_of_their_names() -> None:
    names = [member.name for member in see(state("web-2"), state("balancer"), state("web-10")).members]
    assert names == ["balancer", "web-10", "web-2"]


@pytest.mark.parametrize(
    "name", ["", "web 1", "web\n1", "../web", "web:1", "BACKEND", "wéb", "-web", "x" * 64, "$HOME", "a;b", "web\x00"]
)
def test_a_name_that_does_not_parse_is_refused_and_printed_safely(name: str) -> None:
    snapshot = see(state(name), state("web-2"))
    assert [member.name for member in snapshot.members] == ["web-2"]
    (refusal,) = snapshot.refusals
    assert refusal.reason.isascii()
    assert refusal.reason.isprintable()
    assert refusal.subject.isascii()
    assert refusal.subject == "" or refusal.subject.isprintable()
    assert len(refusal.subject) <= 64


@pytest.mark.parametrize(
    "meta", [b"\xff", b"\xff\x93abc", b"\xff" + msgpack.packb({"a": 1}), b"\xff" + msgpack.packb({"a": {"b": "c"}})]
)
def test_tags_that_do_not_parse_refuse_the_member(meta: bytes) -> None:
    snapshot = see(state(meta=meta))
    assert snapshot.members == ()
    assert isinstance(snapshot.refusals[0], Refusal)
    assert snapshot.refusals[0].subject == "web-1"


def test_an_accuser_from_the_network_is_escaped() -> None:
    assert see(state(accuser="node\n2")).members[0].status_by == "node\\n2"


def test_seeing_nobody_and_being_blind_are_different() -> None:
    assert see() == Snapshot("gossip", (), is_blind=False)
    assert see(is_blind=True) != see()
