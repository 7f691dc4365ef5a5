"""The merge rules: what a claim about a member changes, if it is news.

Owns the records of all members and nothing else: no packets, no timers, no clock. `node.py` carries out what a merge
says: tell it on, tell the layer above, start or stop a suspicion.
Facts: reference/gossip-wire.md, sections 7.1 to 7.5.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto

from rumor.model import Instant
from rumor.names import HostPort
from rumor.swim.messages import Alive, Dead, NodeRecord, State, Suspect
from rumor.swim.suspicion import Suspicion


@dataclass(frozen=True, slots=True)
class MemberState:
    """A member as this node knows it now. `name` is text from the wire, not yet parsed."""

    name: str
    address: HostPort
    meta: bytes
    state: State
    incarnation: int
    versions: bytes
    changed_at: Instant
    accuser: str = ""


@dataclass(slots=True, eq=False)
class Record:
    """A member's mutable record; owned by the one `MemberTable` that holds it."""

    name: str
    address: HostPort
    meta: bytes
    state: State
    incarnation: int
    versions: bytes
    changed_at: Instant
    accuser: str = ""
    suspicion: Suspicion | None = None
    place: int = 0
    """Where it stands in its table's order."""

    def view(self) -> MemberState:
        return MemberState(
            self.name,
            self.address,
            self.meta,
            self.state,
            self.incarnation,
            self.versions,
            self.changed_at,
            self.accuser,
        )

    def on_wire(self) -> NodeRecord:
        return NodeRecord(self.name, self.address, self.incarnation, self.state, self.meta, self.versions)

    def enter(self, state: State, now: Instant, *, accuser: str = "") -> None:
        if state is not self.state:
            self.changed_at = now
        self.state = state
        self.accuser = accuser


class Merge(Enum):
    """What a claim came to."""

    IGNORED = auto()
    """No news."""
    JOINED = auto()
    UPDATED = auto()
    REFRESHED = auto()
    """News for others, with nothing to tell the layer above."""
    REFUTED = auto()
    SUSPECTED = auto()
    CONFIRMED = auto()
    """A further accuser of a suspect."""
    FAILED = auto()
    LEFT = auto()
    CONFLICT = auto()
    """The name is taken by another address."""


GONE = frozenset({State.DEAD, State.LEFT})
_TOMBSTONES_LIMIT = 10_000


class Picture:
    """A cluster's members, all alive, that many tables may begin with; nobody changes its records."""

    def __init__(self, nodes: Iterable[NodeRecord], now: Instant) -> None:
        self.order = [
            Record(node.name, node.address, node.meta, node.state, node.incarnation, node.versions, now, place=place)
            for place, node in enumerate(nodes)
        ]
        self.records = {record.name: record for record in self.order}


class Records:
    """Records by name: a table's own, over those of a picture that it shares with others and must copy to change."""

    def __init__(self) -> None:
        self._own: dict[str, Record] = {}
        self._shared: dict[str, Record] = {}
        self._hidden: set[str] = set()
        """Names in the picture that have a record of their own by now, or none any more."""

    def __len__(self) -> int:
        return len(self._own) + len(self._shared) - len(self._hidden)

    def __contains__(self, name: str) -> bool:
        return name in self._own or (name in self._shared and name not in self._hidden)

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from (name for name in self._shared if name not in self._hidden)

    def __getitem__(self, name: str) -> Record:
        record = self.get(name)
        if record is None:
            raise KeyError(name)
        return record

    def get(self, name: str) -> Record | None:
        record = self._own.get(name)
        return record if record is not None or name in self._hidden else self._shared.get(name)

    def values(self) -> Iterator[Record]:
        yield from self._own.values()
        yield from (record for name, record in self._shared.items() if name not in self._hidden)

    def changed(self) -> Iterable[Record]:
        """Return those that are not as the picture has them."""
        return self._own.values()

    def share(self, records: dict[str, Record]) -> None:
        """Begin with a picture's records, but for those already here."""
        self._shared = records
        self._hidden = {name for name in self._own if name in records}

    def put(self, record: Record) -> None:
        self._own[record.name] = record
        self._hide(record.name)

    def drop(self, name: str) -> None:
        self._own.pop(name, None)
        self._hide(name)

    def is_shared(self, record: Record) -> bool:
        return self._shared.get(record.name) is record

    def _hide(self, name: str) -> None:
        if name in self._shared:
            self._hidden.add(name)


