"""Event handlers get what serf's get, run in order, and never hurt the agent."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rumor.agent.handlers import OUTPUT_LIMIT, Ended, HandlerRunner, environment, parse_handler, standard_input
from rumor.errors import ConfigError
from rumor.model import Instant, Seconds
from rumor.names import HostPort
from rumor.serf.events import Change, QueryHeard, SerfMember, UserEventHeard
from rumor.serf.messages import Status
from rumor.serf.stream import MembersEvent, StreamEvent
from rumor.serf.tags import encode_tags
from rumor.swim.membership import MemberState
from rumor.swim.messages import State

DOCUMENT = json.loads((Path(__file__).parents[2] / "vectors" / "handlers.json").read_text())
VECTORS: list[dict[str, Any]] = DOCUMENT["vectors"]
# A handler's own tags, as far as its environment tells their names back.
TAGS = {"a": {"role": "web", "dc": "east"}, "m": {"role": "web"},
        "f3": {"role": "lb", "my-tag": "x y", "9lives": "cat", "Ünï": "ö"}}  # fmt: skip


def member(name: str, host: str, tags: dict[str, str]) -> SerfMember:
    state = MemberState(name, HostPort(host, 7946), encode_tags(tags), State.ALIVE, 1, bytes(6), Instant(0.0))
    return SerfMember(state, Status.ALIVE)


def unescaped(text: str) -> str:
    return text.replace("\\t", "\t").replace("\\n", "\n")


def read_tags(column: str) -> dict[str, str]:
    tags: dict[str, str] = {}
    for word in filter(None, column.split(",")):
        key, equals, value = word.partition("=")
        if equals:
            tags[unescaped(key)] = unescaped(value)
        else:
            # A comma in a value is not escaped.
            tags[list(tags)[-1]] += f",{word}"
    return tags


def event_of(vector: dict[str, Any]) -> StreamEvent:
    """Return the event that a vector's handler was run for."""
    env, stdin = vector["env"], vector["stdin"]
    if env["SERF_EVENT"] == "user":
        return UserEventHeard(int(env["SERF_USER_LTIME"]), env["SERF_USER_EVENT"], stdin.encode(), True)
    if env["SERF_EVENT"] == "query":
        name, ltime = env["SERF_QUERY_NAME"], int(env["SERF_QUERY_LTIME"])
        return QueryHeard(1, ltime, name, stdin.removesuffix("\n").encode(), "x", Instant(0.0))
    rows = [line.split("\t") for line in stdin.splitlines()]
    members = tuple(member(unescaped(name), host, read_tags(tags)) for name, host, _, tags in rows)
    return MembersEvent(Change(env["SERF_EVENT"]), members)


def lines(data: str) -> list[tuple[str, ...]]:
    """Return the lines of members with their tags in order: Go's maps have none."""
    return [(*line.split("\t")[:3], *sorted(line.split("\t")[3].split(","))) for line in data.splitlines()]


def test_every_handler_of_a_real_agent_would_have_got_the_same() -> None:
    assert len(VECTORS) == DOCUMENT["count"] == 38
    for vector in VECTORS:
        event, env = event_of(vector), vector["env"]
        name = env["SERF_SELF_NAME"]
        assert environment(event, name=name, tags=TAGS[name]) == env, vector["id"]
        found = standard_input(event).decode()
        if isinstance(event, MembersEvent):
            assert lines(found) == lines(vector["stdin"]), vector["id"]
        else:
            assert found == vector["stdin"], vector["id"]


@pytest.mark.parametrize(
    ("text", "kinds", "script"),
    [
        ("./run.sh", ["*"], "./run.sh"),
        ("=./run.sh", ["*"], "./run.sh"),
        ("*=echo a=b", ["*"], "echo a=b"),
        ("member-join,member-leave=run", ["member-join", "member-leave"], "run"),
        ("user:deploy=run", ["user:deploy"], "run"),
        ("query:load,user=uptime", ["query:load", "user"], "uptime"),
        ("member-suspect=run", ["member-suspect"], "run"),
    ],
)
def test_a_specification_is_read_as_serf_reads_it(text: str, kinds: list[str], script: str) -> None:
    handlers = parse_handler(text)
    assert [str(handler.filter) for handler in handlers] == kinds
    assert {handler.script for handler in handlers} == {script}


