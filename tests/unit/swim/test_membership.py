"""What a claim about a member changes, and when it is no news."""

from dataclasses import replace

import pytest

from rumor.model import Instant
from rumor.names import HostPort
from rumor.swim import membership
from rumor.swim.membership import MemberTable, Merge, versions_agree
from rumor.swim.messages import VERSIONS, Alive, Dead, NodeRecord, State, Suspect
from rumor.swim.presets import LAN
from rumor.swim.suspicion import Suspicion

NOW = Instant(10.0)
LATER = Instant(20.0)
HERE = HostPort("10.0.0.1", 7946)
THERE = HostPort("10.0.0.2", 7946)
WEB = Alive(5, "web", HERE, b"tags")


def table_with(state: State) -> MemberTable:
    """Return a table that knows `web` at incarnation 5 in this state."""
    table = MemberTable()
    assert table.merge_alive(WEB, NOW) is Merge.JOINED
    match state:
        case State.SUSPECT:
            assert table.merge_suspect(Suspect(5, "web", "other"), NOW) is Merge.SUSPECTED
            table.records["web"].suspicion = Suspicion.start("other", 5, 10, LAN, NOW)
        case State.DEAD:
            assert table.merge_dead(Dead(5, "web", "other"), NOW) is Merge.FAILED
        case State.LEFT:
            assert table.merge_dead(Dead(5, "web", "web"), NOW) is Merge.LEFT
        case State.ALIVE:
            pass
    return table


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("incarnation", [4, 5])
def test_an_alive_claim_that_is_not_newer_is_no_news(state: State, incarnation: int) -> None:
    """At the same incarnation it would let old gossip cancel a suspicion."""
    table = table_with(state)
    assert table.merge_alive(replace(WEB, incarnation=incarnation, meta=b"other"), LATER) is Merge.IGNORED
    assert table.records["web"].state is state
    assert table.records["web"].meta == b"tags"


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        (State.ALIVE, Merge.REFRESHED),
        (State.SUSPECT, Merge.REFUTED),
        (State.DEAD, Merge.JOINED),
        (State.LEFT, Merge.JOINED),
    ],
)
def test_a_higher_incarnation_brings_a_member_back(state: State, outcome: Merge) -> None:
    table = table_with(state)
    assert table.merge_alive(replace(WEB, incarnation=6), LATER) is outcome
    record = table.records["web"]
    assert (record.state, record.incarnation, record.suspicion, record.accuser) == (State.ALIVE, 6, None, "")


def test_new_meta_is_an_update() -> None:
    table = table_with(State.ALIVE)
    assert table.merge_alive(replace(WEB, incarnation=6, meta=b"new"), LATER) is Merge.UPDATED
    assert table.records["web"].meta == b"new"


@pytest.mark.parametrize("state", [State.ALIVE, State.SUSPECT, State.DEAD])
def test_a_known_name_at_another_address_is_a_conflict(state: State) -> None:
    table = table_with(state)
    assert table.merge_alive(replace(WEB, incarnation=9, address=THERE), LATER) is Merge.CONFLICT
    assert table.records["web"].address == HERE


def test_a_name_that_left_may_return_at_another_address() -> None:
    table = table_with(State.LEFT)
    assert table.merge_alive(replace(WEB, incarnation=1, address=THERE), LATER) is Merge.JOINED
    assert table.records["web"].address == THERE


def test_an_address_may_be_replaced_where_the_caller_has_checked() -> None:
    table = table_with(State.ALIVE)
    claim = replace(WEB, incarnation=1, address=THERE)
    assert table.merge_alive(claim, LATER, may_replace_address=True) is Merge.UPDATED
    assert (table.records["web"].address, table.records["web"].incarnation) == (THERE, 1)


def test_versions_that_are_not_told_keep_those_known() -> None:
    table = table_with(State.ALIVE)
    table.merge_alive(replace(WEB, incarnation=6, versions=b""), LATER)
    assert table.records["web"].versions == VERSIONS


@pytest.mark.parametrize(("incarnation", "outcome"), [(4, Merge.IGNORED), (5, Merge.SUSPECTED), (6, Merge.SUSPECTED)])
def test_an_accusation_counts_from_the_incarnation_known(incarnation: int, outcome: Merge) -> None:
    assert table_with(State.ALIVE).merge_suspect(Suspect(incarnation, "web", "other"), LATER) is outcome


@pytest.mark.parametrize("state", [State.DEAD, State.LEFT])
def test_one_that_is_gone_is_not_suspected(state: State) -> None:
    table = table_with(state)
    assert table.merge_suspect(Suspect(9, "web", "other"), LATER) is Merge.IGNORED
    assert table.records["web"].state is state


def test_a_further_accuser_confirms_and_the_same_one_does_not() -> None:
    table = table_with(State.SUSPECT)
    assert table.merge_suspect(Suspect(5, "web", "other"), LATER) is Merge.IGNORED
    assert table.merge_suspect(Suspect(5, "web", "third"), LATER) is Merge.CONFIRMED


