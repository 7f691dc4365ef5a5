"""What to do next, from one look at what runs; the order of several looks is the property test's business."""

from dataclasses import replace

import pytest

from rumor.haproxy.config_text import read_config
from rumor.haproxy.plan import Memory, Plan, plan
from rumor.haproxy.replies import Frontend
from rumor.haproxy.steps import (
    AddServer,
    DrainServer,
    EnableCheck,
    EnableFrontend,
    LimitFrontend,
    LimitServer,
    MaintServer,
    MoveServer,
    ProbeServer,
    ReadyServer,
    RemoveServer,
    RequeueServer,
    WeightServer,
)
from rumor.model import Cause, Instant, Revision, Rotation, Seconds, Server, ServerObservation, Service, Table
from rumor.names import HostPort, MemberName, ServiceName

WEB, ONE, TWO = ServiceName("web"), MemberName("one"), MemberName("two")
KEY = WEB, ONE
HERE, THERE = HostPort("10.0.0.1", 80), HostPort("10.0.0.2", 80)
READY, DRAIN, MAINT = Rotation.READY, Rotation.DRAIN, Rotation.MAINT
BASE = "global\nbackend web\n"
ADD_TWO = AddServer((WEB, TWO), THERE, 100, "check")
PROBE_TWO = ProbeServer((WEB, TWO), THERE, ReadyServer((WEB, TWO)))


def server(name: MemberName = ONE, address: HostPort = HERE, weight: int = 100, rotation: Rotation = READY) -> Server:
    return Server(name, address, weight, rotation)


def revision(*servers: Server, keywords: str = "check", base: str = BASE) -> Revision:
    lines = [f"    server {it.name} {it.address} weight {it.weight} {keywords}\n" for it in servers]
    return Revision("1" * 64, base + "".join(lines), Table((Service(WEB, servers),)), Cause("test", "a test"))


def running(
    name: MemberName = ONE,
    address: HostPort = HERE,
    rotation: Rotation = READY,
    *,
    is_up: bool | None = True,
    status: str = "UP",
    weight: int = 100,
    sessions: int = 0,
) -> ServerObservation:
    return ServerObservation(WEB, name, address, rotation, is_up, "L7OK", status, weight, sessions)


def planned(
    wanted: Revision,
    *present: ServerObservation,
    before: Revision | None = None,
    memory: Memory | None = None,
    now: float = 100.0,
) -> Plan:
    was = read_config((before or wanted).text)
    drains = {WEB: Seconds(5.0)}
    return plan(wanted, read_config(wanted.text), present, was, memory or Memory(), drains, Instant(now))


def test_what_agrees_needs_nothing() -> None:
    assert planned(revision(server()), running()) == Plan()


def test_a_new_server_is_added_before_an_old_one_is_drained() -> None:
    three = running(MemberName("three"), HostPort("10.0.0.3", 80))
    found = planned(
        revision(server(TWO, THERE), server(MemberName("three"), HostPort("10.0.0.3", 80))), running(), three
    )
    assert found.steps == (ADD_TWO, DrainServer(KEY), PROBE_TWO)


def test_the_last_one_stays_until_its_successor_is_well_but_not_for_ever() -> None:
    memory, wanted = Memory(), revision(server(TWO, THERE))
    added = planned(wanted, running(), memory=memory)
    assert added.steps == (ADD_TWO, PROBE_TWO)
    unproved = running(TWO, THERE, DRAIN, is_up=None, status="DRAIN")
    waits = planned(wanted, running(), unproved, memory=memory, now=101.0)
    assert waits.steps == (ProbeServer((WEB, TWO), THERE, ReadyServer((WEB, TWO))),)
    assert waits.wake_in is not None
    well = running(TWO, THERE)
    assert planned(wanted, running(), well, memory=memory, now=102.0).steps == (DrainServer(KEY),)
    assert memory.holds == {}
    planned(wanted, running(), memory=memory, now=110.0)
    assert DrainServer(KEY) in planned(wanted, running(), unproved, memory=memory, now=115.0).steps


def test_one_that_is_down_is_not_kept_for_anybody() -> None:
    dead = running(is_up=False, status="DOWN")
    assert DrainServer(KEY) in planned(revision(server(TWO, THERE)), dead).steps


