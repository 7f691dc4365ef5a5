"""Which balancers share their stick tables: each says its port by a tag of its node."""

from collections.abc import Iterable

from rumor.errors import PeerError
from rumor.model import Member, MemberStatus
from rumor.names import HostPort, MemberName, parse_port

PEERS_TAG = "balancer-peers"
_LIMIT = 64


def peers_of(members: Iterable[Member], node: MemberName, own: HostPort | None) -> tuple[tuple[str, HostPort], ...]:
    """Return all balancers that share tables, this one among them, in order of their names; none if it does not.

    One that failed stays until it has left or is reaped: its return is no reason for a reload, nor is its absence.
    """
    if own is None:
        return ()
    found: dict[str, HostPort] = {node: own}
    for member in members:
        if member.status is MemberStatus.LEFT or member.name == node or PEERS_TAG not in member.tags:
            continue
        try:
            found[member.name] = HostPort(member.address.host, parse_port(member.tags[PEERS_TAG]))
        except PeerError:
            continue
        if len(found) >= _LIMIT:
            break
    return tuple(sorted(found.items()))
