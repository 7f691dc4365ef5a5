"""What speaks for and against a server, one rule a test."""

import pytest

from rumor.model import AppState, Member, MemberStatus, Offer, OperatorWord, Rotation, Server, ServerObservation
from rumor.names import HostPort, MemberName, ServiceName
from rumor.pool.evidence import Candidate, weigh

WEB = ServiceName("web")
READY, DRAIN, MAINT = Rotation.READY, Rotation.DRAIN, Rotation.MAINT
ALIVE, SUSPECT, LEAVING, FAILED = (
    MemberStatus.ALIVE,
    MemberStatus.SUSPECT,
    MemberStatus.LEAVING,
    MemberStatus.FAILED,
)


def observed(
    name: str = "web-1", rotation: Rotation = READY, *, is_up: bool | None = True, sessions: int = 0
) -> ServerObservation:
    status = "MAINT" if rotation is MAINT else "DOWN" if is_up is False else "DRAIN" if rotation is DRAIN else "UP"
    check = {True: "L7OK", False: "L7TOUT", None: ""}[is_up]
    return ServerObservation(
        service=WEB,
        server=MemberName(name),
        address=HostPort("10.0.0.1", 3000),
        rotation=rotation,
        is_up=None if rotation is MAINT else is_up,
        check=check,
        status=status,
        weight=100,
        sessions=sessions,
    )


def candidate(
    name: str = "web-1",
    status: MemberStatus = ALIVE,
    app: AppState = AppState.READY,
    seen: ServerObservation | None = None,
    word: OperatorWord | None = None,
) -> Candidate:
    address = HostPort("10.0.0.1", 3000)
    accuser = "node-2" if status in (SUSPECT, FAILED) else ""
    member = Member(MemberName(name), HostPort("10.0.0.1", 7946), {}, status, status_by=accuser)
    return Candidate(member, Offer(WEB, 3000, app, 50, "1.4"), address, seen, word)


def good(*names: str) -> list[Candidate]:
    return [candidate(name, seen=observed(name)) for name in names]


def rotations(candidates: list[Candidate], floor: int = 0) -> dict[str, Rotation]:
    return {server.name: server.rotation for server in weigh(candidates, floor=floor)}


def sources(server: Server) -> list[str]:
    return [entry.source for entry in server.evidence]


def test_a_server_is_what_its_member_offers() -> None:
    (server,) = weigh([candidate()], floor=0)
    assert (server.name, server.address, server.weight, server.version) == (
        "web-1", HostPort("10.0.0.1", 3000), 50, "1.4",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("app", "wanted"),
    [(AppState.STARTING, DRAIN), (AppState.READY, READY), (AppState.DRAINING, DRAIN), (AppState.DOWN, DRAIN)],
)
def test_the_nodes_word_for_its_app_decides_over_a_new_server(app: AppState, wanted: Rotation) -> None:
    assert rotations([candidate(app=app), *good("web-2")])["web-1"] is wanted


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (observed(rotation=READY), DRAIN),
        (observed(rotation=DRAIN, sessions=1), DRAIN),
        (observed(rotation=DRAIN, sessions=0), MAINT),
        (observed(rotation=MAINT, sessions=0), MAINT),
        (observed(rotation=MAINT, sessions=1), MAINT),
        (None, DRAIN),
    ],
)
def test_a_draining_server_is_shut_off_once_its_last_session_has_ended(
    seen: ServerObservation | None, wanted: Rotation
) -> None:
    for entry in (candidate(app=AppState.DRAINING, seen=seen), candidate(status=LEAVING, seen=seen)):
        assert rotations([entry, *good("web-2", "web-3")])["web-1"] is wanted


def test_a_starting_or_down_server_is_not_shut_off_when_it_is_idle() -> None:
    for app in (AppState.STARTING, AppState.DOWN):
        entry = candidate(app=app, seen=observed(rotation=DRAIN, is_up=False))
        assert rotations([entry, *good("web-2")])["web-1"] is DRAIN


def test_a_suspect_server_drains_before_it_is_removed() -> None:
    assert rotations([candidate(status=SUSPECT, seen=observed()), *good("web-2", "web-3")]) == {
        "web-1": DRAIN, "web-2": READY, "web-3": READY,
    }  # fmt: skip


@pytest.mark.parametrize("app", list(AppState))
def test_a_suspect_whose_check_fails_too_is_shut_off(app: AppState) -> None:
    entry = candidate(status=SUSPECT, app=app, seen=observed(rotation=DRAIN, is_up=False, sessions=3))
    assert rotations([entry, *good("web-2", "web-3")])["web-1"] is MAINT


