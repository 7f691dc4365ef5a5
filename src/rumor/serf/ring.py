"""What was heard lately: each event and each query is taken once, and not when it is too old.

Facts: reference/gossip-wire.md, sections 9.7 and 9.10.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from rumor.serf.codec import RING

T = TypeVar("T")
_SLOT_LIMIT = 512


class Ring(Generic[T]):
    """The things of the last 512 ticks of a logical clock."""

    def __init__(self) -> None:
        self._slots: dict[int, tuple[int, list[T]]] = {}
        self.minimum = 0
        """Older things are not wanted, whatever the clock says."""

    def accept(self, ltime: int, item: T, clock: int) -> bool:
        """Remember one thing; False if it is too old, known, or one too many at its time."""
        if ltime < self.minimum or (clock > RING and ltime < clock - RING):
            return False
        slot = self._slots.get(ltime % RING)
        if slot is None or slot[0] != ltime:
            if slot is not None and slot[0] > ltime:
                return False
            slot = self._slots[ltime % RING] = (ltime, [])
        if item in slot[1] or len(slot[1]) >= _SLOT_LIMIT:
            return False
        slot[1].append(item)
        return True

    def __iter__(self) -> Iterator[tuple[int, tuple[T, ...]]]:
        for ltime, items in self._slots.values():
            yield ltime, tuple(items)
