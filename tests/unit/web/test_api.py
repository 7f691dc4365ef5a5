"""The routes: every path's answer, and what happens to questions that have none."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from rumor.errors import ConfigError, Refused, Unreachable
from rumor.model import (
    Cause,
    Member,
    MemberStatus,
    Outcome,
    Record,
    Rotation,
    Seconds,
    Server,
    ServerObservation,
    Service,
    StoredRevision,
    Table,
    WallTime,
)
from rumor.names import HostPort, MemberName, ServiceName
from rumor.web import api
from rumor.web.api import Api, BadRequest, Request, parse_target
from rumor.web.metrics import make_renderer
from rumor.web.views import GossipStatus, HaproxyStatus, Sample, Status, TableView, TemplateView

REVISION = StoredRevision("ab" * 32, "global\n", Cause("start", "the agent started"), Outcome.APPLIED)
RECORD = Record(WallTime(1.0), "server_down", "web-1", "went down")


@dataclass
class Agent:
    """A small real agent's view: a few fixed facts."""

    shown: TableView | None = field(default_factory=lambda: TableView(Table(), "ab" * 32))
    state: Status = field(
        default_factory=lambda: Status(MemberName("web-1"), ("web",), "0.1.0", 1, WallTime(1.0), Seconds(2.0))
    )
    error: Exception | None = None
    asked: list[object] = field(default_factory=list)

    @property
    def history(self) -> "Agent":
        return self

    def members(self) -> Sequence[Member]:
        return [Member(MemberName("web-1"), HostPort("10.0.0.7", 7946), {}, MemberStatus.ALIVE)]

    def table(self) -> TableView | None:
        return self.shown

    def templates(self) -> Sequence[TemplateView]:
        return [TemplateView("hosts", "/etc/hosts.rumor", WallTime(1.0), "")]

    def status(self) -> Status:
        if self.error:
            raise self.error
        return self.state

    def samples(self) -> Sequence[Sample]:
        return [Sample("applies", "counter", "Applies by way.", 3, (("how", "reload"),))]

    async def revision(self, prefix: str) -> StoredRevision | None:
        if prefix == "a":
            raise Refused("revision a is ambiguous")
        return REVISION if REVISION.id.startswith(prefix) else None

    async def revisions(self, limit: int = 50) -> tuple[StoredRevision, ...]:
        self.asked.append(limit)
        if self.error:
            raise self.error
        return (REVISION,)

    async def records(self, *, subject: str | None = None, limit: int = 200) -> tuple[Record, ...]:
        self.asked.append((subject, limit))
        return (RECORD,)

    async def operate(self, word: str, target: str, *, weight: int | None, by: str) -> Sequence[tuple[str, str]] | None:
        self.asked.append((word, target, weight, by))
        if self.error:
            raise self.error
        return None if self.shown is None else [("web", target)]

    async def roll_back(self, prefix: str, by: str) -> str | None:
        self.asked.append(("rollback", prefix, by))
        if self.error:
            raise self.error
        return None if self.shown is None else REVISION.id

    async def release(self, by: str) -> str | None:
        self.asked.append(("release", by))
        if self.error:
            raise self.error
        return None if self.shown is None else REVISION.id

    async def reload(self) -> str:
        if self.error:
            raise self.error
        return "nothing changed"


async def ask(target: str, method: str = "GET", agent: Agent | None = None) -> tuple[int, Any]:
    response = await Api(agent or Agent()).answer(parse_target(method, target))
    assert response.content_type == "application/json"
    return response.status, json.loads(response.body)


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("/health", "status"),
        ("/ready", "ready"),
        ("/v1/members", "members"),
        ("/v1/table", "services"),
        ("/v1/status", "node"),
        ("/v1/templates", "templates"),
        ("/v1/journal", "records"),
        ("/v1/config/history", "revisions"),
        ("/v1/config/revisions/abab", "text"),
    ],
)
async def test_each_path_answers_get_and_head_with_its_object(target: str, key: str) -> None:
    assert key in (await ask(target))[1]
    assert await ask(target, "HEAD") == await ask(target)
    assert (await ask(target))[0] == 200


@pytest.mark.parametrize(
    "target",
    ["/", "", "/v2/members", "/v1/members/", "/v1/config/revisions/", "/v1/config/revisions", "/metrics/x", "*"],
)
async def test_path_that_does_not_exist_is_404(target: str) -> None:
    status, answer = await ask(target)
    assert status == 404
    assert "nothing at" in answer["error"]


