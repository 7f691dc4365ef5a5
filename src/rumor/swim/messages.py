"""One frozen value per wire message of memberlist.

Only values: `codec.py` knows the bytes. Facts: reference/gossip-wire.md, sections 2.2, 3 and 6.
Names are text as it came from the wire; bytes that are no UTF-8 survive as surrogates (`surrogateescape`).
"""

from dataclasses import dataclass
from enum import IntEnum

from rumor.names import HostPort

VERSIONS = bytes((1, 5, 2, 2, 5, 5))
"""What rumor announces: memberlist 1..5, speaking 2; Serf 2..5, speaking 5."""


class State(IntEnum):
    """A member's state as the wire counts it. *Dead* is Serf's *failed*."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? Empty `node` asks whoever listens; the ack goes to `source` if it is known."""

    seq_no: int
    node: str = ""
    source: HostPort | None = None
    source_node: str = ""


@dataclass(frozen=True, slots=True)
class IndirectPing:
    """Ask a helper to ping `target` for us."""

    seq_no: int
    node: str
    target: HostPort
    nack: bool
    source: HostPort | None = None
    source_node: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    seq_no: int
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Nack:
    seq_no: int


@dataclass(frozen=True, slots=True)
class Suspect:
    incarnation: int
    node: str
    accuser: str


@dataclass(frozen=True, slots=True)
class Dead:
    """`accuser` equal to `node` means that the member left on purpose."""

    incarnation: int
    node: str
    accuser: str


@dataclass(frozen=True, slots=True)
class Alive:
    incarnation: int
    node: str
    address: HostPort
    meta: bytes = b""
    versions: bytes = VERSIONS


@dataclass(frozen=True, slots=True)
class User:
    """Bytes for the layer above."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One member in a push/pull."""

    name: str
    address: HostPort
    incarnation: int
    state: State
    meta: bytes = b""
    versions: bytes = VERSIONS


@dataclass(frozen=True, slots=True)
class PushPull:
    """The whole picture of one side, exchanged over TCP."""

    is_join: bool
    nodes: tuple[NodeRecord, ...]
    user_state: bytes = b""


@dataclass(frozen=True, slots=True)
class StreamError:
    """Why the other side would not read our stream, in its own words."""

    text: str


PacketMessage = Ping | IndirectPing | Ack | Nack | Suspect | Dead | Alive | User
StreamMessage = PushPull | Ping | Ack | User | StreamError
