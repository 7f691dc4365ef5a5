"""Each event and each query is taken once, and not when it is too old."""

from rumor.serf.codec import RING
from rumor.serf.ring import Ring


def test_a_thing_is_new_once() -> None:
    ring: Ring[str] = Ring()
    assert ring.accept(5, "a", 6)
    assert not ring.accept(5, "a", 6)
    assert ring.accept(5, "b", 6)
    assert ring.accept(6, "a", 7)
    assert sorted(ring) == [(5, ("a", "b")), (6, ("a",))]


def test_what_is_too_old_is_not_taken() -> None:
    ring: Ring[str] = Ring()
    assert not ring.accept(1, "a", RING + 2)
    assert ring.accept(2, "a", RING + 2)


def test_a_newer_time_takes_the_place_of_an_older_one_and_never_the_other_way_round() -> None:
    ring: Ring[str] = Ring()
    assert ring.accept(3, "old", 4)
    assert ring.accept(3 + RING, "new", 4)
    assert not ring.accept(3, "old", 4)


def test_what_is_below_the_minimum_is_not_wanted() -> None:
    ring: Ring[str] = Ring()
    ring.minimum = 5
    assert not ring.accept(4, "a", 6)
    assert ring.accept(5, "a", 6)


def test_one_time_cannot_fill_the_memory() -> None:
    ring: Ring[int] = Ring()
    assert sum(ring.accept(7, number, 8) for number in range(10_000)) == 512