def test_the_drain_of_one_that_was_kept_begins_when_it_may_go() -> None:
    memory, wanted = Memory(), revision(server(TWO, THERE))
    planned(wanted, running(), memory=memory, now=100.0)
    well, busy = running(TWO, THERE), running(rotation=DRAIN, status="DRAIN", sessions=1)
    planned(wanted, running(), well, memory=memory, now=104.0)
    assert planned(wanted, busy, well, memory=memory, now=108.0).steps == ()
    assert planned(wanted, busy, well, memory=memory, now=109.0).steps == (RemoveServer(KEY, cuts_sessions=True),)


def test_before_a_reload_that_would_leave_nobody_the_new_ones_are_brought_in() -> None:
    memory = Memory()
    old, new = revision(server()), revision(server(TWO, THERE), base=BASE.replace("web", "web\n    balance first"))
    first = planned(new, running(), before=old, memory=memory)
    assert (first.steps, first.precedes_reload) == ((ADD_TWO, PROBE_TWO), True)
    unproved = running(TWO, THERE, DRAIN, is_up=None, status="DRAIN")
    second = planned(new, running(), unproved, before=old, memory=memory)
    assert second.steps == (ProbeServer((WEB, TWO), THERE, ReadyServer((WEB, TWO))),)
    third = planned(new, running(), running(TWO, THERE), before=old, memory=memory)
    assert third == Plan(reload_reason="more than servers differ")
    # One that cannot be added, or is not well in time, does not hold the reload up for ever.
    memory = Memory(refused={ADD_TWO: "no"})
    assert planned(new, running(), before=old, memory=memory).reload_reason
    late = Memory()
    planned(new, running(), unproved, before=old, memory=late, now=100.0)
    assert planned(new, running(), unproved, before=old, memory=late, now=105.0).reload_reason


def test_a_server_that_must_go_is_drained_then_waited_for_then_deleted() -> None:
    memory = Memory()
    nobody = revision()
    assert planned(nobody, running(), memory=memory).steps == (DrainServer(KEY),)
    busy = running(rotation=DRAIN, status="DRAIN", sessions=2)
    waits = planned(nobody, busy, memory=memory)
    assert waits.steps == ()
    assert waits.wake_in == pytest.approx(0.1)
    idle = replace(busy, sessions=0)
    assert planned(nobody, idle, memory=memory).steps == (RemoveServer(KEY, cuts_sessions=False),)


def test_sessions_are_cut_when_the_drain_time_is_over_and_not_before() -> None:
    memory = Memory()
    busy = running(rotation=DRAIN, status="DRAIN", sessions=2)
    assert planned(revision(), busy, memory=memory, now=100.0).steps == ()
    assert planned(revision(), busy, memory=memory, now=104.9).steps == ()
    assert planned(revision(), busy, memory=memory, now=105.0).steps == (RemoveServer(KEY, cuts_sessions=True),)


def test_a_server_that_comes_back_has_its_whole_drain_time_again() -> None:
    memory = Memory()
    busy = running(rotation=DRAIN, status="DRAIN", sessions=2)
    planned(revision(), busy, memory=memory, now=100.0)
    planned(revision(server()), busy, memory=memory, now=102.0)
    assert planned(revision(), busy, memory=memory, now=106.0).steps == ()


# --- readiness


def test_a_drained_server_is_ready_by_haproxys_check() -> None:
    assert planned(revision(server()), running(rotation=DRAIN, status="DRAIN")).steps == (ReadyServer(KEY),)


def test_where_haproxy_has_not_checked_yet_we_ask_ourselves() -> None:
    found = planned(revision(server()), running(rotation=DRAIN, is_up=None, status="DRAIN 1/3"))
    assert found.steps == (ProbeServer(KEY, HERE, ReadyServer(KEY)),)
    assert found.wake_in is not None


