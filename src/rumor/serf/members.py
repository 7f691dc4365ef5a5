"""Serf's members: what intents to join and to leave make of the comings and goings that SWIM sees.

Owns one record per member and the intents of members not met yet; knows no packets and no clock.
Facts: reference/gossip-wire.md, sections 9.3 to 9.5 and 9.8.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rumor.model import Instant, Seconds
from rumor.serf.events import Change
from rumor.serf.messages import JoinIntent, LeaveIntent, Status

FORGET_AFTER = Seconds(24 * 3600.0)
_INTENT_LIFE = Seconds(300.0)
_INTENTS_LIMIT = 8192


@dataclass(slots=True)
class MemberRecord:
    """One member's mutable record; owned by the one `Members` that holds it."""

    name: str
    status: Status = Status.ALIVE
    status_ltime: int = 0
    gone_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of an intent."""

    is_news: bool = False
    """Tell it on."""
    change: Change | None = None
    refutes: bool = False
    """It is about this node, and wrong."""


class Members:
    """All members that Serf knows, those that are gone included."""

    def __init__(self, own_name: str) -> None:
        self._own_name = own_name
        self._records: dict[str, MemberRecord] = {own_name: MemberRecord(own_name)}
        self._intents: dict[str, tuple[JoinIntent | LeaveIntent, Instant]] = {}
        self.is_leaving = False

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[MemberRecord]:
        return iter(tuple(self._records.values()))

    def get(self, name: str) -> MemberRecord | None:
        return self._records.get(name)

    # --- what SWIM sees

    def come(self, name: str) -> None:
        """A member joined, or came back."""
        record = self._records.get(name)
        if record is None:
            record = self._records[name] = MemberRecord(name)
            intent, _ = self._intents.pop(name, (None, None))
            if intent is not None:
                record.status_ltime = intent.ltime
        else:
            intent = None
        record.status = Status.LEAVING if isinstance(intent, LeaveIntent) else Status.ALIVE
        record.gone_at = None

    def go(self, name: str, now: Instant, *, has_left: bool) -> Change | None:
        """A member is gone; `has_left` where it said so itself, which needs no intent to be believed."""
        record = self._records.get(name)
        if record is None or record.status not in (Status.ALIVE, Status.LEAVING):
            return None
        leaves = has_left or record.status is Status.LEAVING
        record.status = Status.LEFT if leaves else Status.FAILED
        record.gone_at = now
        return Change.LEAVE if leaves else Change.FAILED

    # --- what members say

    def hear_join(self, intent: JoinIntent, now: Instant) -> bool:
        """Take an intent to join; say whether it is news."""
        record = self._records.get(intent.node)
        if record is None:
            return self._keep(intent, now)
        if intent.ltime <= record.status_ltime:
            return False
        record.status_ltime = intent.ltime
        if record.status is Status.LEAVING:
            record.status = Status.ALIVE
        return True

    def hear_leave(self, intent: LeaveIntent, now: Instant) -> Heard:
        """Take an intent to leave, or to send somebody away."""
        record = self._records.get(intent.node)
        if record is None:
            return Heard(self._keep(intent, now))
        if intent.node == self._own_name and not self.is_leaving:
            # One that missed this node's last word may have said this at the same time, and believes its own: the
            # older word alone does not count.
            return Heard(refutes=intent.ltime >= record.status_ltime)
        if intent.ltime <= record.status_ltime:
            return Heard()
        record.status_ltime = intent.ltime
        change = None
        if record.status is Status.ALIVE:
            record.status = Status.LEAVING
        elif record.status is Status.FAILED:
            record.status, record.gone_at, change = Status.LEFT, now, Change.LEAVE
        return Heard(True, change)

    def _keep(self, intent: JoinIntent | LeaveIntent, now: Instant) -> bool:
        """Keep what is said of a member not met yet, if it is newer than what was kept."""
        kept = self._intents.get(intent.node)
        if kept is not None and intent.ltime <= kept[0].ltime:
            return False
        if kept is None and len(self._intents) >= _INTENTS_LIMIT:
            return False
        self._intents[intent.node] = intent, now
        return True

    # --- forgetting

    def forget(self, name: str) -> None:
        if name != self._own_name:
            self._records.pop(name, None)

    def expired(self, now: Instant) -> list[str]:
        """Return who has been gone for a day; intents of members that never came go as well."""
        for name in [name for name, (_, at) in self._intents.items() if now - at > _INTENT_LIFE]:
            del self._intents[name]
        return [
            record.name
            for record in self._records.values()
            if record.gone_at is not None and now - record.gone_at > FORGET_AFTER
        ]