@pytest.mark.parametrize("text", ["echo a=b", "member-jion=run", "member-join, user=run"])
def test_an_unknown_kind_is_refused_in_serfs_words(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^Invalid event script: Event '.*' invoking '.*'$"):
        parse_handler(text)


class Stage:
    def __init__(self, *specifications: str, deadline: float = 10.0) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.failures: list[Ended] = []
        self.runner = HandlerRunner(
            [one for text in specifications for one in parse_handler(text)],
            name="me",
            tags=lambda: {"role": "web"},
            respond=lambda key, output: self.answers.append((key, output)),
            on_failure=lambda event, ended: self.failures.append(ended),
            deadline=Seconds(deadline),
        )


@asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[HandlerRunner]:
    task = asyncio.create_task(stage.runner.run())
    try:
        yield stage.runner
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.01)


def user(name: str, payload: bytes = b"") -> UserEventHeard:
    return UserEventHeard(1, name, payload, False)


def query(key: int = 7) -> QueryHeard:
    return QueryHeard(key, 1, "load", b"pay", "x", Instant(9e9))


async def test_events_are_handled_one_after_the_other_in_order(tmp_path: Path) -> None:
    out = tmp_path / "out"
    stage = Stage(f'user=read x; sleep 0.0$x; echo "$SERF_USER_EVENT $x" >> {out}', f"user:b=echo second >> {out}")
    async with running(stage) as runner:
        for name, payload in (("a", b"5"), ("b", b"3"), ("c", b"1")):
            runner.take(user(name, payload))
        await until(lambda: out.exists() and len(out.read_text().splitlines()) == 4)
    assert out.read_text().splitlines() == ["a 5", "b 3", "second", "c 1"]


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("echo 0.42", b"0.42\n"),
        ("echo oops >&2", b"oops\n"),
        ("cat", b"pay\n"),
        ("echo $SERF_QUERY_NAME $SERF_QUERY_LTIME", b"load 1\n"),
        ("true", None),
        ("echo partial; exit 3", None),
    ],
)
async def test_the_output_of_a_handler_that_ends_well_is_the_answer(script: str, answer: bytes | None) -> None:
    stage = Stage(f"query:load={script}", "query=echo over >&2; exit 9")
    async with running(stage) as runner:
        runner.take(query())
        await until(lambda: any(ended.status == 9 for ended in stage.failures))
    assert stage.answers == ([] if answer is None else [(7, answer)])


async def test_a_handler_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    stage = Stage(f"user=(sleep 30; touch {mark}) & echo $! > {tmp_path}/pid; wait", deadline=0.3)
    async with running(stage) as runner:
        runner.take(user("slow"))
        runner.take(user("next"))
        await until(lambda: len(stage.failures) == 2)
    assert [ended.status for ended in stage.failures] == [None, None]
    pid = int((tmp_path / "pid").read_text())
    await until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


async def test_a_handler_that_does_not_read_and_writes_much_does_no_harm() -> None:
    stage = Stage("query:load=head -c 300000 /dev/zero | tr '\\0' x")
    async with running(stage) as runner:
        runner.take(QueryHeard(1, 1, "load", b"y" * 200_000, "x", Instant(9e9)))
        await until(lambda: bool(stage.answers))
    assert stage.answers == [(1, b"x" * OUTPUT_LIMIT)]


async def test_a_program_that_is_not_there_is_a_failure_and_no_more() -> None:
    stage = Stage("user=/no/such/program")
    async with running(stage) as runner:
        runner.take(user("a"))
        await until(lambda: bool(stage.failures))
    assert stage.failures[0].status == 127
    assert b"not found" in stage.failures[0].output


async def test_a_storm_of_events_does_not_fill_the_memory() -> None:
    stage = Stage("user=true")
    for number in range(5000):
        stage.runner.take(user(str(number)))
    assert len(stage.runner._waiting) == 1024
