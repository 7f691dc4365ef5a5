"""Decide when a node that drains may leave, and what balancers tell it meanwhile.

A draining node waits until every balancer has said, for each of its services, that no session of it is left, and at
most its drain time. The word travels as a user message of gossip straight to the node; it is repeated until the node
has left, so a lost packet costs one repetition. Pure: the caller passes `now` and the members.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from rumor.errors import PeerError
from rumor.model import Instant, Member, MemberStatus
from rumor.names import MemberName, ServiceName, parse_member_name, parse_service_name

BALANCER_TAG = "balancer"
"""The tag by which an agent says that it steers a HAProxy; its value is the first port that HAProxy serves."""
RUMOR_TAG = "rumor"
"""The tag that tells rumor agents from plain Serf agents; its value is rumor's version."""

# No message of Serf begins with this byte, so a Serf agent that meets it counts an unknown type and goes on.
_DRAINED = b"\xe0drained "
_MESSAGE_LIMIT = 160
_PRESENT = frozenset({MemberStatus.ALIVE, MemberStatus.SUSPECT, MemberStatus.LEAVING})


@dataclass(frozen=True, slots=True)
class Drained:
    """A balancer's word that a member's server holds no session any more."""

    service: ServiceName
    member: MemberName


def format_drained(word: Drained) -> bytes:
    return _DRAINED + f"{word.service} {word.member}".encode("ascii")


def parse_drained(payload: bytes) -> Drained:
    """Parse a balancer's word.

    Raises:
        PeerError: another kind of message, too long, or names that do not parse.
    """
    if not payload.startswith(_DRAINED) or len(payload) > _MESSAGE_LIMIT:
        raise PeerError("a user message of unknown kind")
    try:
        service, member = payload.removeprefix(_DRAINED).decode("ascii").split(" ")
    except ValueError as error:
        raise PeerError("a word about a drain that names no service and member") from error
    return Drained(parse_service_name(service), parse_member_name(member))


@dataclass(frozen=True, slots=True)
class Drain:
    """A drain under way: which balancers still have to speak, and until when the node waits for them."""

    member: MemberName
    deadline: Instant
    awaited: frozenset[tuple[MemberName, ServiceName]]
    others: frozenset[MemberName]
    has_balancers: bool

    @classmethod
    def start(
        cls, member: MemberName, services: Iterable[ServiceName], members: Iterable[Member], deadline: Instant
    ) -> "Drain":
        """Begin to wait for each balancer that is alive now, for each service."""
        offered = tuple(services)
        others = [other for other in members if other.name != member and other.status in _PRESENT]
        balancers = [other.name for other in others if BALANCER_TAG in other.tags]
        return cls(
            member,
            deadline,
            frozenset((balancer, service) for balancer in balancers for service in offered),
            frozenset(other.name for other in others),
            has_balancers=bool(balancers),
        )

    def hear(self, balancer: MemberName, word: Drained) -> "Drain":
        """Take one balancer's word; a word about another member changes nothing."""
        if word.member != self.member:
            return self
        return replace(self, awaited=self.awaited - {(balancer, word.service)})

    def forget_left(self, members: Iterable[Member]) -> "Drain":
        """Note who has left. A balancer's word is waited for all the same: its HAProxy may well go on without it."""
        left = {member.name for member in members if member.status is MemberStatus.LEFT}
        balancers = {balancer for balancer, _ in self.awaited}
        return replace(self, others=self.others - (left - balancers))

    def is_done(self, now: Instant) -> bool:
        """Say whether the node may leave.

        A node that sees other members but no balancer among them waits its whole drain time: somebody it cannot see
        may be sending it requests. A node that is alone has nobody to wait for.
        """
        if now >= self.deadline or not self.others:
            return True
        return self.has_balancers and not self.awaited
