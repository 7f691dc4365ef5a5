"""What holds for every pool, whatever its members, its observations and their order."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from rumor.model import (
    AppState,
    Instant,
    Member,
    MemberStatus,
    Offer,
    Rotation,
    Server,
    ServerObservation,
    Service,
    Table,
)
from rumor.names import HostPort, MemberName, ServiceName
from rumor.offers import format_offer
from rumor.pool.evidence import Candidate, weigh
from rumor.pool.table import BLIND_GRACE, Blindness, PoolSettings, build_table, changes

WEB = ServiceName("web")
NAMES = [MemberName(f"web-{number}") for number in range(1, 8)]
HELD_BACK = {AppState.STARTING, AppState.DRAINING}


def address_of(name: MemberName) -> HostPort:
    return HostPort(f"10.0.0.{name.removeprefix('web-')}", 3000)


@st.composite
def observations(draw: st.DrawFn, name: MemberName) -> ServerObservation:
    rotation = draw(st.sampled_from(Rotation))
    is_up = None if rotation is Rotation.MAINT else draw(st.sampled_from([True, False, None]))
    sessions = draw(st.integers(0, 2))
    return ServerObservation(WEB, name, address_of(name), rotation, is_up, "", "UP", 100, sessions)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    entries = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        member = Member(name, HostPort(address_of(name).host, 7946), {}, draw(st.sampled_from(MemberStatus)))
        if member.status is MemberStatus.LEFT:
            continue
        offer = Offer(WEB, 3000, draw(st.sampled_from(AppState)), draw(st.integers(0, 256)))
        seen = draw(st.none() | observations(name))
        entries.append(Candidate(member, offer, address_of(name), seen))
    return entries


def could_serve(entry: Candidate) -> bool:
    """Nobody but gossip speaks against it."""
    return (
        entry.offer.state is AppState.READY
        and not entry.is_shut_off
        and entry.member.status in (MemberStatus.ALIVE, MemberStatus.SUSPECT)
    )


def ready(servers: tuple[Server, ...]) -> set[MemberName]:
    return {server.name for server in servers if server.rotation is Rotation.READY}


@settings(deadline=None)  # a busy machine is no failure
@given(candidates(), st.randoms())
def test_the_order_of_the_members_does_not_matter(entries: list[Candidate], random: Random) -> None:
    shuffled = entries.copy()
    random.shuffle(shuffled)
    assert weigh(entries, floor=2) == weigh(shuffled, floor=2)


@settings(deadline=None)  # a busy machine is no failure
@given(candidates())
def test_suspicion_alone_never_takes_more_than_half(entries: list[Candidate]) -> None:
    able = {entry.member.name for entry in entries if could_serve(entry)}
    assert 2 * len(ready(weigh(entries, floor=0)) & able) >= len(able)


@settings(deadline=None)  # a busy machine is no failure
@given(candidates(), st.integers(0, 8))
def test_a_node_that_wants_out_gets_out(entries: list[Candidate], floor: int) -> None:
    out = {entry.member.name for entry in entries if entry.offer.state in HELD_BACK or entry.is_leaving}
    assert not ready(weigh(entries, floor=floor)) & out


@settings(deadline=None)  # a busy machine is no failure
@given(candidates(), st.integers(0, 8))
def test_a_ready_server_of_a_member_in_good_standing_is_in_rotation(entries: list[Candidate], floor: int) -> None:
    good = {
        entry.member.name
        for entry in entries
        if entry.member.status is MemberStatus.ALIVE and entry.offer.state is AppState.READY
    }
    assert good <= ready(weigh(entries, floor=floor))


@settings(deadline=None)  # a busy machine is no failure
@given(candidates(), st.integers(0, 8))
def test_a_failed_members_server_is_there_only_for_a_reason_that_is_named(entries: list[Candidate], floor: int) -> None:
    status = {entry.member.name: entry.member.status for entry in entries}
    for server in weigh(entries, floor=floor):
        if status[server.name] is MemberStatus.FAILED:
            assert {entry.source for entry in server.evidence} & {"panic", "floor"}


@settings(deadline=None)  # a busy machine is no failure
@given(candidates(), st.integers(0, 8))
def test_the_floor_only_adds_and_adds_no_more_than_it_must(entries: list[Candidate], floor: int) -> None:
    without, within = weigh(entries, floor=0), weigh(entries, floor=floor)
    assert ready(without) <= ready(within)
    assert len(ready(within)) <= max(floor, len(ready(without)))
    accused = {
        entry.member.name
        for entry in entries
        if not entry.is_leaving
        and entry.offer.state is not AppState.STARTING
        and entry.member.status is not MemberStatus.FAILED
    }
    assert len(ready(within)) >= min(floor, len(accused))


def members_of(entries: list[Candidate]) -> list[Member]:
    return [
        Member(entry.member.name, entry.member.address, dict([format_offer(entry.offer)]), entry.member.status)
        for entry in entries
    ]


@settings(deadline=None)  # a busy machine is no failure
@given(candidates(), st.lists(st.sampled_from(NAMES), unique=True).flatmap(
    lambda names: st.tuples(*(observations(name) for name in names))
))  # fmt: skip
def test_blindness_removes_nothing(entries: list[Candidate], running: tuple[ServerObservation, ...]) -> None:
    members = [member for member in members_of(entries) if member.status is not MemberStatus.FAILED]
    table, _ = build_table(
        members, {WEB: PoolSettings()}, running, blindness=Blindness(Instant(0.0)), now=Instant(BLIND_GRACE - 1)
    )
    assert {entry.server for entry in running} <= {server.name for server in table.services[0].servers}


@settings(deadline=None)  # a busy machine is no failure
@given(candidates(), candidates())
def test_changes_lead_from_one_table_to_the_other(old: list[Candidate], new: list[Candidate]) -> None:
    before, after = (Table((Service(WEB, weigh(entries, floor=0)),)) for entries in (old, new))
    servers = {server.name: server for server in before.services[0].servers}
    for change in changes(before, after):
        assert servers.get(change.server) == change.before
        if change.after is None:
            del servers[change.server]
        else:
            servers[change.server] = change.after
    reached = Table((Service(WEB, tuple(servers[name] for name in sorted(servers))),))
    assert changes(reached, after) == ()
    assert changes(after, after) == ()