def test_a_check_from_before_maintenance_proves_nothing() -> None:
    memory = Memory()
    assert planned(revision(server()), running(rotation=MAINT, is_up=None), memory=memory).steps == (
        DrainServer(KEY, enables_check=True),
    )
    back = running(rotation=DRAIN, status="DRAIN")
    assert planned(revision(server()), back, memory=memory, now=101.0).steps == (
        ProbeServer(KEY, HERE, ReadyServer(KEY)),
    )
    planned(revision(server()), back, memory=memory, now=106.0)
    assert planned(revision(server()), back, memory=memory, now=106.1).steps == (ReadyServer(KEY),)


@pytest.mark.parametrize(
    ("wanted", "is_now", "step"),
    [
        (DRAIN, READY, DrainServer(KEY)),
        (MAINT, READY, MaintServer(KEY)),
        (MAINT, DRAIN, MaintServer(KEY)),
        (DRAIN, MAINT, DrainServer(KEY, enables_check=True)),
    ],
)
def test_each_place_is_reached_from_each(wanted: Rotation, is_now: Rotation, step: object) -> None:
    assert planned(revision(server(rotation=wanted)), running(rotation=is_now)).steps == (step,)


def test_weight_and_check_are_set_right() -> None:
    found = planned(revision(server(weight=7)), running(is_up=None, status="no check"))
    assert found.steps == (EnableCheck(KEY), WeightServer(KEY, 7))


# --- moves


def test_a_server_moves_once_its_new_address_is_well() -> None:
    memory = Memory()
    moved = revision(server(address=THERE))
    found = planned(moved, running(), memory=memory)
    assert found.steps == (ProbeServer(KEY, THERE, MoveServer(KEY, THERE)),)
    # Nobody is well there: when its time is over it may not stay where it was, either.
    assert planned(moved, running(), memory=memory, now=105.0).steps == (DrainServer(KEY),)


def test_a_drained_server_moves_at_once_and_must_prove_itself_again() -> None:
    memory = Memory()
    moved = revision(server(address=THERE))
    drained = running(rotation=DRAIN, status="DRAIN")
    assert planned(moved, drained, memory=memory).steps == (MoveServer(KEY, THERE),)
    arrived = replace(drained, address=THERE)
    assert planned(moved, arrived, memory=memory).steps == (ProbeServer(KEY, THERE, ReadyServer(KEY)),)


# --- reloads


def test_what_more_than_servers_changes_needs_a_reload() -> None:
    found = planned(revision(server(), base="global\nbackend web\n    balance first\n"), running(), before=revision())
    assert (found.steps, found.reload_reason) == ((), "more than servers differ")


def test_changed_settings_of_a_server_need_a_reload() -> None:
    found = planned(revision(server(), keywords="check inter 9s"), running(), before=revision(server()))
    assert found.reload_reason == "the settings of server web/one differ"


def test_an_unknown_revision_needs_a_reload() -> None:
    wanted = revision(server())
    found = plan(wanted, read_config(wanted.text), (running(),), None, Memory(), {}, Instant(1.0))
    assert found.reload_reason == "what runs is unknown"


def test_who_does_not_listen_as_the_text_says_is_made_to_listen() -> None:
    wanted = revision(server(), base="global\nfrontend a\nfrontend off\n    disabled\nlisten b\nbackend web\n")
    config = read_config(wanted.text)
    assert config.frontends.keys() == {"a", "b"}

    def steps(**status: str) -> tuple[object, ...]:
        frontends = {name: Frontend(words, 100) for name, words in status.items()}
        return plan(
            wanted, config, (running(),), config, Memory(), {}, Instant(1.0), frontends=frontends
        ).steps  # fmt: skip

    assert steps(a="OPEN", b="FULL", by_hand="STOP") == ()
    assert steps(a="PAUSED", b="OPEN") == (EnableFrontend("a"),)
    assert steps(a="STOP") == (EnableFrontend("a"), EnableFrontend("b"))


def test_a_frontend_is_limited_as_the_text_says_where_that_can_be_known() -> None:
    base = """global
    maxconn 700
frontend everybody
defaults
    maxconn 60
frontend a
frontend b
    maxconn 5
frontend other from somewhere
listen odd
    maxconn 5 6
defaults
listen c
backend web
"""
    wanted = revision(server(), base=base)
    config = read_config(wanted.text)
    assert config.frontends == {"everybody": 700, "a": 60, "b": 5, "other": None, "odd": None, "c": 700}
    found = {name: Frontend("OPEN", 60) for name in config.frontends}
    todo = plan(wanted, config, (running(),), config, Memory(), {}, Instant(1.0), frontends=found)
    assert todo.steps == (LimitFrontend("b", 5), LimitFrontend("c", 700), LimitFrontend("everybody", 700))


