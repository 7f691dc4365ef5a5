"""Who is passed over, and who only has nothing to do."""

from rumor.haproxy.idle import Idle, passed_over
from rumor.model import Instant, Rotation, ServerObservation
from rumor.names import HostPort, MemberName, ServiceName

WEB = ServiceName("web")
ONE, TWO = (WEB, MemberName("one")), (WEB, MemberName("two"))


def entry(key: tuple[ServiceName, MemberName], begun: int, sessions: int = 0) -> ServerObservation:
    return ServerObservation(
        *key, HostPort("10.0.0.1", 80), Rotation.READY, True, "L7OK", "UP", 100, sessions, sessions_total=begun
    )


def looks(*pairs: tuple[float, int, int], sessions: int = 0) -> list[bool]:
    """Look at two servers at a time each, with what both have begun by then; say whether the first is passed over."""
    idle: dict[tuple[ServiceName, MemberName], Idle] = {}
    return [
        ONE in passed_over([entry(ONE, one, sessions), entry(TWO, two, 3)], idle, Instant(now))
        for now, one, two in pairs
    ]


def test_an_idle_server_is_passed_over_once_the_others_had_many_requests() -> None:
    assert looks((0, 5, 10), (1, 5, 200), (2, 5, 400)) == [False, False, True]


def test_few_requests_elsewhere_prove_nothing() -> None:
    assert looks((0, 5, 10), (2, 5, 20), (60, 5, 49)) == [False, False, False]
    assert looks((0, 5, 10), (60, 5, 50)) == [False, True]


def test_one_that_gets_a_request_is_in_order() -> None:
    assert looks((0, 5, 10), (2, 6, 400), (3, 6, 600)) == [False, False, False]
    assert looks((0, 5, 10), (2, 5, 400), sessions=1) == [False, False]


def test_each_try_that_changes_nothing_makes_the_next_one_later() -> None:
    assert looks((0, 5, 0), (2, 5, 400), (4, 5, 800), (6, 5, 1200), (10, 5, 1600)) == [False, True, False, True, False]


def test_counters_that_began_anew_prove_nothing() -> None:
    assert looks((0, 5, 900), (2, 5, 400), (3, 5, 600)) == [False, False, False]


def test_one_that_is_gone_is_forgotten() -> None:
    idle = {ONE: Idle(Instant(0.0), 0, 0)}
    assert passed_over([], idle, Instant(9.0)) == frozenset()
    assert idle == {}
