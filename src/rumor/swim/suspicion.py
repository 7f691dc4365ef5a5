"""Decide how long a suspect member gets to prove itself.

The wait starts long and shrinks as independent members confirm the suspicion, so one node with a bad link cannot
condemn a healthy one. Pure: the caller passes `now` and asks for the deadline.
Facts: reference/gossip-wire.md, section 8.2 (the Lifeguard paper calls it local health aware suspicion).
"""

import math
from dataclasses import dataclass, field

from rumor.model import Instant, Seconds
from rumor.swim.presets import Timings


@dataclass(slots=True)
class Suspicion:
    """One accusation under way; owned by the member's record."""

    incarnation: int
    started: Instant
    shortest: Seconds
    longest: Seconds
    wanted: int
    """How many further accusers shorten the wait to `shortest`."""
    accusers: set[str] = field(default_factory=set)
    deadline: Instant = Instant(0.0)
    """When the member counts as dead, unless it has proved itself by then."""

    @classmethod
    def start(cls, accuser: str, incarnation: int, members: int, timings: Timings, now: Instant) -> "Suspicion":
        """Begin the wait in a cluster of `members`, this one and the dead included."""
        scale = max(1.0, math.floor(math.log10(max(1.0, members)) * 1000) / 1000)
        shortest = timings.suspicion_mult * scale * timings.probe_interval
        wanted = timings.suspicion_mult - 2
        if members - 2 < wanted:
            # Nobody else could confirm, so waiting for them would only cost time.
            wanted = 0
        longest = shortest * timings.suspicion_max_timeout_mult if wanted > 0 else shortest
        suspicion = cls(incarnation, now, Seconds(shortest), Seconds(longest), wanted, {accuser})
        suspicion._set_deadline()
        return suspicion

    def confirm(self, accuser: str) -> bool:
        """Count a further accuser; say whether it was news that others should hear."""
        if accuser in self.accusers or len(self.accusers) - 1 >= self.wanted:
            return False
        self.accusers.add(accuser)
        self._set_deadline()
        return True

    def postpone(self, gap: Seconds) -> None:
        """Let the wait begin later: nobody could have been heard for so long."""
        self.started = Instant(self.started + gap)
        self._set_deadline()

    def _set_deadline(self) -> None:
        wait: float = self.shortest
        if self.wanted > 0:
            share = math.log(len(self.accusers)) / math.log(self.wanted + 1)
            wait = self.longest - (self.longest - self.shortest) * share
            wait = max(self.shortest, math.floor(wait * 1000) / 1000)
        self.deadline = Instant(self.started + wait)