@pytest.mark.parametrize(
    ("method", "target", "allow"), [("POST", "/v1/members", "GET, HEAD"), ("GET", "/v1/reload", "POST")]
)
async def test_wrong_method_is_405_and_says_which_are_right(method: str, target: str, allow: str) -> None:
    response = await Api(Agent()).answer(parse_target(method, target))
    assert response.status == 405
    assert ("Allow", allow) in response.headers


async def test_node_that_is_not_ready_is_503_with_the_reason() -> None:
    agent = Agent()
    agent.state = replace(agent.state, not_ready="draining")
    assert await ask("/ready", agent=agent) == (503, {"ready": False, "reason": "draining"})
    assert (await ask("/health", agent=agent))[0] == 200


async def test_node_without_a_haproxy_has_no_table() -> None:
    status, answer = await ask("/v1/table", agent=Agent(shown=None))
    assert status == 404
    assert "ask a balancer" in answer["error"]


async def test_limit_and_subject_reach_the_journal() -> None:
    agent = Agent()
    await ask("/v1/config/history?limit=7", agent=agent)
    await ask("/v1/journal?subject=web%2D1&limit=10000", agent=agent)
    await ask("/v1/journal?subject=", agent=agent)
    assert agent.asked == [7, ("web-1", 10_000), (None, 200)]


@pytest.mark.parametrize("limit", ["0", "10001", "-1", "ten", "", "1e3", "٣", "9" * 5000])
async def test_limit_out_of_range_is_400(limit: str) -> None:
    status, answer = await ask(f"/v1/journal?limit={limit}")
    assert status == 400
    assert "1 to 10000" in answer["error"]


async def test_unknown_revision_is_404_and_an_ambiguous_one_409() -> None:
    assert (await ask("/v1/config/revisions/ff"))[0] == 404
    assert await ask("/v1/config/revisions/a") == (409, {"error": "revision a is ambiguous"})


async def test_journal_that_cannot_be_read_is_503() -> None:
    agent = Agent(error=Unreachable("journal cannot be read: disk I/O error"))
    assert (await ask("/v1/config/history", agent=agent))[0] == 503


async def test_reload_tells_what_came_of_it() -> None:
    assert await ask("/v1/reload", "POST") == (200, {"reloaded": True, "text": "nothing changed"})
    agent = Agent(error=ConfigError("rumor.toml, line 3: unknown key"))
    assert await ask("/v1/reload", "POST", agent) == (422, {"error": "rumor.toml, line 3: unknown key"})


async def test_bug_behind_one_answer_is_500_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    status, answer = await ask("/v1/status", agent=Agent(error=RuntimeError("secret")))
    assert status == 500
    assert "secret" not in answer["error"]
    assert "request_crashed" in caplog.text


async def test_answer_that_takes_too_long_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(Agent):
        async def reload(self) -> str:
            await asyncio.Event().wait()
            return ""

    monkeypatch.setattr(api, "DEADLINE", 0.01)
    assert (await ask("/v1/reload", "POST", Stuck()))[0] == 503


async def test_metrics_are_404_with_a_reason_where_nobody_can_scrape() -> None:
    status, answer = await ask("/metrics")
    assert status == 404
    assert "/v1/status" in answer["error"]


async def test_metrics_show_members_servers_and_the_parts_own_numbers() -> None:
    web, web_1 = ServiceName("web"), MemberName("web-1")
    agent = Agent()
    agent.state = replace(
        agent.state,
        gossip=GossipStatus(2, has_synced=True, counters={"packets_in": 7}),
        haproxy=HaproxyStatus(1, 2, "2.8", "", is_converged=True, is_in_control=True),
    )
    address = HostPort("10.0.0.7", 3000)
    agent.shown = TableView(
        Table((Service(web, (Server(web_1, address, 100, Rotation.READY),)),)),
        "",
        (ServerObservation(web, web_1, address, Rotation.READY, True, "L7OK", "UP", 100, 4),),
    )
    response = await Api(agent, render_metrics=make_renderer()).answer(Request("GET", "/metrics"))
    assert response.content_type.startswith("text/plain")
    lines = response.body.decode().splitlines()
    for line in (
        'rumor_members{status="alive"} 1.0',
        'rumor_members{status="failed"} 0.0',
        'rumor_servers{service="web",state="ready"} 1.0',
        'rumor_server_sessions{server="web-1",service="web"} 4.0',
        'rumor_applies_total{how="reload"} 3.0',
        "rumor_gossip_packets_in_total 7.0",
        "rumor_gossip_health_score 2.0",
        "rumor_haproxy_converged 1.0",
        "rumor_ready 1.0",
        "# TYPE rumor_applies_total counter",
    ):
        assert line in lines
    assert any(line.startswith("process_resident_memory_bytes") for line in lines)


