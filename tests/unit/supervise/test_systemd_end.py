"""How often a unit's program has fallen, and how long it waits; what is written is in tests/integration."""

import pytest

from rumor.model import Seconds
from rumor.supervise.systemd_end import failures_of, pause_after
from rumor.supervise.systemd_words import Unit


@pytest.mark.parametrize(("restarts", "ran", "failures"), [(0, 0.1, 1), (3, 59.9, 4), (3, 60.0, 1), (500, 1.0, 16)])
def test_a_minute_of_running_makes_good_what_was_before(restarts: int, ran: float, failures: int) -> None:
    unit = Unit(
        "rumor-web-app.service", "loaded", "deactivating", "stop-post", "signal", "always", None, restarts, None,
        Seconds(ran),
    )  # fmt: skip
    assert failures_of(unit) == failures


@pytest.mark.parametrize(
    ("failures", "longest", "pause"), [(1, 30.0, 1.0), (2, 30.0, 2.0), (5, 30.0, 16.0), (16, 30.0, 30.0), (9, 0.0, 1.0)]
)
def test_pauses_double_up_to_the_longest(failures: int, longest: float, pause: float) -> None:
    assert pause_after(failures, Seconds(longest)) == pause
