"""`rumor why`, asked of an agent in memory: what it shows of records that are about many servers, and of templates."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from rumor.cli import operating

AT = "2026-11-23T04:15:43.120Z"


def applied(done: list[str], cause: str, kind: str = "server_ready", **more: str) -> dict[str, Any]:
    servers = " ".join(step.split()[1] for step in done)
    text = "; ".join(done[:20]) + (f"; and {len(done) - 20} more" if len(done) > 20 else "")
    facts = {"how": "runtime", "servers": servers, "cause_kind": kind} | more
    return {"at": AT, "kind": "applied", "subject": "", "text": text, "cause": cause, "facts": facts}


class Agent:
    """Answers as an agent's API does."""

    def __init__(self, *records: dict[str, Any], servers: tuple[str, ...] = (), template: str = "") -> None:
        shown: list[dict[str, Any]] = [
            {"name": name, "address": "10.0.0.1:80", "state": "ready", "weight": 100, "evidence": [], "haproxy": None}
            for name in servers
        ]
        service = {"name": "web", "set_aside": "", "routes": [], "servers": shown}
        one = {"name": template, "destination": "/etc/hosts.cluster", "written_at": AT, "error": "[x] is bad"}
        self._answers: dict[str, dict[str, Any]] = {
            "/v1/table": {"revision": "", "pinned": None, "services": [service]},
            "/v1/members": {"members": []},
            "/v1/journal": {"records": list(records)},
            "/v1/templates": {"templates": [one] if template else []},
        }

    def get(self, path: str) -> dict[str, Any]:
        return self._answers[path.partition("?")[0]]


@pytest.fixture
def why(monkeypatch: pytest.MonkeyPatch) -> Any:
    def ask(agent: Agent, *words: str) -> str:
        monkeypatch.setattr(operating, "agent_api", lambda *_: agent)
        done = CliRunner().invoke(operating.why, words, standalone_mode=False)
        assert done.exception is None, done.exception
        return done.output

    return ask


def test_a_server_beyond_the_first_twenty_finds_its_step(why: Any) -> None:
    steps = [f"ready web/n{number}" for number in range(1, 31)]
    record = applied(steps, "n1 ready: alive and ready; and 29 more", steps="; ".join(steps))
    (shown,) = json.loads(why(Agent(record, servers=("n25",)), "n25", "--format", "json"))["records"]
    assert (shown["text"], shown["cause"]) == ("ready web/n25", "")


def test_steps_that_were_cut_still_show_that_something_was_done(why: Any) -> None:
    steps = [f"ready web/n{number}" for number in range(1, 31)]
    record = applied(steps, "the agent started", "start", steps="ready web/n1; ready web/n2…")
    (shown,) = json.loads(why(Agent(record, servers=("n25",)), "n25", "--format", "json"))["records"]
    assert (shown["text"], shown["cause"]) == ("runtime, among many others", "the agent started")


def test_a_repair_shows_its_own_cause_and_only_what_concerns_the_server(why: Any) -> None:
    steps = ["enable check web/n1", "weight web/n2 100"]
    cause = "HAProxy differed though nothing new was wanted"
    facts = {"how": "runtime", "servers": "web/n1 web/n2", "cause_kind": "drift"}
    repaired = {"at": AT, "kind": "drift_repaired", "subject": "", "cause": "", "facts": facts} | {
        "text": f"{cause}: {'; '.join(steps)}"
    }
    after = {"at": AT, "kind": "applied", "subject": "", "text": "; ".join(steps), "cause": cause, "facts": facts}
    said = why(Agent(after, repaired, servers=("n1",)), "n1")
    assert f"{cause}: enable check web/n1\n" in said
    assert f"enable check web/n1: {cause}\n" in said
    assert "weight" not in said.partition("\n\n")[2]


def test_anothers_cause_is_not_shown(why: Any) -> None:
    record = applied(["delete web/n1", "ready web/n2"], "n2 ready: alive and ready")
    (shown,) = json.loads(why(Agent(record, servers=("n1",)), "n1", "--format", "json"))["records"]
    assert (shown["text"], shown["cause"]) == ("delete web/n1", "")


def test_a_templates_name_is_no_servers(why: Any) -> None:
    said = why(Agent(template="hosts"), "hosts")
    assert f"hosts is a template of this node: /etc/hosts.cluster, written {AT}" in said
    assert "[x] is bad" in said
    assert "no server" not in said
