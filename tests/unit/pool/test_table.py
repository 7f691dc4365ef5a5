"""From members and observations to the table, and from table to table to the words for what changed."""

from collections.abc import Mapping, Sequence

import pytest

from rumor.model import (
    Instant,
    Member,
    MemberStatus,
    OperatorWord,
    Rotation,
    Server,
    ServerObservation,
    Service,
    Table,
    WallTime,
)
from rumor.names import HostPort, MemberName, ServiceName
from rumor.pool.table import (
    BLIND_GRACE,
    Blindness,
    PoolSettings,
    Refused,
    build_table,
    changes,
    closed_doors,
    explain,
)

WEB, API = ServiceName("web"), ServiceName("api")
NOW, WALL = Instant(1000.0), WallTime(1_700_000_000.0)
SEEING = Blindness()
READY, DRAIN, MAINT = Rotation.READY, Rotation.DRAIN, Rotation.MAINT


def member(
    name: str, tag: str = "3000", *, host: str = "", status: MemberStatus = MemberStatus.ALIVE, by: str = ""
) -> Member:
    host = host or f"10.0.0.{name.rpartition('-')[2]}"
    return Member(MemberName(name), HostPort(host, 7946), {"service:web": tag}, status, status_by=by)


def with_tags(name: str, tags: Mapping[str, str]) -> Member:
    return Member(MemberName(name), HostPort("10.0.0.9", 7946), tags, MemberStatus.ALIVE)


def observed(
    name: str,
    rotation: Rotation = READY,
    *,
    host: str = "",
    is_up: bool | None = True,
    sessions: int = 0,
    weight: int = 100,
    has_address: bool = True,
) -> ServerObservation:
    address = HostPort(host or f"10.0.0.{name.rpartition('-')[2]}", 3000) if has_address else None
    return ServerObservation(WEB, MemberName(name), address, rotation, is_up, "L7OK", "UP", weight, sessions)


def build(
    members: Sequence[Member],
    observations: Sequence[ServerObservation] = (),
    *,
    settings: Mapping[ServiceName, PoolSettings] | None = None,
    blindness: Blindness = SEEING,
) -> tuple[Table, tuple[Refused, ...]]:
    wanted = {WEB: PoolSettings()} if settings is None else settings
    return build_table(members, wanted, observations, blindness=blindness, now=NOW)


def rotations(table: Table, service: ServiceName = WEB) -> dict[str, Rotation]:
    entry = table.service(service)
    assert entry is not None
    return {server.name: server.rotation for server in entry.servers}


def test_each_offer_of_a_known_service_is_a_server() -> None:
    both = with_tags("node-1", {"service:web": "3000;weight=7", "service:api": "4000;version=2", "role": "x"})
    table, refused = build([both], settings={WEB: PoolSettings(), API: PoolSettings()})
    assert [
        (service.name, server.name, str(server.address), server.weight, server.version)
        for service in table.services
        for server in service.servers
    ] == [("api", "node-1", "10.0.0.9:4000", 100, "2"), ("web", "node-1", "10.0.0.9:3000", 7, "")]
    assert refused == ()


def test_a_known_service_without_a_member_is_in_the_table() -> None:
    assert build([])[0] == Table((Service(WEB),))


def test_an_offer_of_an_unknown_service_is_refused_once_and_not_routed() -> None:
    table, refused = build([with_tags("node-1", {"service:shop": "3000"})])
    assert rotations(table) == {}
    assert refused == (Refused(MemberName("node-1"), "service shop is not in rumor.toml"),)


@pytest.mark.parametrize("tag", ["70000", "", "3000\n", "3000;state=gone", "3000;weight=257", "$PORT", "3000 weight 1"])
def test_a_tag_that_does_not_parse_is_refused_and_not_routed(tag: str) -> None:
    table, refused = build([member("web-1", tag), member("web-2")])
    assert rotations(table) == {"web-2": READY}
    assert [entry.member for entry in refused] == ["web-1"]


