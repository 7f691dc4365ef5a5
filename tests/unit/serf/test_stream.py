"""Filters in serf's words, and events gathered as serf gathers them."""

import pytest

from rumor.errors import Refused
from rumor.model import Instant
from rumor.names import HostPort
from rumor.serf.events import Change, QueryHeard, SerfMember, UserEventHeard
from rumor.serf.messages import Status
from rumor.serf.stream import LONGEST, QUIET, EventFilter, Gatherer, MembersEvent, StreamEvent, parse_filters
from rumor.swim.membership import MemberState
from rumor.swim.messages import State


def member(name: str, status: Status = Status.ALIVE) -> SerfMember:
    state = MemberState(name, HostPort("10.0.0.1", 7946), b"", State.ALIVE, 1, bytes(6), Instant(0.0))
    return SerfMember(state, status)


def user(name: str = "deploy", ltime: int = 1, payload: bytes = b"") -> UserEventHeard:
    return UserEventHeard(ltime, name, payload, True)


JOIN = MembersEvent(Change.JOIN, (member("a"),))
SUSPECT = MembersEvent(Change.SUSPECT, (member("a"),))
QUERY = QueryHeard(1, 1, "load", b"", "a", Instant(9.0))


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("", [JOIN, user(), QUERY]),
        ("*", [JOIN, user(), QUERY]),
        ("member-join", [JOIN]),
        ("user", [user()]),
        ("user:deploy,query", [user(), QUERY]),
        ("user:other", []),
        ("query:load", [QUERY]),
        ("member-suspect", [SUSPECT]),
        ("member-leave,member-failed", []),
    ],
)
def test_a_filter_lets_pass_what_it_names(text: str, passing: list[StreamEvent]) -> None:
    filters = parse_filters(text)
    events: list[StreamEvent] = [JOIN, SUSPECT, user(), QUERY]
    assert [event for event in events if any(one.passes(event) for one in filters)] == passing


@pytest.mark.parametrize("text", ["nope", "member-join, user", "member-join:x", ",", "user,,query", "member"])
def test_an_unknown_kind_is_refused_by_name(text: str) -> None:
    with pytest.raises(Refused):
        parse_filters(text)


def test_a_name_is_all_that_follows_the_first_colon() -> None:
    assert parse_filters("user:a:b") == (EventFilter("user", "a:b"),)
    assert str(parse_filters("query:load")[0]) == "query:load"


def test_changes_are_told_together_when_it_has_been_quiet() -> None:
    gatherer = Gatherer()
    gatherer.add_member(Change.JOIN, member("a"), Instant(10.0))
    gatherer.add_member(Change.JOIN, member("b"), Instant(10.5))
    assert gatherer.due == Instant(10.5 + QUIET)
    assert gatherer.take(Instant(11.4)) == []
    (event,) = gatherer.take(Instant(11.5))
    assert isinstance(event, MembersEvent)
    assert (event.change, [one.name for one in event.members]) == (Change.JOIN, ["a", "b"])
    assert gatherer.due is None


def test_a_storm_is_told_after_the_longest_wait() -> None:
    gatherer = Gatherer()
    for step in range(40):
        gatherer.add_member(Change.UPDATE, member("a"), Instant(10.0 + 0.1 * step))
    assert gatherer.due == Instant(10.0 + LONGEST)


def test_the_last_change_of_a_member_counts_and_none_is_told_twice() -> None:
    gatherer = Gatherer()
    gatherer.add_member(Change.JOIN, member("a"), Instant(0.0))
    gatherer.take(Instant(5.0))
    gatherer.add_member(Change.FAILED, member("a"), Instant(10.0))
    gatherer.add_member(Change.JOIN, member("a"), Instant(10.1))
    assert gatherer.take(Instant(15.0)) == [], "it had joined before, and it is there"
    for _ in range(2):
        gatherer.add_member(Change.UPDATE, member("a"), Instant(20.0))
        assert len(gatherer.take(Instant(25.0))) == 1, "an update is told each time"


def test_of_repeated_user_events_the_newest_time_is_told_with_all_of_it() -> None:
    gatherer = Gatherer()
    newest = (user(ltime=3, payload=b"x"), user(ltime=3, payload=b"y"))
    for event in (user(ltime=1), *newest, user(ltime=2), user("other")):
        gatherer.add_user(event, Instant(0.0))
    told = gatherer.take(Instant(5.0))
    assert told == [*newest, user("other")]
