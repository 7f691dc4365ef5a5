"""What the core asks of the layer above in the middle of an input; everything it tells comes as events.

Facts: reference/gossip-wire.md, sections 2.4, 3.3 and 6.2.
"""

from typing import Protocol


class Delegate(Protocol):
    """The layer above. Every call is answered at once, from memory."""

    def user_state(self, *, is_join: bool) -> bytes:
        """Return what the layer says of itself in a push/pull."""

    def ack_payload(self) -> bytes:
        """Return what goes with the answer to a ping."""

    def has_broadcasts(self) -> bool:
        """Say whether there is news to gossip."""

    def take_broadcasts(self, room: int, overhead: int, count: int) -> list[bytes]:
        """Return up to `count` user messages that fit into `room` bytes at `overhead` bytes each.

        They count as sent once more.
        """


class NoDelegate:
    """A core on its own."""

    def user_state(self, *, is_join: bool) -> bytes:
        return b""

    def ack_payload(self) -> bytes:
        return b""

    def has_broadcasts(self) -> bool:
        return False

    def take_broadcasts(self, room: int, overhead: int, count: int) -> list[bytes]:
        return []