def test_a_suspect_in_maintenance_stays_there_until_it_refutes() -> None:
    entry = candidate(status=SUSPECT, seen=observed(rotation=MAINT))
    assert rotations([entry, *good("web-2")])["web-1"] is MAINT
    refuted = candidate(status=ALIVE, seen=observed(rotation=MAINT))
    assert rotations([refuted, *good("web-2")])["web-1"] is READY


def test_a_refuted_suspect_is_ready_again() -> None:
    assert rotations([candidate(seen=observed(rotation=DRAIN)), *good("web-2")])["web-1"] is READY


def test_haproxys_failing_check_alone_changes_nothing_here() -> None:
    # HAProxy sends nothing to a server it holds down; its checks bring the server back sooner than we could.
    assert rotations([candidate(seen=observed(is_up=False)), *good("web-2")])["web-1"] is READY


def test_a_failed_member_has_no_server() -> None:
    assert rotations([candidate(status=FAILED, seen=observed(is_up=False)), *good("web-2", "web-3")]) == {
        "web-2": READY, "web-3": READY,
    }  # fmt: skip


def test_one_failed_member_of_three_goes_even_if_its_server_answers() -> None:
    assert "web-1" not in rotations([candidate(status=FAILED, seen=observed()), *good("web-2", "web-3")])


def test_panic_ignores_suspicion_of_more_than_half() -> None:
    suspects = [candidate(name, SUSPECT, seen=observed(name)) for name in ("web-1", "web-2")]
    servers = weigh([*suspects, *good("web-3")], floor=0)
    assert {server.rotation for server in servers} == {READY}
    assert [sources(server) for server in servers] == [
        ["gossip", "app", "haproxy", "panic"],
        ["gossip", "app", "haproxy", "panic"],
        ["gossip", "app", "haproxy"],
    ]


def test_exactly_half_suspect_is_no_panic() -> None:
    assert rotations([candidate(status=SUSPECT, seen=observed()), *good("web-2")]) == {"web-1": DRAIN, "web-2": READY}


def test_servers_that_haproxy_holds_down_do_not_count_against_panic() -> None:
    entries = [
        candidate("web-1", SUSPECT, seen=observed("web-1")),
        candidate("web-2", seen=observed("web-2", is_up=False)),
        candidate("web-3", seen=observed("web-3", is_up=False)),
    ]
    assert rotations(entries)["web-1"] is READY


def test_the_only_server_is_not_drained_by_suspicion() -> None:
    assert rotations([candidate(status=SUSPECT)]) == {"web-1": READY}


def test_panic_keeps_failed_members_whose_servers_haproxy_finds_up() -> None:
    # The balancer itself was cut off: all the others "failed", and still answer.
    failed = [candidate(name, FAILED, seen=observed(name)) for name in ("web-1", "web-2", "web-3")]
    assert rotations(failed) == {"web-1": READY, "web-2": READY, "web-3": READY}


def test_failed_members_whose_checks_fail_are_no_ground_for_panic() -> None:
    failed = [candidate(name, FAILED, seen=observed(name, is_up=False)) for name in ("web-1", "web-2")]
    assert rotations([*failed, candidate("web-3", FAILED), *good("web-4")]) == {"web-4": READY}


@pytest.mark.parametrize("seen", [None, observed(is_up=None), observed(rotation=MAINT)])
def test_failed_members_whose_servers_nobody_found_up_are_no_ground_for_panic(seen: ServerObservation | None) -> None:
    failed = [candidate(name, FAILED, seen=seen) for name in ("web-1", "web-2", "web-3")]
    assert rotations([*failed, *good("web-4")]) == {"web-4": READY}
    assert rotations(failed) == {}


def test_suspects_whose_checks_fail_are_no_ground_for_panic() -> None:
    suspects = [candidate(name, SUSPECT, seen=observed(name, is_up=False)) for name in ("web-1", "web-2")]
    assert rotations([*suspects, *good("web-3")]) == {"web-1": MAINT, "web-2": MAINT, "web-3": READY}


def test_panic_restores_no_server_that_its_own_node_keeps_out() -> None:
    down = candidate("web-3", SUSPECT, AppState.DOWN, observed("web-3"))
    draining = candidate("web-4", SUSPECT, AppState.DRAINING, observed("web-4", sessions=1))
    suspects = [candidate(name, SUSPECT, seen=observed(name)) for name in ("web-1", "web-2")]
    assert rotations([*suspects, down, draining]) == {"web-1": READY, "web-2": READY, "web-3": DRAIN, "web-4": DRAIN}


