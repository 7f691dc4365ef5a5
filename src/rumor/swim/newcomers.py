"""How many members a node takes in: a flood of invented names must not fill its memory.

A packet is one stranger's word, so names that come by packets are let in at a bounded rate. Whom this leaves out of a
very large start is met at the next push/pull, which only one's own pictures of the cluster bound.
"""

from rumor.model import Instant

MEMBERS_LIMIT = 65_536
_BURST = 1024.0
_PER_SECOND = 64.0


class Newcomers:
    """Lets names in that a node has not heard before."""

    def __init__(self) -> None:
        self._allowed = _BURST
        self._at = Instant(0.0)

    def lets_in(self, now: Instant) -> bool:
        """Say whether one more name from a packet may be taken in now, and count it."""
        self._allowed = min(_BURST, self._allowed + max(0.0, now - self._at) * _PER_SECOND)
        self._at = now
        if self._allowed < 1.0:
            return False
        self._allowed -= 1.0
        return True
