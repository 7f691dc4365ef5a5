"""One probe round: ask a member directly, then through helpers and over TCP, then judge.

Values only: `node.py` sends what a round asks for. Facts: reference/gossip-wire.md, section 8.1.
"""

from dataclasses import dataclass
from enum import Enum, auto
from random import Random

from rumor.model import Instant
from rumor.names import HostPort


class Verdict(Enum):
    ANSWERED = auto()
    ANSWERED_OVER_TCP_ONLY = auto()
    SILENT = auto()


@dataclass(slots=True)
class ProbeRound:
    """The probe under way; there is at most one."""

    target: str
    seq_no: int
    widen_at: Instant
    """When helpers and TCP are asked, if no ack has come."""
    deadline: Instant
    sent_at: Instant = Instant(0.0)
    is_widened: bool = False
    is_acked: bool = False
    is_acked_over_tcp: bool = False
    nacks_expected: int = 0
    nacks: int = 0

    @property
    def next_at(self) -> Instant:
        return self.deadline if self.is_widened else self.widen_at

    def verdict(self) -> Verdict:
        if self.is_acked:
            return Verdict.ANSWERED
        return Verdict.ANSWERED_OVER_TCP_ONLY if self.is_acked_over_tcp else Verdict.SILENT

    def awareness_delta(self) -> int:
        """How the round changes this node's opinion of its own health.

        Helpers that said neither ack nor nack did not hear us: then the fault may be ours.
        """
        if self.verdict() is not Verdict.SILENT:
            return -1
        if self.nacks_expected:
            return self.nacks_expected - self.nacks
        return 1


@dataclass(frozen=True, slots=True)
class Relay:
    """A ping we sent for somebody else."""

    requester: HostPort
    seq_no: int
    wants_nack: bool
    deadline: Instant


class ProbeOrder:
    """Whom to probe next: each member once a round, drawn from those whose turn has not come in it."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._first: list[str] = []
        self._left: list[str] = []

    def add(self, name: str) -> None:
        """Let a newcomer have its turn in this round."""
        self._left.append(name)

    def put_first(self, name: str) -> None:
        """Let a member be the next."""
        self._first.append(name)

    def take(self) -> str | None:
        """Return the next name, or None at the end of a round."""
        if self._first:
            return self._first.pop()
        if not self._left:
            return None
        drawn = self._random.randrange(len(self._left))
        self._left[drawn], self._left[-1] = self._left[-1], self._left[drawn]
        return self._left.pop()

    def restart(self, names: list[str]) -> None:
        """Begin a round with these names; the list is the order's from now on."""
        self._left = names
