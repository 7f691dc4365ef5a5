"""News is sent a limited number of times, the freshest first, one word per member."""

import pytest

from rumor.swim import broadcast
from rumor.swim.broadcast import BroadcastQueue


def queue_of(*messages: str) -> BroadcastQueue:
    queue = BroadcastQueue(1)
    for message in messages:
        queue.queue(message, message.encode())
    return queue


@pytest.mark.parametrize(
    ("members", "limit"), [(0, 0), (1, 4), (9, 4), (10, 8), (99, 8), (100, 12), (999, 12), (1000, 16)]
)
def test_the_limit_of_sends_grows_with_the_logarithm_of_the_members(members: int, limit: int) -> None:
    assert BroadcastQueue(4).transmit_limit(members) == limit


def test_an_item_goes_after_its_last_send() -> None:
    queue = BroadcastQueue(4)
    queue.queue("a", b"news")
    sends = 0
    while queue.take(1400, 2, 9):
        sends += 1
    assert sends == 4
    assert not queue.holds("a")
    assert len(queue) == 0


def test_a_newer_word_about_a_member_replaces_the_older_and_starts_to_count_anew() -> None:
    queue = BroadcastQueue(2)
    queue.queue("a", b"old")
    assert queue.take(1400, 2, 9) == [b"old"]
    queue.queue("a", b"new")
    assert [queue.take(1400, 2, 9) for _ in range(3)] == [[b"new"], [b"new"], []]


def test_the_least_sent_comes_first_and_of_those_the_newest() -> None:
    queue = BroadcastQueue(4)
    queue.queue("a", b"a")
    queue.take(1400, 2, 9)
    queue.queue("b", b"b")
    queue.queue("c", b"c")
    assert queue.take(1400, 2, 9) == [b"c", b"b", b"a"]


@pytest.mark.parametrize(("room", "taken"), [(5, 0), (6, 1), (11, 1), (12, 2)])
def test_only_what_fits_with_its_overhead_is_taken(room: int, taken: int) -> None:
    assert len(queue_of("aaaa", "bbbb").take(room, 2, 9)) == taken


def test_a_short_item_behind_a_long_one_still_gets_a_place() -> None:
    queue = queue_of("b", "a" * 100)
    assert queue.take(10, 2, 9) == [b"b"]


def test_what_did_not_fit_keeps_its_sends() -> None:
    queue = queue_of("b", "a" * 100)
    queue.take(10, 2, 9)
    assert queue.holds("a" * 100)
    assert not queue.holds("b")


def test_at_most_126_items_ride_on_one_packet() -> None:
    queue = queue_of(*(str(number) for number in range(200)))
    assert len(queue.take(100_000, 2, 9)) == 126
    assert len(queue.take(100_000, 2, 9)) == 74


def test_a_full_queue_drops_the_oldest_of_the_most_sent() -> None:
    limit = broadcast._QUEUE_LIMIT
    queue = BroadcastQueue(4)
    for number in range(limit):
        queue.queue(str(number), b"x")
    assert len(queue) == limit
    assert queue.holds("0")
    queue.queue("one more", b"x")
    assert len(queue) == limit
    assert not queue.holds("0")
    assert queue.holds("1")
