"""The steps of the demo's story: do something to the cluster, wait for the effect, look whether it was as it should be.

Each sets `effect_ms` and adds a problem for every condition that did not hold; a step that cannot go on raises.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping
from functools import partial

from rumor.demo.report import StepReport
from rumor.demo.stage import Stage, Step
from rumor.errors import Refused
from rumor.model import Seconds

_EFFECT_DEADLINE = Seconds(20.0)
_JOIN_LIMIT_MS = 1000
_FREEZE_LIMIT_MS = 2000
_CONTROL_LIMIT_MS = 3000
_FROZEN_FOR = 5.0


async def nodes_join(stage: Stage, report: StepReport) -> None:
    """Two nodes start; each must get its first request within a second of its app's first good answer.

    One after the other: two that start at once on a small machine would measure each other's start, not the joining.
    """
    names, stage.standby = stage.standby[:2], stage.standby[2:]
    effects = []
    for name in names:
        port = stage.cluster.plan.node(name).port
        watch = asyncio.create_task(_first_answer(port), name=f"watch {name}")
        await stage.cluster.start_node(name)
        answered = await watch
        await stage.until(partial(_has_served, stage, name), _EFFECT_DEADLINE, f"a request reaches {name}")
        first = min(result.sent_at + result.took for result in stage.load.results if result.server == name)
        effects.append((first - answered) * 1000)
    stage.started += names
    report.effect_ms = round(max(effects))
    _limit(report, _JOIN_LIMIT_MS, "a node that joins gets its first request within")


async def node_leaves(stage: Stage, report: StepReport) -> None:
    """One node is stopped as its supervisor would: it drains, leaves, and only then does its app stop."""
    name = stage.started.pop()
    began = time.monotonic()
    stopping = asyncio.create_task(stage.stop_node(name), name=f"stop {name}")
    try:
        gone = await stage.until(lambda: stage.gone(name), _EFFECT_DEADLINE, f"{name} is out of HAProxy")
    finally:
        await stopping
    report.effect_ms = round((gone - began) * 1000)


async def app_killed(stage: Stage, report: StepReport) -> None:
    """An app dies in the middle of a POST; no request may go to it beyond the first retry."""
    name = stage.started[0]
    pid = await stage.app_pid(name)
    before = (await stage.rows())[name]
    stage.struck.add(pid)
    if not await stage.strike_in_post(pid):
        report.remarks.append("no POST was running there when it was killed")
    began = time.monotonic()

    async def is_out() -> bool:
        # A HAProxy that sends it nothing more of itself may have no cause to call it down before its app is back.
        return await stage.out_of_rotation(name) or await stage.cluster.pid(f"{name}-app") not in (None, pid)

    out = await stage.until(is_out, _EFFECT_DEADLINE, f"{name} is out of rotation")
    report.effect_ms = round((out - began) * 1000)
    errors = (await stage.rows())[name].connect_errors - before.connect_errors
    report.remarks.append(f"{errors} connection{'s were' if errors != 1 else ' was'} tried in vain")
    if errors > 2:
        report.problems.append(f"{errors} connections to the dead app were tried; one retry should have been the end")
    await stage.until(lambda: stage.in_rotation(name), _EFFECT_DEADLINE, f"{name} is back in rotation")
    begun = (await stage.rows())[name].sessions_total

    async def gets_requests() -> bool:
        return (await stage.rows())[name].sessions_total > begun

    await stage.until(gets_requests, _EFFECT_DEADLINE, f"{name} gets requests again")


async def agent_killed(stage: Stage, report: StepReport) -> None:
    """An agent dies; its app goes on, and the supervisor brings the agent back."""
    name = stage.started[0]
    pid = await stage.agent_pid(name)
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)

    async def is_back() -> bool:
        status = await stage.cluster.ask("/v1/status", name)
        return bool(status["pid"] != pid and status["ready"] and status["gossip"]["has_synced"])

    back = await stage.until(is_back, _EFFECT_DEADLINE, f"the agent of {name} is back")
    report.effect_ms = round((back - began) * 1000)
    await stage.until(lambda: _is_wanted(stage, name), _EFFECT_DEADLINE, f"{name} is wanted ready again")
    await stage.until(lambda: stage.in_rotation(name), _EFFECT_DEADLINE, f"{name} is in rotation again")


async def node_frozen(stage: Stage, report: StepReport) -> None:
    """A whole node stands still: it accepts connections and answers nothing."""
    name = stage.started[0]
    app, agent = await stage.app_pid(name), await stage.agent_pid(name)
    stage.struck.add(app)
    stage.frozen = (app, agent)
    began = time.monotonic()
    for pid in stage.frozen:
        os.kill(pid, signal.SIGSTOP)
    out = await stage.until(lambda: stage.out_of_rotation(name), _EFFECT_DEADLINE, f"{name} is out of rotation")
    report.effect_ms = round((out - began) * 1000)
    _limit(report, _FREEZE_LIMIT_MS, "a frozen node gets no new request after")
    await asyncio.sleep(max(0.0, began + _FREEZE_LIMIT_MS / 1000 - time.monotonic()))
    before = (await stage.rows()).get(name)
    await asyncio.sleep(_FROZEN_FOR - _FREEZE_LIMIT_MS / 1000)
    after = (await stage.rows()).get(name)
    if before is not None and after is not None and after.sessions_total > before.sessions_total:
        report.problems.append(f"{after.sessions_total - before.sessions_total} requests still went to the frozen node")


async def node_resumed(stage: Stage, report: StepReport) -> None:
    """The frozen node wakes, learns what was said of it, and refutes."""
    name = stage.started[0]
    if not stage.frozen:
        report.remarks.append("no node was frozen before: nothing to do")
        return
    began = time.monotonic()
    thaw(stage)
    back = await stage.until(lambda: stage.in_rotation(name), _EFFECT_DEADLINE, f"{name} is in rotation again")
    report.effect_ms = round((back - began) * 1000)
    await stage.until(lambda: _is_wanted(stage, name), _EFFECT_DEADLINE, f"{name} is wanted ready again")


async def balancer_agent_killed(stage: Stage, report: StepReport) -> None:
    """The balancer's agent dies: HAProxy must go on untouched, and be in control again soon."""
    before = await stage.cluster.ask("/v1/status")
    pids = before["haproxy"]["master_pid"], before["haproxy"]["worker_pid"]
    pid = await stage.agent_pid("balancer")
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)

    async def is_in_control() -> bool:
        status = await stage.cluster.ask("/v1/status")
        return bool(status["pid"] != pid and status["ready"] and status["haproxy"]["converged"])

    back = await stage.until(is_in_control, _EFFECT_DEADLINE, "the balancer's agent is in control again")
    report.effect_ms = round((back - began) * 1000)
    _limit(report, _CONTROL_LIMIT_MS, "the balancer's agent is in control again within")
    after = await stage.cluster.ask("/v1/status")
    if (after["haproxy"]["master_pid"], after["haproxy"]["worker_pid"]) != pids:
        report.problems.append("HAProxy did not keep its pids")


