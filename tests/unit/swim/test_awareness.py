"""The health score stays within its bounds and stretches timeouts."""

import pytest

from rumor.model import Seconds
from rumor.swim.awareness import Awareness


def test_a_healthy_node_keeps_its_timeouts() -> None:
    assert Awareness(8).stretch(Seconds(0.5)) == 0.5


@pytest.mark.parametrize(("deltas", "score"), [([-1], 0), ([7], 7), ([8], 7), ([3, -1], 2), ([7, 7, -7], 0)])
def test_the_score_goes_from_0_to_the_limit_less_1(deltas: list[int], score: int) -> None:
    awareness = Awareness(8)
    for delta in deltas:
        awareness.apply(delta)
    assert awareness.score == score


def test_each_point_adds_the_timeout_once_more() -> None:
    awareness = Awareness(8)
    awareness.apply(7)
    assert awareness.stretch(Seconds(1.0)) == 8.0