async def test_second_scrape_shows_new_numbers_and_not_the_old_ones_beside() -> None:
    render = make_renderer()
    _, first = render([Sample("x", "gauge", "X.", 1)])
    _, second = render([Sample("x", "gauge", "X.", 2)])
    assert b"rumor_x 1.0" in first
    assert b"rumor_x 2.0" in second
    assert b"rumor_x 1.0" not in second


def test_label_value_from_the_network_cannot_break_its_line() -> None:
    _, text = make_renderer()([Sample("x", "gauge", "X.", 1, (("name", 'a"} 7\nrumor_y 1'),))])
    assert b'rumor_x{name="a\\"} 7\\nrumor_y 1"} 1.0' in text


def test_target_is_decoded_once() -> None:
    assert parse_target("GET", "/v1/%2561?a=1&a=2&b=%26") == Request("GET", "/v1/%61", {"a": "2", "b": "&"})


def test_query_of_too_many_fields_is_refused() -> None:
    assert len(parse_target("GET", "/?" + "&".join(f"{n}=1" for n in range(16))).query) == 16
    with pytest.raises(BadRequest):
        parse_target("GET", "/?" + "&".join(f"{n}=1" for n in range(17)))


async def test_an_operators_word_is_passed_on_with_who_says_it() -> None:
    agent = Agent()
    assert await ask("/v1/operator/drain?server=web-1&by=ann", "POST", agent) == (
        200, {"word": "drain", "servers": [{"service": "web", "server": "web-1"}]},
    )  # fmt: skip
    await ask("/v1/operator/weight?server=web-1&weight=7", "POST", agent)
    await ask("/v1/operator/weight?server=web-1&weight=auto", "POST", agent)
    assert agent.asked == [
        ("drain", "web-1", None, "ann"), ("weight", "web-1", 7, ""), ("weight", "web-1", None, ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "target", ["/v1/operator/drain", "/v1/operator/weight?server=a&weight=-1", "/v1/operator/weight?server=a&weight=x"]
)
async def test_an_operators_word_that_cannot_be_understood_is_400(target: str) -> None:
    assert (await ask(target, "POST"))[0] == 400


async def test_where_no_haproxy_is_steered_an_operator_is_told_to_ask_a_balancer() -> None:
    assert (await ask("/v1/operator/drain?server=a", "POST", Agent(shown=None)))[0] == 404


@pytest.mark.parametrize(("target", "asked", "answer"), [
    ("/v1/config/rollback?to=abab&by=me", ("rollback", "abab", "me"), {"pinned": "ab" * 32}),
    ("/v1/config/rollback", ("rollback", "", ""), {"pinned": "ab" * 32}),
    ("/v1/config/release?by=me", ("release", "me"), {"released": "ab" * 32}),
])  # fmt: skip
async def test_going_back_is_passed_on(target: str, asked: object, answer: dict[str, str]) -> None:
    agent = Agent()
    assert await ask(target, "POST", agent) == (200, answer)
    assert agent.asked == [asked]
    assert (await ask(target, "POST", Agent(shown=None)))[0] == 404
    assert (await ask(target, "POST", Agent(error=Refused("no configuration is pinned"))))[0] == 409


async def test_health_tells_what_somebody_wanted_so_beside_what_is_wrong() -> None:
    agent = Agent()
    assert await ask("/health", agent=agent) == (200, {"status": "ok", "problems": [], "notices": []})
    agent.state = replace(agent.state, problems=("HAProxy does not answer",), notices=("the configuration is pinned",))
    assert (await ask("/health", agent=agent))[1] == {
        "status": "ok", "problems": ["HAProxy does not answer"], "notices": ["the configuration is pinned"],
    }  # fmt: skip


@pytest.mark.parametrize(("pinned", "value"), [(None, "0.0"), (("ab" * 32, "ann", WallTime(1.0)), "1.0")])
async def test_a_pin_is_a_metric(pinned: tuple[str, str, WallTime] | None, value: str) -> None:
    agent = Agent(shown=TableView(Table(), "ab" * 32, pinned=pinned))
    response = await Api(agent, render_metrics=make_renderer()).answer(Request("GET", "/metrics"))
    assert f"rumor_config_pinned {value}" in response.body.decode().splitlines()
