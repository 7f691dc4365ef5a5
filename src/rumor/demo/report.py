"""What `rumor demo` prints: a line for each step as it ends, a summary, or one JSON object."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rumor.demo.verdict import Count

TITLES = {
    "nodes_join": "two nodes join",
    "node_leaves": "one leaves cleanly",
    "app_killed": "an app is killed with -9",
    "agent_killed": "an agent is killed with -9",
    "node_frozen": "a node's app and agent freeze",
    "node_resumed": "the frozen node resumes",
    "balancer_agent_killed": "the balancer's agent is killed with -9",
    "rolling_restart": "rolling restart of all web nodes",
    "broken_template": "a broken template is refused",
}
"""Every step by its fixed name, in the order of the story."""


@dataclass(slots=True)
class StepReport:
    """One step of the story."""

    name: str
    begin: float
    end: float = 0.0
    effect_ms: int | None = None
    problems: list[str] = field(default_factory=list)
    """Conditions of the step that did not hold."""
    remarks: list[str] = field(default_factory=list)


def step_line(step: StepReport, count: Count) -> str:
    effect = f"{step.effect_ms:,} ms" if step.effect_ms is not None else "-"
    line = (
        f"  {TITLES[step.name]:<40} effect {effect:>10}   sent {count.sent:>6,}   "
        f"failed {len(count.failed)}   unsaveable {len(count.unsaveable)}"
    )
    notes = [f"      {remark}" for remark in step.remarks]
    notes += [f"      NOT AS IT SHOULD BE: {problem}" for problem in step.problems]
    notes += [
        f"      failed: {result.method} {result.id[:8]} to {result.server or 'nobody'}, status {result.status}, "
        f"after {result.took * 1000:.0f} ms: {result.error or 'refused'}"
        for result in count.failed[:5]
    ]
    notes += [
        f"      unsaveable: POST {result.id[:8]} was already running there, ended with "
        f"{result.status or result.error} after {result.took * 1000:.0f} ms"
        for result in count.unsaveable[:5]
    ]
    return "\n".join([line, *notes])


def as_json(steps: Sequence[tuple[StepReport, Count]], total: Count, *, ok: bool, error: str = "") -> dict[str, Any]:
    value: dict[str, Any] = {
        "ok": ok,
        "steps": [
            {
                "name": step.name,
                "effect_ms": step.effect_ms,
                "sent": count.sent,
                "failed": len(count.failed),
                "unsaveable": len(count.unsaveable),
                "problems": step.problems,
            }
            for step, count in steps
        ],
        "sent": total.sent,
        "failed": len(total.failed),
        "unsaveable": len(total.unsaveable),
    }
    return value | ({"error": error} if error else {})


def summary(total: Count, problems: int, seconds: float, *, ok: bool) -> str:
    words = f"{total.sent:,} requests in {seconds:.0f} s: {len(total.failed)} failed"
    if total.unsaveable:
        words += f", {len(total.unsaveable)} could not be saved by any balancer (a POST that ran where it was struck)"
    if problems:
        words += f"; {problems} step{'s' if problems != 1 else ''} not as it should be"
    return f"{'ok' if ok else 'NOT OK'}: {words}"
