"""`rumor simulate` tells the truth about a cluster, and the same truth each time."""

from dataclasses import replace

import pytest

from rumor.model import Seconds
from rumor.swim.scenario import CRASH_AT, Partition, ScenarioSettings, run_scenario

SMALL = ScenarioSettings(nodes=30, fail=3, profile="local", duration=Seconds(40.0))


def test_the_same_seed_gives_the_same_result_and_another_another() -> None:
    first = run_scenario(SMALL)
    assert run_scenario(SMALL) == first
    assert run_scenario(replace(SMALL, seed=2)) != first


def test_a_crash_is_known_to_everybody_and_nothing_false_is() -> None:
    result = run_scenario(SMALL)
    assert result.missed == 0
    assert (result.false_suspicions, result.false_failures) == (0, 0)
    assert result.detection.median is not None
    assert result.dissemination.last is not None
    assert 2 < result.detection.median <= result.dissemination.last < 30
    assert 2 < result.packets < 20


def test_who_is_unaware_at_the_end_is_counted() -> None:
    result = run_scenario(replace(SMALL, duration=Seconds(CRASH_AT + 1)))
    assert result.missed == 3 * 27
    assert result.detection.median is None


def test_without_a_crash_nothing_is_measured() -> None:
    result = run_scenario(replace(SMALL, fail=0))
    assert (result.detection.median, result.missed, result.healed_after) == (None, 0, None)


def test_a_partition_heals_and_is_not_counted_as_a_mistake() -> None:
    partition = Partition(0.3, Seconds(12.0), Seconds(40.0))
    result = run_scenario(replace(SMALL, fail=0, partition=partition, duration=Seconds(110.0)))
    assert result.healed_after is not None
    assert result.false_failures == 0
    short = run_scenario(replace(SMALL, fail=0, partition=partition, duration=Seconds(41.0)))
    assert short.healed_after is None


def test_progress_is_told_to_the_end() -> None:
    told: list[float] = []
    run_scenario(replace(SMALL, duration=Seconds(12.0)), lambda done, total: told.append(done / total))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
