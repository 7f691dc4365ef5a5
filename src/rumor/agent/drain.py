"""Decide when a node that drains may leave, and what balancers tell it meanwhile.

A draining node asks every balancer, by a Serf query, how many sessions of its services are still open there, and waits
until all have said none, at most its drain time. A balancer keeps its answer until it can say none, or for half a
second; then the node asks again, so a lost packet costs one question. Pure: the caller passes `now` and the members.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from rumor.errors import PeerError
from rumor.model import Instant, Member, MemberStatus, Seconds
from rumor.names import MemberName, ServiceName, parse_member_name, parse_service_name

BALANCER_TAG = "balancer"
"""The tag by which an agent says that it steers a HAProxy; its value is the first port that HAProxy serves."""
RUMOR_TAG = "rumor"
"""The tag that tells rumor agents from plain Serf agents; its value is rumor's version."""

DRAIN_QUERY = "_rumor_drain"
"""The name of the query; only balancers are asked."""
ANSWER_AFTER = Seconds(0.5)
"""How long a balancer may keep an answer that is not yet `none`."""
QUERY_TIMEOUT = Seconds(2.0)
_GOES_ON = MemberStatus.FAILED
"""A balancer whose agent has failed may well have a HAProxy that goes on, and an agent that is about to come back."""
_PRESENT = frozenset({MemberStatus.ALIVE, MemberStatus.SUSPECT, MemberStatus.LEAVING})
_PAYLOAD_LIMIT = 900
_SESSIONS = re.compile(r"[0-9]{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Question:
    """What a draining node asks: of which of its services are sessions open?"""

    member: MemberName
    services: tuple[ServiceName, ...]


@dataclass(frozen=True, slots=True)
class Holding:
    """What one balancer's HAProxy holds of a member's service."""

    service: ServiceName
    is_closed: bool
    """Whether no new session can begin there, not for sticky clients either."""
    sessions: int

    @property
    def is_nothing(self) -> bool:
        return self.is_closed and self.sessions == 0


def format_question(question: Question) -> bytes:
    return f"{question.member} {','.join(question.services)}".encode("ascii")


def parse_question(payload: bytes) -> Question:
    """Parse what a draining node asks.

    Raises:
        PeerError: too long, or names that do not parse.
    """
    member, _, services = _text(payload).partition(" ")
    return Question(parse_member_name(member), tuple(parse_service_name(name) for name in services.split(",")))


def format_answer(holdings: Iterable[Holding]) -> bytes:
    return ",".join(f"{it.service}={'closed' if it.is_closed else 'open'}:{it.sessions}" for it in holdings).encode(
        "ascii"
    )


def parse_answer(payload: bytes) -> tuple[Holding, ...]:
    """Parse a balancer's answer.

    Raises:
        PeerError: too long, or not of the form `web=closed:0,api=open:3`.
    """
    found = []
    for entry in _text(payload).split(","):
        service, _, rest = entry.partition("=")
        door, _, sessions = rest.partition(":")
        if door not in ("open", "closed") or not _SESSIONS.fullmatch(sessions):
            raise PeerError("a balancer's answer of unknown form")
        found.append(Holding(parse_service_name(service), door == "closed", int(sessions)))
    return tuple(found)


def _text(payload: bytes) -> str:
    if len(payload) > _PAYLOAD_LIMIT:
        raise PeerError("a word about a drain that is too long")
    try:
        return payload.decode("ascii")
    except UnicodeDecodeError as error:
        raise PeerError("a word about a drain that is not ASCII") from error


@dataclass(frozen=True, slots=True)
class Drained:
    """How a drain ended."""

    is_clean: bool
    """Whether nothing of this node was in use any more, rather than the time over."""
    text: str


@dataclass(frozen=True, slots=True)
class Drain:
    """A drain under way: which balancers still have to speak, and until when the node waits for them."""

    member: MemberName
    deadline: Instant
    awaited: frozenset[tuple[MemberName, ServiceName]]
    others: frozenset[MemberName]
    has_balancers: bool
    sessions: Mapping[tuple[MemberName, ServiceName], int] = field(default_factory=dict)
    """What balancers have last said."""

    @classmethod
    def start(
        cls, member: MemberName, services: Iterable[ServiceName], members: Iterable[Member], deadline: Instant
    ) -> "Drain":
        """Begin to wait for each balancer whose HAProxy may send requests now, for each service."""
        offered = tuple(services)
        others = [
            other
            for other in members
            if other.name != member
            and (other.status in _PRESENT or (other.status is _GOES_ON and BALANCER_TAG in other.tags))
        ]
        balancers = [other.name for other in others if BALANCER_TAG in other.tags]
        return cls(
            member,
            deadline,
            frozenset((balancer, service) for balancer in balancers for service in offered),
            frozenset(other.name for other in others),
            has_balancers=bool(balancers),
        )

    def hear(self, balancer: MemberName, holdings: Iterable[Holding]) -> "Drain":
        """Take one balancer's answer; what was not asked changes nothing."""
        said = {(balancer, it.service): it for it in holdings if (balancer, it.service) in self.awaited}
        empty = {key for key, it in said.items() if it.is_nothing}
        counts = {key: it.sessions for key, it in said.items()}
        return replace(self, awaited=self.awaited - empty, sessions={**self.sessions, **counts})

    @property
    def balancers(self) -> tuple[MemberName, ...]:
        """Those that have yet to say none."""
        return tuple(sorted({balancer for balancer, _ in self.awaited}))

    def describe_rest(self) -> str:
        """Return what is still open, in words; empty if nothing is."""
        return ", ".join(
            f"{balancer} has not answered for {service}"
            if (count := self.sessions.get((balancer, service))) is None
            else f"{balancer} holds {count} session{'s' if count != 1 else ''} of {service}"
            for balancer, service in sorted(self.awaited)
        )

    def describe_end(self) -> Drained:
        """Return how it ended, once it is done."""
        if self.awaited:
            return Drained(False, f"the drain time is over: {self.describe_rest()}")
        if self.has_balancers:
            return Drained(True, "no balancer holds a session of this node any more")
        if self.others:
            return Drained(False, "the drain time is over: no balancer is known, but other members are")
        return Drained(True, "this node is alone: there is nobody to wait for")

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
