"""Servers that flap are held back; what makes all of them flap is not theirs."""

from dataclasses import replace

from rumor.model import Instant, Member, MemberStatus, Rotation, Server, Service, Table
from rumor.names import HostPort, MemberName, ServiceName
from rumor.pool.damping import Standings, damp, watch

WEB = ServiceName("web")


def member(name: str, status: MemberStatus = MemberStatus.ALIVE, offer: str = "3000") -> Member:
    return Member(MemberName(name), HostPort("10.0.0.1", 7946), {"service:web": offer}, status)


def table(*names: str) -> Table:
    address = HostPort("10.0.0.1", 3000)
    return Table((Service(WEB, tuple(Server(MemberName(name), address, 100, Rotation.READY) for name in names)),))


def flap(times: int, *, every: float = 2.0, name: str = "one", lost: Member | None = None) -> tuple[Standings, float]:
    standings: Standings = {}
    now = 0.0
    for _ in range(times):
        for seen in (member(name), lost or member(name, MemberStatus.SUSPECT), member(name)):
            standings = watch(standings, [seen], Instant(now))
            now += every / 3
    return standings, now


def held(standings: Standings, now: float, *names: str, floor: int = 0) -> list[str]:
    found = damp(table(*names), standings, {WEB: floor}, Instant(now))
    return [server.name for server in found.services[0].servers if server.rotation is Rotation.DRAIN]


def test_one_loss_or_four_are_no_flapping_and_five_are() -> None:
    for times, wanted in ((1, []), (4, []), (6, ["one"])):
        standings, now = flap(times)
        assert held(standings, now, "one", "two", "three") == wanted, times


def test_slow_losses_are_forgotten_before_they_add_up() -> None:
    standings, now = flap(20, every=120.0)
    assert held(standings, now, "one", "two", "three") == []


def test_an_app_that_keeps_crashing_flaps_too() -> None:
    standings, now = flap(6, lost=member("one", offer="3000;state=down"))
    assert held(standings, now, "one", "two") == ["one"]


def test_draining_and_leaving_are_no_flapping() -> None:
    for lost in (member("one", offer="3000;state=draining"), member("one", MemberStatus.LEAVING)):
        standings, now = flap(10, lost=lost)
        assert standings == {}
        assert held(standings, now, "one", "two") == []


def test_who_is_steady_again_is_let_in_and_says_how_long_that_takes() -> None:
    standings, now = flap(6)
    says = damp(table("one", "two"), standings, {}, Instant(now)).services[0].servers[0].evidence[-1]
    assert says.source == "damping"
    assert "steady for some 60 s" in says.says
    standings = watch(standings, [member("one")], Instant(now + 20))
    assert held(standings, now + 20, "one", "two") == ["one"]
    standings = watch(standings, [member("one")], Instant(now + 70))
    assert held(standings, now + 70, "one", "two") == []


def test_at_most_half_are_held_back_and_never_below_the_floor() -> None:
    standings, now = flap(6)
    one = next(iter(standings.values()))
    everybody = {(WEB, MemberName(name)): replace(one) for name in ("a", "b", "c", "d")}
    assert held(everybody, now, "a", "b", "c", "d") == ["a", "b"]
    assert held(everybody, now, "a", "b", "c", "d", floor=3) == ["a"]
    assert held(everybody, now, "a") == []


def test_one_that_has_left_is_forgotten() -> None:
    standings, now = flap(6)
    assert watch(standings, [member("one", MemberStatus.LEFT)], Instant(now)) == {}
