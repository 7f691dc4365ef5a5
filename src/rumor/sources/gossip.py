"""Members by gossip: Serf's records, parsed into strict types or refused."""

from collections.abc import Iterable
from types import MappingProxyType

from rumor.errors import PeerError
from rumor.model import Instant, Member, MemberStatus, WallTime
from rumor.names import parse_member_name
from rumor.serf.events import SerfMember
from rumor.serf.messages import Status
from rumor.serf.tags import decode_tags
from rumor.sources.base import Refusal, Snapshot
from rumor.swim.messages import State

_STATUS = {
    Status.NONE: MemberStatus.FAILED,
    Status.ALIVE: MemberStatus.ALIVE,
    Status.LEAVING: MemberStatus.LEAVING,
    Status.LEFT: MemberStatus.LEFT,
    Status.FAILED: MemberStatus.FAILED,
}

_PRINTED_LIMIT = 64


def build(records: Iterable[SerfMember], *, is_blind: bool, now: Instant, wall: WallTime) -> Snapshot:
    """Return what gossip knows, in order of the names.

    Args:
        records: Serf's view of all members, this node included.
        is_blind: whether the node has not yet exchanged its picture with anybody it should find.
        now: the core's clock now.
        wall: the same moment in calendar time, to date each member's status.
    """
    members: list[Member] = []
    refusals: list[Refusal] = []
    for record in records:
        state = record.state
        try:
            members.append(
                Member(
                    name=parse_member_name(state.name),
                    address=state.address,
                    tags=MappingProxyType(decode_tags(state.meta)),
                    status=status_of(record),
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


def status_of(record: SerfMember) -> MemberStatus:
    """Return a member's status; a doubt about one that is alive shows as such."""
    if record.status is Status.ALIVE and record.state.state is State.SUSPECT:
        return MemberStatus.SUSPECT
    return _STATUS[record.status]


def _escaped(name: str) -> str:
    """Return a name that did not have to parse, safe to print and of bounded length."""
    return ascii(name)[1:-1][:_PRINTED_LIMIT]
