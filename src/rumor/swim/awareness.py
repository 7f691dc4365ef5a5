"""How healthy this node thinks it is itself: the score that stretches its own timeouts.

0 is healthy. A node that misses acks others would have got is probably slow itself and should accuse more slowly.
Facts: reference/gossip-wire.md, section 8.1.
"""

from rumor.model import Seconds


class Awareness:
    """The score, from 0 to `limit` - 1."""

    __slots__ = ("_limit", "score")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.score = 0

    def apply(self, delta: int) -> None:
        self.score = min(self._limit - 1, max(0, self.score + delta))

    def stretch(self, time: Seconds) -> Seconds:
        return Seconds(time * (self.score + 1))
