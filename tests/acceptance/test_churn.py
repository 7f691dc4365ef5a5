"""Changes under load of every kind: what is planned costs no request. The long run is bench/churn.py."""

import pytest
from bench.churn import CRASHES, PLANNED, measure


@pytest.mark.counts
@pytest.mark.timeout(120)
async def test_planned_changes_cost_no_request_of_any_kind() -> None:
    found = await measure("rumor", changes=24, rate=60.0, seed=5, pause=0.4, without=frozenset(CRASHES))
    assert (found["failed"], found["unsaveable"]) == (0, {}), found
    assert set(found["changes"]) == set(PLANNED)
    assert found["sent"] > 500


@pytest.mark.timeout(120)
async def test_the_count_sees_what_undrained_nodes_cost() -> None:
    only_leave = frozenset({*PLANNED, *CRASHES} - {"leave", "join"})
    found = await measure(
        "rumor", changes=8, rate=60.0, seed=5, pause=0.3, without=only_leave, is_hasty=True, rates={"tunnel": 4.0}
    )
    assert found["failed"] > 0