@pytest.mark.parametrize(("incarnation", "outcome"), [(4, Merge.IGNORED), (5, Merge.FAILED), (6, Merge.FAILED)])
@pytest.mark.parametrize("state", [State.ALIVE, State.SUSPECT])
def test_a_death_counts_from_the_incarnation_known(state: State, incarnation: int, outcome: Merge) -> None:
    table = table_with(state)
    assert table.merge_dead(Dead(incarnation, "web", "other"), LATER) is outcome
    if outcome is Merge.FAILED:
        assert (table.records["web"].state, table.records["web"].accuser) == (State.DEAD, "other")


def test_who_reports_its_own_death_has_left() -> None:
    table = table_with(State.ALIVE)
    assert table.merge_dead(Dead(5, "web", "web"), LATER) is Merge.LEFT
    assert (table.records["web"].state, table.records["web"].accuser) == (State.LEFT, "")


def test_one_that_failed_does_not_leave_afterwards_nor_the_other_way_round() -> None:
    assert table_with(State.DEAD).merge_dead(Dead(5, "web", "web"), LATER) is Merge.IGNORED
    assert table_with(State.LEFT).merge_dead(Dead(5, "web", "other"), LATER) is Merge.IGNORED


def test_nothing_is_believed_of_a_member_nobody_has_seen_alive() -> None:
    table = MemberTable()
    assert table.merge_suspect(Suspect(1, "web", "other"), NOW) is Merge.IGNORED
    assert table.merge_dead(Dead(1, "web", "other"), NOW) is Merge.IGNORED
    assert not table.records


def test_the_time_of_change_is_that_of_the_state_not_of_the_last_word() -> None:
    table = table_with(State.ALIVE)
    table.merge_alive(replace(WEB, incarnation=6), LATER)
    assert table.records["web"].changed_at == NOW
    table.merge_dead(Dead(6, "web", "other"), LATER)
    assert table.records["web"].changed_at == LATER


# --- forgetting


@pytest.mark.parametrize("state", [State.DEAD, State.LEFT])
def test_one_that_is_long_gone_is_forgotten_by_the_protocol_and_shown_to_people(state: State) -> None:
    table = table_with(state)
    assert table.forget_gone(NOW) == []
    assert table.forget_gone(LATER) == ["web"]
    assert "web" not in table.records
    assert [view.state for view in table.views()] == [state]


@pytest.mark.parametrize("state", [State.ALIVE, State.SUSPECT])
def test_one_that_may_live_is_not_forgotten(state: State) -> None:
    assert table_with(state).forget_gone(LATER) == []


def test_one_that_returns_has_no_tombstone() -> None:
    table = table_with(State.DEAD)
    table.forget_gone(LATER)
    assert table.merge_alive(replace(WEB, incarnation=1), LATER) is Merge.JOINED
    assert [view.state for view in table.views()] == [State.ALIVE]


@pytest.mark.parametrize("state", [State.DEAD, State.LEFT])
def test_a_member_is_erased_with_its_tombstone(state: State) -> None:
    table = table_with(state)
    table.forget_gone(LATER)
    assert table.view("web") is not None
    table.forget("web")
    assert table.view("web") is None
    assert table.views() == ()


def test_no_more_tombstones_are_kept_than_the_limit_and_the_oldest_go_first() -> None:
    table = MemberTable()
    for number in range(membership._TOMBSTONES_LIMIT + 1):
        table.merge_alive(Alive(1, f"web-{number}", HERE), NOW)
        table.merge_dead(Dead(1, f"web-{number}", "other"), NOW)
    table.forget_gone(LATER)
    assert len(table.tombstones) == membership._TOMBSTONES_LIMIT
    assert "web-0" not in table.tombstones
    assert "web-1" in table.tombstones


# --- versions


def node(versions: bytes, state: State = State.ALIVE) -> NodeRecord:
    return NodeRecord("web", HERE, 1, state, b"", versions)


@pytest.mark.parametrize(
    ("theirs", "agree"),
    [
        (bytes((1, 5, 2, 2, 5, 5)), True),
        (bytes((1, 5, 5, 2, 5, 4)), True),
        (bytes((1, 2, 2, 2, 5, 5)), True),
        (bytes((1, 5, 6, 2, 5, 5)), False),
        (bytes((3, 5, 3, 2, 5, 5)), False),
        (bytes((1, 1, 1, 2, 5, 5)), False),
        (bytes((1, 5, 2, 2, 5, 6)), False),
        (bytes((1, 5, 2, 6, 7, 7)), False),
    ],
)
def test_all_must_speak_a_version_that_all_understand(theirs: bytes, agree: bool) -> None:
    assert versions_agree([node(VERSIONS)], (node(theirs),)) is agree


def test_the_dead_set_no_bounds_but_must_keep_them() -> None:
    assert versions_agree([node(VERSIONS)], (node(bytes((6, 7, 2, 6, 7, 5)), State.DEAD),))
    assert not versions_agree([node(VERSIONS)], (node(bytes((6, 7, 7, 6, 7, 7)), State.DEAD),))