async def rolling_restart(stage: Stage, report: StepReport) -> None:
    """Every web node is restarted, one after the other."""
    began = time.monotonic()
    for name in stage.started:
        await stage.stop_node(name)
        await stage.cluster.start_node(name)
        await stage.until(partial(stage.in_rotation, name), _EFFECT_DEADLINE, f"{name} is back in rotation")
    report.effect_ms = round((time.monotonic() - began) * 1000)


async def broken_template(stage: Stage, report: StepReport) -> None:
    """A template that HAProxy would not load is offered: it is refused, and what runs stays."""
    good = stage.template.read_text(encoding="utf-8")
    before = (await stage.cluster.ask("/v1/status"))["haproxy"]
    began = time.monotonic()
    stage.template.write_text(good.replace("mode http", "mode no-such-mode"), encoding="utf-8")
    try:
        await asyncio.to_thread(stage.cluster.api().post, "/v1/reload")
        report.problems.append("the broken template was accepted")
    except Refused as error:
        report.remarks.append(f"refused: {str(error).splitlines()[0][:120]}")
        report.effect_ms = round((time.monotonic() - began) * 1000)
    finally:
        stage.template.write_text(good, encoding="utf-8")
    await asyncio.to_thread(stage.cluster.api().post, "/v1/reload")
    history = (await stage.cluster.ask("/v1/config/history?limit=20"))["revisions"]
    if not any(entry["outcome"] == "refused" and entry["words"] for entry in history):
        report.problems.append("the refusal is not in the journal")
    after = (await stage.cluster.ask("/v1/status"))["haproxy"]
    if (after["worker_pid"], after["revision"]) != (before["worker_pid"], before["revision"]):
        report.problems.append("what runs has changed")


STEPS: Mapping[str, Step] = {
    "nodes_join": nodes_join,
    "node_leaves": node_leaves,
    "app_killed": app_killed,
    "agent_killed": agent_killed,
    "node_frozen": node_frozen,
    "node_resumed": node_resumed,
    "balancer_agent_killed": balancer_agent_killed,
    "rolling_restart": rolling_restart,
    "broken_template": broken_template,
}


def thaw(stage: Stage) -> None:
    """Let frozen processes go on."""
    for pid in stage.frozen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    stage.frozen = ()


async def _first_answer(port: int) -> float:
    """Return when the app on a port gave its first good answer, as far as asking every 10 ms can tell."""
    async with asyncio.timeout(_EFFECT_DEADLINE):
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"GET /health HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")
                    if (await reader.readline()).startswith(b"HTTP/1.1 200"):
                        return time.monotonic()
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.01)


async def _has_served(stage: Stage, name: str) -> bool:
    return any(result.server == name and result.is_ok for result in stage.load.results)


async def _is_wanted(stage: Stage, name: str) -> bool:
    table = await stage.cluster.ask("/v1/table")
    return any(
        server["name"] == name and server["state"] == "ready"
        for service in table["services"]
        for server in service["servers"]
    )


def _limit(report: StepReport, limit_ms: int, promise: str) -> None:
    if report.effect_ms is not None and report.effect_ms > limit_ms:
        report.problems.append(f"{promise} {limit_ms:,} ms, and this took {report.effect_ms:,} ms")
