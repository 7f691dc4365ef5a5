"""Lamport's logical clock: later things have higher times, whoever counts.

Facts: reference/gossip-wire.md, section 9.2.
"""

from dataclasses import dataclass

LTIME_LIMIT = 2**62
"""No honest clock gets there; taking over a higher one would leave no room to count on."""


@dataclass(slots=True)
class LamportClock:
    """`time` is the time that the next own event will have."""

    time: int = 1

    def witness(self, seen: int) -> None:
        """Learn of a time that somebody else has given."""
        self.time = max(self.time, seen + 1)

    def tick(self) -> int:
        """Return the time of an event of one's own, and go on."""
        self.time += 1
        return self.time - 1
