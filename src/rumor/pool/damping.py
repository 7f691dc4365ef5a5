"""Damp servers that flap: one that keeps leaving and returning stays out until it has been steady for a while.

Each loss of a server's good standing costs a penalty that halves with time. Above one mark the server is held back,
below a lower one it is let in again. Only suspicion and checks count: what a node or a person asks for is no flapping.
Pure: the caller passes the time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rumor.model import AppState, Evidence, Instant, Member, MemberStatus, Rotation, Seconds, Server, Table
from rumor.names import MemberName, ServiceName
from rumor.offers import read_offers

HALF_LIFE = Seconds(30.0)
HELD_ABOVE = 4.5
"""Five losses in quick succession."""
FREE_BELOW = 1.5
_FORGOTTEN_BELOW = 0.05

_Key = tuple[ServiceName, MemberName]
_BAD = frozenset({MemberStatus.SUSPECT, MemberStatus.FAILED})


@dataclass(frozen=True, slots=True)
class Standing:
    """What is remembered of one server."""

    penalty: float
    at: Instant
    is_well: bool
    is_held: bool = False

    def penalty_now(self, now: Instant) -> float:
        return float(self.penalty * 0.5 ** ((now - self.at) / HALF_LIFE))

    def time_to_freedom(self, now: Instant) -> Seconds:
        """Return how long a server that is held must be steady yet."""
        seconds, penalty = 0.0, self.penalty_now(now)
        while penalty > FREE_BELOW:
            penalty, seconds = penalty / 2, seconds + HALF_LIFE
        return Seconds(seconds)


Standings = Mapping[_Key, Standing]


def watch(standings: Standings, members: Sequence[Member], now: Instant) -> Standings:
    """Return the standings after a look at the members; one that is steady is forgotten in time."""
    found: dict[_Key, Standing] = {}
    for member in members:
        if member.status is MemberStatus.LEFT:
            continue
        for offer in read_offers(member.tags)[0]:
            key = (offer.service, member.name)
            is_well = member.status not in _BAD and offer.state is not AppState.DOWN
            old = standings.get(key)
            if old is None:
                if not is_well:
                    found[key] = Standing(1.0, now, is_well)
                continue
            penalty = old.penalty_now(now) + (1.0 if old.is_well and not is_well else 0.0)
            is_held = penalty > (FREE_BELOW if old.is_held else HELD_ABOVE)
            if penalty > _FORGOTTEN_BELOW or not is_well:
                found[key] = Standing(penalty, now, is_well, is_held)
    # Whoever is well and not remembered costs nothing; the first loss is counted when it is seen.
    return found


def damp(table: Table, standings: Standings, floors: Mapping[ServiceName, int], now: Instant) -> Table:
    """Return the table with flapping servers drained, as long as enough others stay in rotation.

    Half of a service's servers may be held back at most, and never below its floor: what makes all of them flap is
    the network, or the balancer itself.
    """
    services = []
    for service in table.services:
        ready = sum(server.rotation is Rotation.READY for server in service.servers)
        may_go = ready - max(floors.get(service.name, 0), (ready + 1) // 2)
        servers: list[Server] = []
        for server in service.servers:
            standing = standings.get((service.name, server.name))
            if standing is not None and standing.is_held and server.rotation is Rotation.READY and may_go > 0:
                may_go -= 1
                wait = standing.time_to_freedom(now)
                says = f"left and returned too often: held back until it is steady for some {wait:.0f} s"
                evidence = (*server.evidence, Evidence("damping", says))
                servers.append(replace(server, rotation=Rotation.DRAIN, evidence=evidence))
            else:
                servers.append(server)
        services.append(replace(service, servers=tuple(servers)))
    return replace(table, services=tuple(services))
