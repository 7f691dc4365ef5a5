"""Quick first, patient in a storm."""

from rumor.agent.debounce import PATIENT, QUICK, QUIET, Debounce
from rumor.model import Instant


def test_the_first_change_waits_no_longer_than_it_must() -> None:
    assert Debounce().pause(Instant(0.0)) == QUICK


def test_a_storm_is_gathered_ever_longer_up_to_a_ceiling() -> None:
    debounce = Debounce()
    pauses = [debounce.pause(Instant(number * 0.1)) for number in range(30)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == PATIENT


def test_after_a_quiet_while_the_next_change_is_quick_again() -> None:
    debounce = Debounce()
    for number in range(30):
        debounce.pause(Instant(number * 0.1))
    assert debounce.pause(Instant(2.9 + QUIET)) == QUICK
