"""How long a suspect may prove itself: long at first, shorter with each independent accuser."""

import pytest

from rumor.model import Instant
from rumor.swim.presets import LAN, LOCAL
from rumor.swim.suspicion import Suspicion

START = Instant(100.0)


def suspicion(members: int) -> Suspicion:
    return Suspicion.start("accuser-0", 1, members, LAN, START)


def wait(of: Suspicion) -> float:
    return of.deadline - START


def test_a_lone_accuser_waits_the_longest_time() -> None:
    assert wait(suspicion(10)) == pytest.approx(4 * 6)


def test_each_further_accuser_shortens_the_wait() -> None:
    under_way = suspicion(10)
    waits = [wait(under_way)]
    for number in (1, 2):
        assert under_way.confirm(f"accuser-{number}")
        waits.append(wait(under_way))
    # 24 - 20 * log(2) / log(3), rounded down to the millisecond.
    assert waits == pytest.approx([24, 11.381, 4])


def test_accusers_beyond_those_wanted_are_no_news() -> None:
    under_way = suspicion(10)
    assert [under_way.confirm(f"accuser-{number}") for number in (1, 2, 3)] == [True, True, False]


def test_the_same_accuser_counts_once() -> None:
    under_way = suspicion(10)
    assert not under_way.confirm("accuser-0")
    assert under_way.confirm("accuser-1")
    assert not under_way.confirm("accuser-1")


@pytest.mark.parametrize(("members", "longest"), [(3, 4.0), (4, 24.0)])
def test_nobody_is_waited_for_where_too_few_could_confirm(members: int, longest: float) -> None:
    """With three members only one other could confirm, where two are wanted."""
    assert wait(suspicion(members)) == pytest.approx(longest)


@pytest.mark.parametrize(("members", "shortest"), [(1, 4.0), (10, 4.0), (100, 8.0), (1000, 12.0)])
def test_the_time_grows_with_the_logarithm_of_the_members(members: int, shortest: float) -> None:
    assert suspicion(members).shortest == pytest.approx(shortest)


def test_the_local_preset_wants_one_confirmation() -> None:
    under_way = Suspicion.start("accuser-0", 1, 10, LOCAL, START)
    assert wait(under_way) == pytest.approx(18)
    assert under_way.confirm("accuser-1")
    assert wait(under_way) == pytest.approx(3)
