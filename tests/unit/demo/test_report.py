"""What the demo prints."""

from rumor.demo.report import StepReport, as_json, step_line, summary
from rumor.demo.verdict import Count


def test_the_json_object_has_its_promised_shape() -> None:
    step = StepReport("app_killed", 0.0, 1.0, effect_ms=42)
    value = as_json([(step, Count(10, (), ()))], Count(12, (), ()), ok=True)
    assert value == {
        "ok": True,
        "steps": [
            {"name": "app_killed", "effect_ms": 42, "sent": 10, "failed": 0, "unsaveable": 0, "problems": []},
        ],
        "sent": 12,
        "failed": 0,
        "unsaveable": 0,
    }


def test_a_start_that_fails_is_told_in_the_object() -> None:
    value = as_json([], Count(0, (), ()), ok=False, error="not ready")
    assert (value["ok"], value["error"], value["steps"]) == (False, "not ready", [])


def test_a_condition_that_did_not_hold_stands_below_its_step() -> None:
    step = StepReport("node_frozen", 0.0, 1.0, effect_ms=2500, problems=["too slow"])
    assert "NOT AS IT SHOULD BE: too slow" in step_line(step, Count(1, (), ()))


def test_a_bad_end_says_so() -> None:
    assert summary(Count(1, (), ()), 1, 5.0, ok=False).startswith("NOT OK: 1 requests in 5 s: 0 failed; 1 step not")
