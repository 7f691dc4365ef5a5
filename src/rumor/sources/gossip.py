"""Members by gossip: the core's records, parsed into strict types or refused.

The one place that translates the wire's *dead* into Serf's *failed*.
"""

from collections.abc import Iterable
from types import MappingProxyType

from rumor.errors import PeerError
from rumor.model import Instant, Member, MemberStatus, WallTime
from rumor.names import parse_member_name
from rumor.serf.tags import decode_tags
from rumor.sources.base import Refusal, Snapshot
from rumor.swim.membership import MemberState
from rumor.swim.messages import State

_STATUS = {
    State.ALIVE: MemberStatus.ALIVE,
    State.SUSPECT: MemberStatus.SUSPECT,
    State.DEAD: MemberStatus.FAILED,
    State.LEFT: MemberStatus.LEFT,
}


_PRINTED_LIMIT = 64


def build(states: Iterable[MemberState], *, is_blind: bool, now: Instant, wall: WallTime) -> Snapshot:
    """Return what gossip knows, in order of the names.

    Args:
        states: the core's view of all members, this node included.
        is_blind: whether the node has not yet exchanged its picture with anybody it should find.
        now: the core's clock now.
        wall: the same moment in calendar time, to date each member's status.
    """
    members: list[Member] = []
    refusals: list[Refusal] = []
    for state in states:
        try:
            members.append(
                Member(
                    name=parse_member_name(state.name),
                    address=state.address,
                    tags=MappingProxyType(decode_tags(state.meta)),
                    status=_STATUS[state.state],
                    incarnation=state.incarnation,
                    status_by=_escaped(state.accuser),
                    status_since=WallTime(wall - (now - state.changed_at)),
                    vsn=state.versions,
                )
            )
        except PeerError as error:
            refusals.append(Refusal(_escaped(state.name), str(error)))
    members.sort(key=lambda member: member.name)
    return Snapshot("gossip", tuple(members), is_blind, tuple(refusals))


def _escaped(name: str) -> str:
    """Return a name that did not have to parse, safe to print and of bounded length."""
    return ascii(name)[1:-1][:_PRINTED_LIMIT]
