"""The queue of news to gossip: each item is sent a limited number of times, the freshest first.

Facts: reference/gossip-wire.md, section 7.7.
"""

import math
from bisect import insort

_QUEUE_LIMIT = 8192
# A compound holds at most 127 parts; one is kept for the message that the news rides on.
_PARTS_LIMIT = 126


class BroadcastQueue:
    """News about members, keyed by member: a newer word about one replaces the older."""

    def __init__(self, retransmit_mult: int) -> None:
        self._mult = retransmit_mult
        self._items: dict[str, tuple[int, int, bytes]] = {}
        """key -> (times sent, minus sequence number, message)"""
        self._order: list[tuple[int, int, str]] = []
        """(times sent, minus sequence number, key), fewest sends and newest first"""
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._items)

    def queue(self, key: str, message: bytes) -> None:
        """Add news; the oldest most-sent item goes when the queue is full."""
        self._sequence += 1
        self._remove(key)
        if len(self._items) >= _QUEUE_LIMIT:
            self._remove(self._order[-1][2])
        self._add(key, 0, -self._sequence, message)

    def holds(self, key: str) -> bool:
        return key in self._items

    def take(self, room: int, overhead: int, members: int, count: int = _PARTS_LIMIT) -> list[bytes]:
        """Return up to `count` messages that fit into `room` bytes at `overhead` bytes each; they count as sent."""
        limit = self.transmit_limit(members)
        taken: list[tuple[int, int, str, bytes]] = []
        for sends, age, key in self._order:
            message = self._items[key][2]
            if len(message) + overhead <= room:
                room -= len(message) + overhead
                taken.append((sends, age, key, message))
                if len(taken) >= count or room <= overhead:
                    break
        for sends, age, key, message in taken:
            self._remove(key)
            if sends + 1 < limit:
                self._add(key, sends + 1, age, message)
        return [message for _, _, _, message in taken]

    def transmit_limit(self, members: int) -> int:
        return self._mult * math.ceil(math.log10(members + 1))

    def _add(self, key: str, sends: int, age: int, message: bytes) -> None:
        self._items[key] = (sends, age, message)
        insort(self._order, (sends, age, key))

    def _remove(self, key: str) -> None:
        item = self._items.pop(key, None)
        if item is not None:
            self._order.remove((item[0], item[1], key))