def test_members_of_a_role_are_servers_at_the_services_port() -> None:
    settings = {WEB: PoolSettings(role="backend", port=8000)}
    plain = with_tags("node-1", {"role": "backend"})
    named = Member(
        MemberName("node-2"), HostPort("10.0.0.2", 1), {"role": "backend", "service:web": "3"}, MemberStatus.ALIVE
    )
    other = with_tags("node-3", {"role": "db"})
    table, refused = build([plain, named, other], settings=settings)
    servers = table.services[0].servers
    assert [(server.name, str(server.address), server.rotation) for server in servers] == [
        ("node-1", "10.0.0.9:8000", READY),
        ("node-2", "10.0.0.2:3", READY),  # what a member says itself goes before its role
    ]
    assert refused == ()


def test_members_that_left_or_failed_are_not_in_the_table() -> None:
    gone = [member("web-1", status=MemberStatus.LEFT), member("web-2", status=MemberStatus.FAILED)]
    assert rotations(build([*gone, member("web-3")])[0]) == {"web-3": READY}


def test_a_leaving_member_drains() -> None:
    assert rotations(build([member("web-1", status=MemberStatus.LEAVING), member("web-2")])[0])["web-1"] is DRAIN


def test_of_two_members_at_one_address_the_first_by_name_wins() -> None:
    table, refused = build([member("web-2", host="10.0.0.1"), member("web-1", host="10.0.0.1")])
    assert rotations(table) == {"web-1": READY}
    assert refused == (Refused(MemberName("web-2"), "web-1 already offers web at 10.0.0.1:3000"),)


def test_a_failed_member_does_not_keep_its_address_from_its_successor() -> None:
    old = member("web-1", host="10.0.0.1", status=MemberStatus.FAILED)
    table, refused = build([old, member("web-9", host="10.0.0.1")], [observed("web-1")])
    assert rotations(table) == {"web-9": READY}
    assert refused == ()


def test_two_services_may_share_an_address() -> None:
    tags = {"service:web": "3000", "service:api": "3000"}
    table, refused = build([with_tags("node-1", tags)], settings={WEB: PoolSettings(), API: PoolSettings()})
    assert rotations(table, WEB) == rotations(table, API) == {"node-1": READY}
    assert refused == ()


def test_what_haproxy_says_of_another_address_is_no_evidence() -> None:
    # web-1 came back elsewhere: HAProxy still checks the old place, and finds it down.
    old = observed("web-1", host="10.9.9.9", is_up=False)
    suspect = member("web-1", status=MemberStatus.SUSPECT)
    assert rotations(build([suspect, member("web-2")], [old])[0])["web-1"] is DRAIN


def test_the_floor_of_the_service_is_held() -> None:
    members = [member("web-1", status=MemberStatus.SUSPECT), member("web-2"), member("web-3")]
    assert rotations(build(members, settings={WEB: PoolSettings(floor=3)})[0])["web-1"] is READY


def test_a_blind_balancer_keeps_what_runs_as_it_is() -> None:
    running = [
        observed("web-1", weight=70),
        observed("web-2", DRAIN, is_up=False),
        observed("web-3", MAINT, is_up=None),
        observed("web-4", has_address=False),
    ]
    table, _ = build([], running, blindness=Blindness(NOW))
    servers = table.services[0].servers
    assert [(server.name, server.rotation, server.weight) for server in servers] == [
        ("web-1", READY, 70), ("web-2", DRAIN, 100), ("web-3", MAINT, 100),
    ]  # fmt: skip
    assert [entry.source for entry in servers[0].evidence] == ["haproxy", "blind"]


def test_a_balancer_that_sees_nobody_removes_what_runs() -> None:
    assert rotations(build([], [observed("web-1")])[0]) == {}