class MemberTable:
    """All members but the rules about ourselves, which `node.py` answers before it asks here."""

    def __init__(self) -> None:
        self.records = Records()
        self.order: list[Record] = []
        """The same records in no order, to draw from at random."""
        self.tombstones: dict[str, MemberState] = {}
        """Members that the protocol has forgotten but people may still ask about."""

    def add(self, record: Record) -> None:
        """Take in a record of a name that is not known."""
        self.tombstones.pop(record.name, None)
        self.records.put(record)
        record.place = len(self.order)
        self.order.append(record)

    def adopt(self, picture: Picture, me: Record) -> None:
        """Begin with a picture in which this node is; the table held nobody else so far."""
        self.records.share(picture.records)
        self.order = list(picture.order)
        me.place = picture.records[me.name].place
        self.order[me.place] = me

    def own(self, record: Record) -> Record:
        """Return the record to change: a copy, where it is shared."""
        if not self.records.is_shared(record):
            return record
        mine = replace(record)
        self.records.put(mine)
        self.order[mine.place] = mine
        return mine

    def _drop(self, name: str) -> Record | None:
        record = self.records.get(name)
        if record is None:
            return None
        last = self.own(self.order[-1])
        self.order.pop()
        self.records.drop(name)
        if last.name != name:
            last.place = record.place
            self.order[record.place] = last
        return record

    def merge_alive(self, claim: Alive, now: Instant, *, may_replace_address: bool = False) -> Merge:
        """Accept a claim that another member is alive, if it is news.

        A claim at the same incarnation is not news: only the member itself may raise that number, and accepting it
        would let old gossip cancel a suspicion.
        """
        record = self.records.get(claim.node)
        if record is None:
            self.add(Record(claim.node, claim.address, claim.meta, State.ALIVE, claim.incarnation, claim.versions, now))
            return Merge.JOINED
        replaces = record.address != claim.address
        if replaces and record.state is not State.LEFT and not may_replace_address:
            return Merge.CONFLICT
        if claim.incarnation <= record.incarnation and not replaces:
            return Merge.IGNORED
        record = self.own(record)
        before, meta_before = record.state, record.meta
        record.suspicion = None
        record.address, record.meta, record.incarnation = claim.address, claim.meta, claim.incarnation
        record.versions = claim.versions or record.versions
        record.enter(State.ALIVE, now)
        if before in GONE:
            return Merge.JOINED
        if before is State.SUSPECT:
            return Merge.REFUTED
        return Merge.UPDATED if meta_before != claim.meta or replaces else Merge.REFRESHED

    def merge_suspect(self, claim: Suspect, now: Instant) -> Merge:
        """Accept an accusation of another member; the caller starts the suspicion."""
        record = self.records.get(claim.node)
        if record is None or claim.incarnation < record.incarnation:
            return Merge.IGNORED
        if record.suspicion is not None:
            return Merge.CONFIRMED if record.suspicion.confirm(claim.accuser) else Merge.IGNORED
        if record.state is not State.ALIVE:
            return Merge.IGNORED
        record = self.own(record)
        record.incarnation = claim.incarnation
        record.enter(State.SUSPECT, now, accuser=claim.accuser)
        return Merge.SUSPECTED

    def merge_dead(self, claim: Dead, now: Instant) -> Merge:
        """Accept that a member is gone: left if it says so itself, dead if another does."""
        record = self.records.get(claim.node)
        if record is None or claim.incarnation < record.incarnation or record.state in GONE:
            return Merge.IGNORED
        record = self.own(record)
        record.suspicion = None
        record.incarnation = claim.incarnation
        has_left = claim.accuser == claim.node
        record.enter(State.LEFT if has_left else State.DEAD, now, accuser="" if has_left else claim.accuser)
        return Merge.LEFT if has_left else Merge.FAILED

    def forget_gone(self, before: Instant) -> list[str]:
        """Move members that have been gone since `before` out of the protocol's sight; return their names."""
        # A picture's records are alive.
        gone = [record for record in self.records.changed() if record.state in GONE and record.changed_at < before]
        names = [record.name for record in gone]
        for name in names:
            if len(self.tombstones) >= _TOMBSTONES_LIMIT:
                self.tombstones.pop(next(iter(self.tombstones)))
            record = self._drop(name)
            if record is not None:
                self.tombstones[name] = record.view()
        return names

    def forget(self, name: str) -> None:
        """Erase a member from memory."""
        self._drop(name)
        self.tombstones.pop(name, None)

    def view(self, name: str) -> MemberState | None:
        record = self.records.get(name)
        return self.tombstones.get(name) if record is None else record.view()

    def states(self) -> dict[str, State]:
        states = {record.name: record.state for record in self.order}
        return states | {name: member.state for name, member in self.tombstones.items()}

    def views(self) -> tuple[MemberState, ...]:
        return (*(record.view() for record in self.records.values()), *self.tombstones.values())


def versions_agree(local: list[NodeRecord], remote: tuple[NodeRecord, ...]) -> bool:
    """Say whether all sides of a push/pull can speak to one another.

    Over all alive members, take the highest minimum and the lowest maximum of both protocols; then every member,
    whatever its state, must speak a version within (reference/gossip-wire.md, section 6.6). Without it, one agent
    of a far future could make all others drop what they know.
    """
    alive = [node for node in (*local, *remote) if node.state is State.ALIVE and len(node.versions) == 6]
    for offset in (0, 3):
        low = max((node.versions[offset] for node in alive), default=0)
        high = min((node.versions[offset + 1] for node in alive), default=255)
        for node in (*local, *remote):
            current = node.versions[offset + 2] if len(node.versions) == 6 else 0
            if not low <= current <= high:
                return False
    return True