def test_the_floor_holds_back_suspicion() -> None:
    entries = [candidate(status=SUSPECT, seen=observed()), *good("web-2", "web-3")]
    servers = weigh(entries, floor=3)
    assert {server.rotation for server in servers} == {READY}
    assert sources(servers[0])[-1] == "floor"
    assert rotations(entries, floor=2)["web-1"] is DRAIN


def test_the_floor_holds_back_the_nodes_own_check() -> None:
    entries = [candidate(app=AppState.DOWN, seen=observed(is_up=False)), *good("web-2")]
    assert rotations(entries, floor=2) == {"web-1": READY, "web-2": READY}
    assert rotations(entries, floor=1) == {"web-1": DRAIN, "web-2": READY}


def test_the_floor_restores_the_least_accused_first() -> None:
    entries = [
        candidate("web-1", SUSPECT, seen=observed("web-1", DRAIN, is_up=False)),
        candidate("web-2", app=AppState.DOWN, seen=observed("web-2")),
        candidate("web-3", SUSPECT, seen=observed("web-3")),
        *good("web-4"),
    ]
    assert rotations(entries, floor=2) == {"web-1": MAINT, "web-2": DRAIN, "web-3": READY, "web-4": READY}
    assert rotations(entries, floor=3) == {"web-1": MAINT, "web-2": READY, "web-3": READY, "web-4": READY}


@pytest.mark.parametrize(
    "entry",
    [
        candidate(app=AppState.DRAINING, seen=observed(sessions=1)),
        candidate(status=LEAVING, seen=observed(sessions=1)),
        candidate(app=AppState.STARTING, seen=observed(rotation=DRAIN)),
    ],
)
def test_the_floor_never_limits_a_leave_a_drain_or_a_start(entry: Candidate) -> None:
    assert rotations([entry, *good("web-2")], floor=2) == {"web-1": DRAIN, "web-2": READY}


def test_the_floor_keeps_a_failed_member_only_if_haproxy_finds_its_server_up() -> None:
    up, down = candidate(status=FAILED, seen=observed()), candidate(status=FAILED, seen=observed(is_up=False))
    assert rotations([up, *good("web-2", "web-3")], floor=3)["web-1"] is READY
    assert "web-1" not in rotations([down, *good("web-2", "web-3")], floor=3)


def test_evidence_names_every_fact() -> None:
    server = weigh([candidate(status=SUSPECT, seen=observed(is_up=False)), *good("web-2")], floor=0)[0]
    assert [(entry.source, entry.says, entry.by) for entry in server.evidence] == [
        ("gossip", "suspect", "node-2"),
        ("app", "ready", "web-1"),
        ("haproxy", "DOWN L7TOUT", ""),
    ]


def test_servers_come_in_order_of_their_names() -> None:
    assert [server.name for server in weigh(good("web-2", "web-10", "web-1"), floor=0)] == ["web-1", "web-10", "web-2"]


# --- an operator's word


DRAINED = OperatorWord(drains=True, by="ann")


def test_an_operator_drains_a_server_that_is_well_and_shuts_the_door_behind_the_last_session() -> None:
    assert rotations([candidate(seen=observed(sessions=1), word=DRAINED)]) == {"web-1": DRAIN}
    assert rotations([candidate(seen=observed(rotation=DRAIN, sessions=1), word=DRAINED)]) == {"web-1": DRAIN}
    assert rotations([candidate(seen=observed(rotation=DRAIN), word=DRAINED)]) == {"web-1": MAINT}
    assert rotations([candidate(seen=observed(rotation=MAINT), word=DRAINED)]) == {"web-1": MAINT}


@pytest.mark.parametrize("status", [ALIVE, SUSPECT])
def test_neither_floor_nor_panic_holds_back_an_operators_drain(status: MemberStatus) -> None:
    (server,) = weigh([candidate(status=status, seen=observed(), word=DRAINED)], floor=3)
    assert server.rotation is DRAIN
    assert sources(server)[-1] == "operator"


def test_an_operators_weight_stands_for_the_nodes() -> None:
    (server,) = weigh([candidate(seen=observed(), word=OperatorWord(weight=7, weight_by="ann"))], floor=0)
    assert (server.rotation, server.weight) == (READY, 7)
    assert (server.evidence[-1].says, server.evidence[-1].by) == ("weight 7", "ann")