def test_a_blind_balancer_adds_whom_it_hears_of() -> None:
    table, _ = build([member("web-2"), member("web-1", "3000;state=draining")], [observed("web-1"), observed("web-3")],
                     blindness=Blindness(NOW))  # fmt: skip
    assert rotations(table) == {"web-1": DRAIN, "web-2": READY, "web-3": READY}


def test_a_blind_balancer_keeps_nothing_of_a_service_it_does_not_serve() -> None:
    assert build([], [observed("web-1")], settings={API: PoolSettings()}, blindness=Blindness(NOW))[0] == Table(
        (Service(API),)
    )


def test_after_the_grace_a_blind_balancer_drops_those_that_haproxy_finds_down() -> None:
    running = [observed("web-1"), observed("web-2", is_up=False), observed("web-3", is_up=None)]
    late, early = Blindness(Instant(NOW - BLIND_GRACE)), Blindness(Instant(NOW - BLIND_GRACE + 0.001))
    assert sorted(rotations(build([], running, blindness=early)[0])) == ["web-1", "web-2", "web-3"]
    assert sorted(rotations(build([], running, blindness=late)[0])) == ["web-1", "web-3"]


def test_equal_input_in_any_order_gives_equal_tables() -> None:
    members = [member("web-1"), member("web-2"), member("web-3", "3000;state=down")]
    running = [observed("web-1"), observed("web-2")]
    assert build(members, running) == build(members[::-1], running[::-1])


# --- what changed, and why


def server(name: str = "web-1", rotation: Rotation = READY, weight: int = 100, host: str = "10.0.0.1") -> Server:
    return Server(MemberName(name), HostPort(host, 3000), weight, rotation)


def table_of(*servers: Server) -> Table:
    return Table((Service(WEB, servers),))


def test_newer_evidence_alone_is_no_change() -> None:
    members = [member("web-1"), member("web-2")]
    before, after = build(members)[0], build(members, [observed("web-1"), observed("web-2")])[0]
    assert before != after
    assert changes(before, after) == ()


@pytest.mark.parametrize(
    ("before", "after", "word", "done"),
    [
        (None, server(), "ready", "ready"),
        (None, server(rotation=DRAIN), "drain", "drained"),
        (server(), server(rotation=DRAIN), "drain", "drained"),
        (server(rotation=DRAIN), server(rotation=MAINT), "maint", "in maintenance"),
        (server(), server(weight=7), "ready", "weighted 7"),
        (server(), server(host="10.0.0.2"), "ready", "moved to 10.0.0.2:3000"),
        (server(), None, "removed", "removed"),
    ],
)
def test_a_change_is_named(before: Server | None, after: Server | None, word: str, done: str) -> None:
    old, new = (table_of(*(() if entry is None else (entry,))) for entry in (before, after))
    (change,) = changes(old, new)
    assert (change.service, change.server, change.before, change.after) == (WEB, "web-1", before, after)
    assert (change.word, change.done) == (word, done)


def sentence(before: Sequence[Member], after: Sequence[Member], running: Sequence[ServerObservation] = ()) -> str:
    return explain(changes(build(before)[0], build(after, running)[0], after), at=WALL).text


def test_the_cause_names_what_changed_and_why() -> None:
    both = [member("web-1"), member("web-2")]
    suspect = member("web-1", status=MemberStatus.SUSPECT, by="node-2")
    failed = member("web-1", status=MemberStatus.FAILED, by="node-2")
    assert sentence([member("web-2")], both) == "web-1 ready: alive and ready"
    assert sentence(both, [suspect, both[1]]) == "web-1 drained: suspect, accused by node-2"
    assert sentence(both, [failed, both[1]]) == "web-1 removed: failed, accused by node-2"
    assert sentence(both, [both[1]]) == "web-1 removed: its member is gone"
    assert sentence(both, [member("web-1", status=MemberStatus.LEFT), both[1]]) == "web-1 removed: left"
    assert sentence(both, [member("web-1", "3000;state=draining"), both[1]]) == "web-1 drained: its app is draining"
    assert sentence(both, [with_tags("web-1", {}), both[1]]) == "web-1 removed: its member does not offer it any more"
    assert sentence(both, [suspect, both[1]], [observed("web-1", DRAIN, is_up=False)]) == (
        "web-1 in maintenance: suspect, accused by node-2, and HAProxy finds it UP L7OK"
    )


