"""When a draining node may leave."""

import pytest

from rumor.agent.drain import (
    Drain,
    Drained,
    Holding,
    Question,
    format_answer,
    format_question,
    parse_answer,
    parse_question,
)
from rumor.errors import PeerError
from rumor.model import Instant, Member, MemberStatus
from rumor.names import HostPort, MemberName, ServiceName

WEB, API = ServiceName("web"), ServiceName("api")
ME = MemberName("web-1")


def member(name: str, *, balances: bool = False, status: MemberStatus = MemberStatus.ALIVE) -> Member:
    return Member(MemberName(name), HostPort("10.0.0.1", 7946), {"balancer": "80"} if balances else {}, status)


def start(*members: Member, services: tuple[ServiceName, ...] = (WEB,)) -> Drain:
    return Drain.start(ME, services, (member("web-1"), *members), Instant(10.0))


def nothing(service: ServiceName) -> Holding:
    return Holding(service, is_closed=True, sessions=0)


def test_a_node_waits_for_every_balancer_and_every_service() -> None:
    drain = start(member("lb-1", balances=True), member("lb-2", balances=True), services=(WEB, API))
    for balancer, service in (("lb-1", WEB), ("lb-1", API), ("lb-2", WEB)):
        drain = drain.hear(MemberName(balancer), [nothing(service)])
        assert not drain.is_done(Instant(1.0))
    assert drain.hear(MemberName("lb-2"), [nothing(API)]).is_done(Instant(1.0))


def test_a_node_waits_no_longer_than_its_drain_time() -> None:
    drain = start(member("lb-1", balances=True))
    assert not drain.is_done(Instant(9.9))
    assert drain.is_done(Instant(10.0))


@pytest.mark.parametrize(
    "holding", [Holding(WEB, is_closed=True, sessions=1), Holding(WEB, is_closed=False, sessions=0), nothing(API)]
)
def test_an_answer_that_holds_something_or_was_not_asked_for_ends_nothing(holding: Holding) -> None:
    assert not start(member("lb-1", balances=True)).hear(MemberName("lb-1"), [holding]).is_done(Instant(1.0))


def test_it_says_what_is_still_open() -> None:
    drain = start(member("lb-1", balances=True), member("lb-2", balances=True), member("lb-3", balances=True))
    drain = drain.hear(MemberName("lb-1"), [nothing(WEB)])
    drain = drain.hear(MemberName("lb-2"), [Holding(WEB, is_closed=True, sessions=1)])
    assert drain.balancers == ("lb-2", "lb-3")
    assert drain.describe_rest() == "lb-2 holds 1 session of web, lb-3 has not answered for web"


@pytest.mark.parametrize("status", [MemberStatus.LEFT, MemberStatus.FAILED])
def test_a_balancer_whose_agent_is_gone_is_waited_for_since_its_haproxy_may_go_on(status: MemberStatus) -> None:
    drain = start(member("lb-1", balances=True)).forget_left([member("lb-1", balances=True, status=status)])
    assert not drain.is_done(Instant(9.9))
    assert drain.is_done(Instant(10.0))


def test_one_that_left_and_had_nothing_to_say_is_nobody_to_wait_for() -> None:
    drain = start(member("web-2"))
    assert drain.forget_left([member("web-2", status=MemberStatus.LEFT)]).is_done(Instant(1.0))


def test_a_node_that_sees_no_balancer_waits_its_whole_drain_time() -> None:
    drain = start(member("web-2"))
    assert not drain.is_done(Instant(9.9))
    assert drain.is_done(Instant(10.0))


def test_a_node_that_is_alone_leaves_at_once() -> None:
    assert start().is_done(Instant(0.0))
    assert start(member("web-2", status=MemberStatus.FAILED)).is_done(Instant(0.0))
    assert start(member("lb-1", balances=True, status=MemberStatus.LEFT)).is_done(Instant(0.0))


def test_a_balancer_that_has_failed_before_is_waited_for_too() -> None:
    drain = start(member("lb-1", balances=True, status=MemberStatus.FAILED))
    assert not drain.is_done(Instant(9.9))
    assert drain.hear(MemberName("lb-1"), [nothing(WEB)]).is_done(Instant(1.0)), "its agent came back"


def test_it_says_how_it_ended() -> None:
    balancer, other = member("lb-1", balances=True), member("web-2")
    assert start().describe_end() == Drained(True, "this node is alone: there is nobody to wait for")
    left = start(other).forget_left([member("web-2", status=MemberStatus.LEFT)])
    assert left.describe_end() == Drained(True, "this node is alone: there is nobody to wait for")
    assert start(other).describe_end() == Drained(
        False, "the drain time is over: no balancer is known, but other members are"
    )
    assert start(balancer).describe_end() == Drained(False, "the drain time is over: lb-1 has not answered for web")
    assert start(balancer, other).hear(MemberName("lb-1"), [nothing(WEB)]).describe_end() == Drained(
        True, "no balancer holds a session of this node any more"
    )


def test_questions_and_answers_are_read_back_as_they_were_written() -> None:
    question = Question(ME, (WEB, API))
    assert parse_question(format_question(question)) == question
    answer = (nothing(WEB), Holding(API, is_closed=False, sessions=17))
    assert parse_answer(format_answer(answer)) == answer


@pytest.mark.parametrize(
    "payload",
    [b"", b"web-1", b"web-1 ", b"we/b web", b"web-1 web,", b"\xff web", b"web-1 " + b"a" * 1000, b"a b c"],
)
def test_other_questions_are_refused(payload: bytes) -> None:
    with pytest.raises(PeerError):
        parse_question(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"web",
        b"web=ajar:0",
        b"web=closed:-1",
        b"web=closed:",
        b"web=closed:1e9",
        b"we/b=closed:0",
        b"web=closed:0,",
        b"web=closed:\xd9\xa1",
        b"web=closed:0," * 100,
    ],
)
def test_other_answers_are_refused(payload: bytes) -> None:
    with pytest.raises(PeerError):
        parse_answer(payload)
