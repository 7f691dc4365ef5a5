"""One frozen value per message that Serf lays over memberlist's user messages.

Only values: `codec.py` knows the bytes. Facts: reference/gossip-wire.md, section 9.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from rumor.names import HostPort

ACK = 1
"""Flag of a query: acks are wanted; of a response: it is one."""
NO_BROADCAST = 2
"""Flag of a query: do not tell it on."""
INTERNAL = "_serf_"
"""How the names of queries begin that Serf itself answers."""


class Status(IntEnum):
    """A member's status as Serf counts it on the wire."""

    NONE = 0
    ALIVE = 1
    LEAVING = 2
    LEFT = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class JoinIntent:
    ltime: int
    node: str


@dataclass(frozen=True, slots=True)
class LeaveIntent:
    """`node` leaves, or is sent away by somebody; `prune` asks to forget it at once."""

    ltime: int
    node: str
    prune: bool = False


@dataclass(frozen=True, slots=True)
class UserEvent:
    ltime: int
    name: str
    payload: bytes = b""
    coalesce: bool = False


@dataclass(frozen=True, slots=True)
class NodeFilter:
    """Only these nodes shall answer."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TagFilter:
    """Only nodes with a tag in which this regular expression is found."""

    tag: str
    expression: str


Filter = NodeFilter | TagFilter


@dataclass(frozen=True, slots=True)
class Query:
    """A question to many. The answer goes straight to `address`."""

    ltime: int
    id: int
    address: HostPort
    source_node: str
    name: str
    payload: bytes = b""
    filters: tuple[bytes, ...] = ()
    """As they came: a filter that does not parse must still be passed on."""
    flags: int = 0
    relay_factor: int = 0
    timeout_ns: int = 0


@dataclass(frozen=True, slots=True)
class QueryResponse:
    ltime: int
    id: int
    sender: str
    flags: int = 0
    payload: bytes = b""

    @property
    def is_ack(self) -> bool:
        return bool(self.flags & ACK)


@dataclass(frozen=True, slots=True)
class Relay:
    """A message to hand on, for somebody who may not reach its receiver."""

    address: HostPort
    name: str
    message: bytes


SerfMessage = JoinIntent | LeaveIntent | UserEvent | Query | QueryResponse | Relay


@dataclass(frozen=True, slots=True)
class PastEvents:
    """The user events of one moment of the event clock, as kept for latecomers."""

    ltime: int
    events: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class SerfState:
    """What Serf adds to a push/pull."""

    ltime: int
    event_ltime: int
    query_ltime: int
    status_ltimes: Mapping[str, int] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    events: tuple[PastEvents, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A member as one node describes it to another in a vote about its name."""

    name: str
    address: HostPort
    tags: Mapping[str, str]
    status: Status
    versions: bytes


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """One node's answer about its key ring; keys are base64 text."""

    result: bool
    message: str = ""
    keys: tuple[str, ...] = ()
    primary: str = ""
