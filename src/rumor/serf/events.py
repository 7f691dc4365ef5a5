"""What Serf's layer tells the layers above: past facts, as values. Names are text from the wire, not yet parsed."""

from dataclasses import dataclass
from enum import Enum

from rumor.model import Instant
from rumor.serf.messages import Status
from rumor.swim.events import LayerEvent
from rumor.swim.membership import MemberState
from rumor.swim.sealing import Keyring


@dataclass(frozen=True, slots=True)
class SerfMember:
    """A member as Serf sees it: SWIM's state, and what was said of its comings and goings."""

    state: MemberState
    status: Status
    status_ltime: int = 0

    @property
    def name(self) -> str:
        return self.state.name


class Change(Enum):
    """What happened to a member, by Serf's names; the last two are rumor's own."""

    JOIN = "member-join"
    LEAVE = "member-leave"
    FAILED = "member-failed"
    UPDATE = "member-update"
    REAP = "member-reap"
    SUSPECT = "member-suspect"
    REFUTED = "member-refuted"


@dataclass(frozen=True, slots=True)
class MemberChanged(LayerEvent):
    change: Change
    member: SerfMember
    by: str = ""
    """Who accuses or condemns; empty where the member spoke for itself."""


@dataclass(frozen=True, slots=True)
class UserEventHeard(LayerEvent):
    ltime: int
    name: str
    payload: bytes
    coalesce: bool


@dataclass(frozen=True, slots=True)
class QueryHeard(LayerEvent):
    """Somebody asks; `Serf.respond(key, ...)` answers until the deadline."""

    key: int
    ltime: int
    name: str
    payload: bytes
    source_node: str
    deadline: Instant


@dataclass(frozen=True, slots=True)
class QueryAcked(LayerEvent):
    query: int
    sender: str


@dataclass(frozen=True, slots=True)
class QueryAnswered(LayerEvent):
    query: int
    sender: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class QueryEnded(LayerEvent):
    """The time of an own query is up; nothing follows."""

    query: int


@dataclass(frozen=True, slots=True)
class KeyringChanged(LayerEvent):
    keyring: Keyring


@dataclass(frozen=True, slots=True)
class NameLost(LayerEvent):
    """The vote about this node's name went to the other: this node must go, without leaving."""

    votes: int
    answers: int


@dataclass(frozen=True, slots=True)
class Warned(LayerEvent):
    """Something odd that somebody should be able to read."""

    text: str
