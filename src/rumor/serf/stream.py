"""The events that handlers and RPC clients get: gathered for a moment as Serf does, and picked by Serf's filters.

Facts: reference/gossip-wire.md, sections 9.7, 10.2 and 11.2.
"""

from dataclasses import dataclass, field

from rumor.errors import Refused
from rumor.model import Instant, Seconds
from rumor.serf.events import Change, QueryHeard, SerfMember, UserEventHeard

QUIET = Seconds(1.0)
"""Gathered events are told when so long nothing more has come,"""
LONGEST = Seconds(3.0)
"""or when the first of them has waited so long."""
OWN_CHANGES = frozenset({Change.SUSPECT, Change.REFUTED})
"""rumor's own: told at once, and only to those who ask for them by name, since Serf's clients do not know them."""
_MEMBER_KINDS = frozenset(change.value for change in Change)
_KINDS = _MEMBER_KINDS | {"user", "query", "*"}
_ORDER = (Change.JOIN, Change.LEAVE, Change.FAILED, Change.UPDATE, Change.REAP)


@dataclass(frozen=True, slots=True)
class MembersEvent:
    """The same happened to one or several members."""

    change: Change
    members: tuple[SerfMember, ...]


StreamEvent = MembersEvent | UserEventHeard | QueryHeard


def kind_of(event: StreamEvent) -> str:
    """Return an event's kind by Serf's name."""
    match event:
        case MembersEvent(change):
            return change.value
        case UserEventHeard():
            return "user"
        case QueryHeard():
            return "query"


@dataclass(frozen=True, slots=True)
class EventFilter:
    """One element of a filter: a kind of event, and for `user` and `query` perhaps a name."""

    kind: str
    name: str = ""

    def passes(self, event: StreamEvent) -> bool:
        kind = kind_of(event)
        if self.kind == "*":
            return not (isinstance(event, MembersEvent) and event.change in OWN_CHANGES)
        if self.kind != kind:
            return False
        return not self.name or (not isinstance(event, MembersEvent) and event.name == self.name)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def parse_filters(text: str) -> tuple[EventFilter, ...]:
    """Return the elements of a filter; an empty one means everything.

    Raises:
        Refused: an element is no kind of event; the text is that element.
    """
    found = []
    for element in (text or "*").split(","):
        kind, colon, name = element.partition(":")
        if kind not in _KINDS or (colon and kind not in ("user", "query")):
            raise Refused(element)
        found.append(EventFilter(kind, name))
    return tuple(found)


@dataclass(slots=True)
class _Window:
    """When what was gathered is told."""

    first: Instant | None = None
    last: Instant = Instant(0.0)

    def note(self, now: Instant) -> None:
        self.first = now if self.first is None else self.first
        self.last = now

    @property
    def due(self) -> Instant | None:
        return None if self.first is None else Instant(min(self.first + LONGEST, self.last + QUIET))


@dataclass(slots=True)
class Gatherer:
    """Gathers member events and those user events that allow it, each kind for itself."""

    _members: dict[str, tuple[Change, SerfMember]] = field(default_factory=dict)
    _told: dict[str, Change] = field(default_factory=dict)
    _users: dict[str, list[UserEventHeard]] = field(default_factory=dict)
    _member_window: _Window = field(default_factory=_Window)
    _user_window: _Window = field(default_factory=_Window)

    def add_member(self, change: Change, member: SerfMember, now: Instant) -> None:
        """Take one change; a later one of the same member replaces it."""
        self._members[member.name] = (change, member)
        self._member_window.note(now)

    def add_user(self, event: UserEventHeard, now: Instant) -> None:
        """Take one user event; of one name only those of the newest time are told."""
        known = self._users.get(event.name)
        if known is None or event.ltime > known[0].ltime:
            self._users[event.name] = [event]
        elif event.ltime == known[0].ltime:
            known.append(event)
        self._user_window.note(now)

    @property
    def due(self) -> Instant | None:
        dues = [due for due in (self._member_window.due, self._user_window.due) if due is not None]
        return min(dues, default=None)

    def take(self, now: Instant) -> list[StreamEvent]:
        """Return what is due by now."""
        told: list[StreamEvent] = []
        if (due := self._member_window.due) is not None and now >= due:
            told += self._take_members()
        if (due := self._user_window.due) is not None and now >= due:
            told += [event for events in self._users.values() for event in events]
            self._users.clear()
            self._user_window = _Window()
        return told

    def _take_members(self) -> list[MembersEvent]:
        by_change: dict[Change, list[SerfMember]] = {}
        for name, (change, member) in self._members.items():
            # What a member did last it does not do again, but for changing its tags.
            if self._told.get(name) is change and change is not Change.UPDATE:
                continue
            self._told[name] = change
            by_change.setdefault(change, []).append(member)
            if change is Change.REAP:
                del self._told[name]
        self._members.clear()
        self._member_window = _Window()
        return [MembersEvent(change, tuple(by_change[change])) for change in _ORDER if change in by_change]