def test_an_operators_weight_is_no_cause_for_anything_but_a_weight() -> None:
    def words(
        weight: int | None = None, *, drains: bool = False
    ) -> Mapping[tuple[ServiceName, MemberName], OperatorWord]:
        return {(WEB, MemberName("web-1")): OperatorWord(drains, weight, "ann", WALL, "bob", WALL)}

    def become(before: Table, after: Table) -> str:
        return explain(changes(before, after), at=WALL).text

    def tabled(one: Member, said: Mapping[tuple[ServiceName, MemberName], OperatorWord]) -> Table:
        return build_table([one], {WEB: PoolSettings()}, (), blindness=SEEING, now=NOW, words=said)[0]

    well, ill = member("web-1"), member("web-1", "3000;state=down")
    assert become(tabled(ill, words(7)), tabled(well, words(7))) == "web-1 ready: alive and ready"
    assert become(Table(), tabled(well, words(7))) == "web-1 ready: alive and ready"
    assert become(tabled(well, words()), tabled(well, words(7))) == "web-1 weighted 7: operator: weight 7"
    assert become(tabled(well, words(drains=True)), tabled(well, words(0, drains=True))) == (
        "web-1 weighted 0: operator: weight 0"
    )
    assert become(tabled(well, words(7)), tabled(well, words())) == "web-1 weighted 100: its node says so"
    assert become(tabled(well, words(7)), tabled(well, words(7, drains=True))) == "web-1 drained: operator: drain"


def test_a_server_that_becomes_a_backup_is_not_weighted() -> None:
    plain, backup = member("web-1"), member("web-1", "3000;backup=1")
    assert sentence([plain], [backup]).startswith("web-1 made a backup: ")
    assert sentence([backup], [plain]).startswith("web-1 no backup any more: ")


def test_a_cause_of_many_changes_is_cut_short() -> None:
    many = [member(f"web-{number}") for number in range(1, 9)]
    cause = explain(changes(Table(), build(many)[0]), at=WALL)
    assert cause.text.count("alive and ready") == 5
    assert cause.text.endswith("; and 3 more")
    assert (cause.kind, cause.subject, cause.at) == ("server_ready", "web-1", WALL)


def test_no_change_at_all_is_the_start() -> None:
    assert explain((), at=WALL).kind == "start"


# --- what a balancer acknowledges


@pytest.mark.parametrize(
    ("seen", "is_closed"),
    [
        (observed("web-1", MAINT), True),
        (observed("web-1", DRAIN), False),
        (observed("web-1", READY), False),
        (None, True),
    ],
)
def test_a_door_is_closed_where_sticky_clients_find_no_way_in_either(
    seen: ServerObservation | None, is_closed: bool
) -> None:
    draining = member("web-1", "3000;state=draining")
    assert closed_doors([draining], [seen] if seen else []) == (((WEB, "web-1"),) if is_closed else ())


@pytest.mark.parametrize("tag", ["3000", "3000;state=down", "3000;state=starting"])
def test_only_drains_are_acknowledged(tag: str) -> None:
    assert closed_doors([member("web-1", tag)], [observed("web-1", MAINT)]) == ()


@pytest.mark.parametrize("status", [MemberStatus.LEFT, MemberStatus.FAILED])
def test_nobody_who_is_gone_is_told(status: MemberStatus) -> None:
    assert closed_doors([member("web-1", "3000;state=draining", status=status)], []) == ()