@pytest.mark.parametrize(
    ("keywords", "limit", "steps"),
    [
        ("check", 0, ()),
        ("check", 1, (LimitServer(KEY, 0),)),
        ("check maxconn 30", 30, ()),
        ("check maxconn 30", 1, (LimitServer(KEY, 30),)),
        ("check maxconn 7k", 7000, ()),
        ("check minconn 3", 3, ()),
    ],
)
def test_a_server_has_the_limit_of_its_line(keywords: str, limit: int, steps: tuple[object, ...]) -> None:
    assert planned(revision(server(), keywords=keywords), replace(running(), limit=limit)).steps == steps


def test_what_haproxy_would_not_do_at_run_time_is_reloaded() -> None:
    memory = Memory(refused={AddServer(KEY, HERE, 100, "check"): "not accepted for dynamic server"})
    assert "not accepted for dynamic server" in planned(revision(server()), memory=memory).reload_reason
    assert planned(revision(server()), running(), memory=memory).reload_reason == "", "it is there by now"


def test_what_a_reload_did_not_bring_either_causes_no_other_and_holds_nothing_else_up() -> None:
    wanted = revision(server(), server(TWO, THERE, weight=33))
    unchecked, two = running(status="no check"), running(TWO, THERE)
    memory = Memory(refused={EnableCheck(KEY): "not configured", WeightServer((WEB, TWO), 33): "static"})
    assert planned(wanted, unchecked, two, memory=memory).reload_reason.endswith("web/one at run time: not configured")
    memory.note_reload(is_new_base=False)
    # The weight has come by the reload; the check has not.
    found = planned(revision(server(), server(TWO, THERE, 40)), unchecked, replace(two, weight=33), memory=memory)
    assert found == Plan((WeightServer((WEB, TWO), 40),), unable=((EnableCheck(KEY), "not configured"),))
    # The same weight as then, much later, is a new wish.
    assert planned(wanted, unchecked, replace(two, weight=40), memory=memory).steps == (WeightServer((WEB, TWO), 33),)
    # Another configuration may be better.
    memory.note_reload(is_new_base=True)
    assert planned(wanted, unchecked, two, memory=memory).unable == ()


def test_where_a_reload_is_impossible_the_refused_waits_and_all_else_goes_on() -> None:
    wanted = revision(server(weight=33), server(TWO, THERE))
    memory = Memory(refused={WeightServer(KEY, 33): "static"})
    found = plan(
        wanted, read_config(wanted.text), (running(),), read_config(wanted.text), memory, {}, Instant(1.0),
        can_reload=False,
    )  # fmt: skip
    assert found.steps == (ADD_TWO, PROBE_TWO)
    assert found.unable == ((WeightServer(KEY, 33), "static"),)
    assert not found.reload_reason


def test_servers_that_are_not_ours_are_left_alone() -> None:
    wanted = revision(server(), base=BASE + "    server two by-hand.example:80 check\n")
    assert planned(wanted, running(), running(TWO, THERE)).steps == ()


@pytest.mark.parametrize(
    ("balance", "keywords", "steps"),
    [
        ("leastconn", "check", (RequeueServer(KEY, 100),)),
        ("roundrobin", "check", ()),
        ("leastconn", "check backup", ()),
    ],
)
def test_one_that_haproxy_passes_over_is_put_in_order(balance: str, keywords: str, steps: tuple[object, ...]) -> None:
    memory = Memory()
    wanted = revision(server(), server(TWO, THERE), keywords=keywords, base=f"{BASE}balance {balance}\n")
    for now, begun in ((100.0, 0), (103.0, 1000)):
        busy = replace(running(TWO, THERE, sessions=1), sessions_total=begun)
        found = planned(wanted, running(), busy, memory=memory, now=now)
    assert found.steps == steps
