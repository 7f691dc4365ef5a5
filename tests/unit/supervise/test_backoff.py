"""Pauses grow to a ceiling, and trying never ends."""

from rumor.model import Instant, Seconds
from rumor.supervise.backoff import FORGIVEN_AFTER, Backoff

LONGEST = Seconds(30.0)


def fail(backoff: Backoff, now: float) -> Backoff:
    return backoff.note_failed(Instant(now), longest=LONGEST)


def pauses(count: int) -> list[float]:
    backoff, found = Backoff(), []
    for _ in range(count):
        backoff = fail(backoff, 100.0)
        assert backoff.retry_at is not None
        found.append(backoff.retry_at - 100.0)
        backoff = backoff.note_retried()
    return found


def test_pauses_double_up_to_the_longest_and_go_on_for_ever() -> None:
    assert pauses(8) == [1, 2, 4, 8, 16, 30, 30, 30]
    assert pauses(2000)[-1] == 30


def test_one_failure_seen_many_times_counts_once() -> None:
    once = fail(Backoff(), 100.0)
    assert fail(fail(once, 100.5), 100.9) == once


def test_it_is_due_when_its_pause_is_over() -> None:
    waiting = fail(Backoff(), 100.0)
    assert not waiting.is_due(Instant(100.9))
    assert waiting.is_due(Instant(101.0))
    assert not waiting.note_retried().is_due(Instant(200.0))
    assert not Backoff().is_due(Instant(200.0))


def test_a_long_run_makes_good_what_was_before_and_a_short_one_does_not() -> None:
    fallen = fail(fail(Backoff(), 0.0).note_retried(), 10.0).note_retried()
    short = fallen.note_running(Instant(20.0)).note_running(Instant(20.0 + FORGIVEN_AFTER - 1))
    assert fail(short, 80.0).retry_at == 80.0 + 4
    long = fallen.note_running(Instant(20.0)).note_running(Instant(20.0 + FORGIVEN_AFTER))
    assert fail(long, 80.0).retry_at == 80.0 + 1
