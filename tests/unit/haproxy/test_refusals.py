"""What HAProxy refused is not tried again soon, and ever more seldom."""

from rumor.haproxy.refusals import Refusals
from rumor.model import Instant


def test_a_refused_reload_is_tried_again_in_growing_pauses() -> None:
    refusals, now, tried = Refusals(), 100.0, list[float]()
    for _ in range(2000):
        if refusals.held("base", Instant(now)) is None:
            tried.append(now)
            refusals.add("base", "no", Instant(now))
        now += 1.0
    assert tried == [100.0, 130.0, 190.0, 310.0, 550.0, 1030.0, 1630.0]
    refusals.forget("base")
    refusals.add("base", "no", Instant(0.0))
    assert refusals.held("base", Instant(30.0)) is None, "once it was loaded, it begins anew"


def test_old_refusals_make_room_for_new_ones() -> None:
    refusals = Refusals()
    for number in range(9):
        refusals.add(f"base {number}", "no", Instant(0.0))
    assert refusals.held("base 0", Instant(1.0)) is None
    assert refusals.held("base 8", Instant(1.0)) is not None
