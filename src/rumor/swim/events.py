"""What the core tells the layers above: past facts, as values. `name` is text from the wire, not yet parsed."""

from dataclasses import dataclass

from rumor.model import Seconds
from rumor.names import HostPort


class LayerEvent:
    """What a layer above the core tells through the same channel; the core knows nothing of it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class MemberJoined:
    name: str


@dataclass(frozen=True, slots=True)
class MemberUpdated:
    name: str


@dataclass(frozen=True, slots=True)
class MemberSuspected:
    name: str
    by: str


@dataclass(frozen=True, slots=True)
class MemberRefuted:
    """A suspect spoke for itself and is alive."""

    name: str


@dataclass(frozen=True, slots=True)
class Refuted:
    """This node has answered what was said of it: an accusation, or the memory of an earlier life."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class MemberFailed:
    name: str
    by: str


@dataclass(frozen=True, slots=True)
class MemberLeft:
    name: str


@dataclass(frozen=True, slots=True)
class Synced:
    """One push/pull with another member succeeded, whoever asked for it."""

    address: HostPort | None
    """Whom this node had asked; None where the other did."""


@dataclass(frozen=True, slots=True)
class SyncFailed:
    address: HostPort
    reason: str


@dataclass(frozen=True, slots=True)
class UserMessage:
    source: HostPort | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class RemoteState:
    """What the layer above said at the other end of a push/pull, after the members have been merged."""

    payload: bytes
    is_join: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """A member answered a probe straight away."""

    name: str
    rtt: Seconds
    payload: bytes


@dataclass(frozen=True, slots=True)
class NameConflict:
    """Somebody at another address claims a name that is taken."""

    name: str
    ours: HostPort
    theirs: HostPort


@dataclass(frozen=True, slots=True)
class LeaveDone:
    """The word that this node leaves has been sent as often as it must be."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """This node stood still: its timer came `gap` seconds late."""

    gap: Seconds


Event = (
    MemberJoined
    | MemberUpdated
    | MemberSuspected
    | MemberRefuted
    | Refuted
    | MemberFailed
    | MemberLeft
    | Synced
    | SyncFailed
    | UserMessage
    | RemoteState
    | Answered
    | NameConflict
    | LeaveDone
    | Resumed
    | LayerEvent
)
