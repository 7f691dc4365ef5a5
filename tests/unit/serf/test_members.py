"""What intents to join and to leave make of the comings and goings that SWIM sees."""

import pytest

from rumor.model import Instant
from rumor.serf.events import Change
from rumor.serf.members import FORGET_AFTER, Heard, Members
from rumor.serf.messages import JoinIntent, LeaveIntent, Status

NOW, LATER = Instant(100.0), Instant(200.0)


def members(status: Status = Status.ALIVE, ltime: int = 5) -> Members:
    found = Members("me")
    found.come("web")
    found.hear_join(JoinIntent(ltime, "web"), NOW)
    if status is Status.FAILED:
        found.go("web", NOW, has_left=False)
    if status in (Status.LEAVING, Status.LEFT):
        found.hear_leave(LeaveIntent(ltime + 1, "web"), NOW)
    if status is Status.LEFT:
        found.go("web", NOW, has_left=True)
    return found


def status(found: Members, name: str = "web") -> Status:
    record = found.get(name)
    assert record is not None
    return record.status


@pytest.mark.parametrize(
    ("was", "has_left", "change", "status_after"),
    [
        (Status.ALIVE, False, Change.FAILED, Status.FAILED),
        (Status.ALIVE, True, Change.LEAVE, Status.LEFT),
        (Status.LEAVING, False, Change.LEAVE, Status.LEFT),
        (Status.LEAVING, True, Change.LEAVE, Status.LEFT),
        (Status.LEFT, False, None, Status.LEFT),
        (Status.FAILED, False, None, Status.FAILED),
    ],
)
def test_one_that_goes_has_left_or_failed(
    was: Status, has_left: bool, change: Change | None, status_after: Status
) -> None:
    found = members(was)
    assert found.go("web", LATER, has_left=has_left) is change
    assert status(found) is status_after


def test_an_intent_to_leave_is_news_once() -> None:
    found = members()
    assert found.hear_leave(LeaveIntent(6, "web"), NOW) == Heard(True)
    assert found.hear_leave(LeaveIntent(6, "web"), NOW) == Heard()
    assert found.hear_leave(LeaveIntent(4, "web"), NOW) == Heard()
    assert status(found) is Status.LEAVING
    assert found.hear_join(JoinIntent(7, "web"), NOW)
    assert status(found) is Status.ALIVE
    assert not found.hear_join(JoinIntent(7, "web"), NOW)


def test_a_failed_member_can_be_sent_away() -> None:
    found = members(Status.FAILED)
    assert found.hear_leave(LeaveIntent(9, "web"), LATER) == Heard(True, Change.LEAVE)
    assert status(found) is Status.LEFT


def test_what_is_said_of_this_node_is_refuted_unless_it_leaves() -> None:
    found = Members("me")
    assert found.hear_leave(LeaveIntent(3, "me"), NOW).refutes
    found.is_leaving = True
    assert found.hear_leave(LeaveIntent(3, "me"), NOW) == Heard(True)
    assert status(found, "me") is Status.LEAVING


def test_a_word_against_this_node_as_old_as_its_own_is_refuted_once() -> None:
    found = Members("me")
    assert found.hear_join(JoinIntent(3, "me"), NOW)
    assert found.hear_leave(LeaveIntent(3, "me"), NOW).refutes
    assert found.hear_join(JoinIntent(4, "me"), NOW)
    assert found.hear_leave(LeaveIntent(3, "me"), NOW) == Heard()


def test_an_intent_that_comes_before_its_member_is_kept() -> None:
    found = Members("me")
    assert found.hear_leave(LeaveIntent(4, "web"), NOW).is_news
    assert not found.hear_join(JoinIntent(3, "web"), NOW)
    found.come("web")
    assert status(found) is Status.LEAVING
    assert not found.hear_join(JoinIntent(4, "web"), NOW)


def test_an_intent_of_a_member_that_never_comes_is_forgotten() -> None:
    found = Members("me")
    found.hear_leave(LeaveIntent(4, "web"), NOW)
    found.expired(Instant(NOW + 301))
    found.come("web")
    assert status(found) is Status.ALIVE


@pytest.mark.parametrize("was", [Status.FAILED, Status.LEFT])
def test_who_has_been_gone_for_a_day_is_named_and_can_be_forgotten(was: Status) -> None:
    found = members(was)
    assert found.expired(Instant(NOW + FORGET_AFTER)) == []
    assert found.expired(Instant(NOW + FORGET_AFTER + 1)) == ["web"]
    found.forget("web")
    assert found.get("web") is None


def test_this_node_is_never_forgotten() -> None:
    found = Members("me")
    found.forget("me")
    assert found.get("me") is not None


def test_one_that_returns_is_alive_and_not_expired() -> None:
    found = members(Status.FAILED)
    found.come("web")
    assert status(found) is Status.ALIVE
    assert found.expired(Instant(NOW + 10 * FORGET_AFTER)) == []
