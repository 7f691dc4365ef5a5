"""When a draining node may leave."""

import pytest

from rumor.agent.drain import Drain, Drained, format_drained, parse_drained
from rumor.errors import PeerError
from rumor.model import Instant, Member, MemberStatus
from rumor.names import HostPort, MemberName, ServiceName

WEB, API = ServiceName("web"), ServiceName("api")
ME = MemberName("web-1")


def member(name: str, *, balances: bool = False, status: MemberStatus = MemberStatus.ALIVE) -> Member:
    return Member(MemberName(name), HostPort("10.0.0.1", 7946), {"balancer": "80"} if balances else {}, status)


def start(*members: Member, services: tuple[ServiceName, ...] = (WEB,)) -> Drain:
    return Drain.start(ME, services, (member("web-1"), *members), Instant(10.0))


def test_a_node_waits_for_every_balancer_and_every_service() -> None:
    drain = start(member("lb-1", balances=True), member("lb-2", balances=True), services=(WEB, API))
    for balancer, service in (("lb-1", WEB), ("lb-1", API), ("lb-2", WEB)):
        drain = drain.hear(MemberName(balancer), Drained(service, ME))
        assert not drain.is_done(Instant(1.0))
    assert drain.hear(MemberName("lb-2"), Drained(API, ME)).is_done(Instant(1.0))


def test_a_node_waits_no_longer_than_its_drain_time() -> None:
    drain = start(member("lb-1", balances=True))
    assert not drain.is_done(Instant(9.9))
    assert drain.is_done(Instant(10.0))


def test_a_word_about_another_member_is_not_heard() -> None:
    drain = start(member("lb-1", balances=True))
    assert not drain.hear(MemberName("lb-1"), Drained(WEB, MemberName("web-2"))).is_done(Instant(1.0))


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


def test_a_word_is_read_back_as_it_was_written() -> None:
    word = Drained(WEB, ME)
    assert parse_drained(format_drained(word)) == word


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01",
        b"\xe0drained web",
        b"\xe0drained a b c",
        b"\xe0drained we/b web-1",
        b"\xe0drained \xff x",
        b"\xe0drained " + b"a" * 200,
    ],
)
def test_other_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(PeerError):
        parse_drained(payload)
