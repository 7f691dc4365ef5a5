"""The queue of news to gossip: each item is sent a limited number of times, the freshest first.

Facts: reference/gossip-wire.md, section 7.7.
"""

import math
from collections.abc import Iterator

_QUEUE_LIMIT = 8192
# A compound holds at most 127 parts; one is kept for the message that the news rides on.
_PARTS_LIMIT = 126
_TOO_LONG_LIMIT = 16
"""After so many messages that no longer fit, a packet counts as full: thousands may be waiting."""


class BroadcastQueue:
    """News by key: a newer word under one key replaces the older."""

    def __init__(self, retransmit_mult: int) -> None:
        self._mult = retransmit_mult
        self._tiers: list[dict[str, bytes]] = [{}]
        """By how often the news has been sent; in each the newest last."""
        self._tier_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._tier_of)

    def queue(self, key: str, message: bytes) -> None:
        """Add news; the oldest most-sent item goes when the queue is full."""
        self._remove(key)
        if len(self._tier_of) >= _QUEUE_LIMIT:
            fullest = next(tier for tier in reversed(self._tiers) if tier)
            self._remove(next(iter(fullest)))
        self._add(key, 0, message)

    def holds(self, key: str) -> bool:
        return key in self._tier_of

    def take(self, room: int, overhead: int, members: int, count: int = _PARTS_LIMIT) -> list[bytes]:
        """Return up to `count` messages that fit into `room` bytes at `overhead` bytes each; they count as sent."""
        limit = self.transmit_limit(members)
        taken: list[tuple[str, int, bytes]] = []
        too_long = 0
        for key, sends, message in self._freshest_first():
            if len(message) + overhead <= room:
                room -= len(message) + overhead
                taken.append((key, sends, message))
                if len(taken) >= count or room <= overhead:
                    break
            else:
                too_long += 1
                if too_long >= _TOO_LONG_LIMIT:
                    break
        # The oldest first, so that the newest stays the last in its tier.
        for key, sends, message in reversed(taken):
            self._remove(key)
            if sends + 1 < limit:
                self._add(key, sends + 1, message)
        return [message for _, _, message in taken]

    def _freshest_first(self) -> Iterator[tuple[str, int, bytes]]:
        for sends, tier in enumerate(self._tiers):
            for key in reversed(tier):
                yield key, sends, tier[key]

    def transmit_limit(self, members: int) -> int:
        return self._mult * math.ceil(math.log10(members + 1))

    def _add(self, key: str, sends: int, message: bytes) -> None:
        while len(self._tiers) <= sends:
            self._tiers.append({})
        self._tiers[sends][key] = message
        self._tier_of[key] = sends

    def _remove(self, key: str) -> None:
        tier = self._tier_of.pop(key, None)
        if tier is not None:
            del self._tiers[tier][key]
