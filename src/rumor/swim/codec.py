"""Bytes <-> messages, with every limit.

`decode_packet` takes one UDP payload apart, `StreamDecoder` a TCP stream as it arrives. Three outcomes are kept apart:
messages, "not enough bytes yet" (an empty list), and a refusal, which is a `PeerError` or an entry in `Packet.refused`
and never an exception of msgpack. Labels and encryption are taken off before (`wire.py`, `stream.py`).
Facts: reference/gossip-wire.md, sections 1, 2, 3, 4 and 6.
"""

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgpack

from rumor.errors import PeerError
from rumor.swim import lzw
from rumor.swim.fields import Fields, pack, unpack
from rumor.swim.messages import (
    Ack,
    Alive,
    Dead,
    IndirectPing,
    Nack,
    NodeRecord,
    PacketMessage,
    Ping,
    PushPull,
    State,
    StreamError,
    StreamMessage,
    Suspect,
    User,
)

PING, INDIRECT_PING, ACK, SUSPECT, ALIVE, DEAD, PUSH_PULL, COMPOUND, USER, COMPRESS, ENCRYPT, NACK, CRC, ERROR = range(
    14
)
LABEL = 244

PACKET_LIMIT = 65_536
COMPOUND_PARTS_LIMIT = 255
"""What a reader takes; HEAD sends up to 255."""
COMPOUND_PARTS_SENT = 127
"""What a writer packs: the old decoder counts the length table in 8 bits."""
NESTING_LIMIT = 4
META_LIMIT = 512
ACK_PAYLOAD_LIMIT = 4096
NODES_LIMIT = 65_536
USER_STATE_LIMIT = 20 * 1024 * 1024
STREAM_LIMIT = 32 * 1024 * 1024
STREAM_OBJECT_LIMIT = 16 * 1024
"""One struct of a stream; a member's longest is under 3 KiB."""
ERROR_TEXT_LIMIT = 4096
PACKET_PLAIN_LIMIT = 256 * 1024
"""What all compressed parts of one packet may hold together."""
STREAM_COMPRESSED_LIMIT = 4 * 1024 * 1024
STREAM_PLAIN_LIMIT = 16 * 1024 * 1024


# --- writing


def encode(message: PacketMessage) -> bytes:
    """Return one message as it stands in a packet, type byte first."""
    match message:
        case Ping():
            return _typed(PING, {"Node": message.node, "SeqNo": message.seq_no, **_source(message)})
        case IndirectPing():
            return _typed(
                INDIRECT_PING,
                {
                    "Nack": message.nack,
                    "Node": message.node,
                    "Port": message.target.port,
                    "SeqNo": message.seq_no,
                    **_source(message),
                    "Target": message.target.ip.packed,
                },
            )
        case Ack():
            return _typed(ACK, {"Payload": message.payload or None, "SeqNo": message.seq_no})
        case Nack():
            return _typed(NACK, {"SeqNo": message.seq_no})
        case Suspect() | Dead():
            body = {"From": message.accuser, "Incarnation": message.incarnation, "Node": message.node}
            return _typed(SUSPECT if isinstance(message, Suspect) else DEAD, body)
        case Alive():
            return _typed(
                ALIVE,
                {
                    "Addr": message.address.ip.packed,
                    "Incarnation": message.incarnation,
                    "Meta": message.meta or None,
                    "Node": message.node,
                    "Port": message.address.port,
                    "Vsn": message.versions,
                },
            )
        case User():
            return encode_user(message.payload)


def encode_compound(parts: Sequence[bytes]) -> bytes:
    """Join encoded messages into one packet; a single one goes bare. At most COMPOUND_PARTS_SENT parts."""
    if len(parts) == 1:
        return parts[0]
    lengths = struct.pack(f">{len(parts)}H", *(len(part) for part in parts))
    return bytes((COMPOUND, len(parts))) + lengths + b"".join(parts)


def encode_push_pull(message: PushPull) -> bytes:
    header = {"Join": message.is_join, "Nodes": len(message.nodes), "UserStateLen": len(message.user_state)}
    parts = [_typed(PUSH_PULL, header)]
    for node in message.nodes:
        body = {
            "Addr": node.address.ip.packed,
            "Incarnation": node.incarnation,
            "Meta": node.meta or None,
            "Name": node.name,
            "Port": node.address.port,
            "State": int(node.state),
            "Vsn": node.versions,
        }
        parts.append(pack(body))
    parts.append(message.user_state)
    return b"".join(parts)


def encode_compressed(message: bytes) -> bytes:
    """Wrap a whole message in its compressed form."""
    return _typed(COMPRESS, {"Algo": 0, "Buf": lzw.compress(message)})


def encode_user(payload: bytes) -> bytes:
    """Return bytes for the layer above as a message."""
    return bytes((USER,)) + payload


def with_crc(data: bytes) -> bytes:
    """Put the checksum before a packet's message."""
    return bytes((CRC,)) + zlib.crc32(data).to_bytes(4, "big") + data


def encode_stream_error(text: str) -> bytes:
    return _typed(ERROR, {"Error": text})


def _typed(kind: int, body: Mapping[str, object]) -> bytes:
    return bytes((kind,)) + pack(body)


def _source(message: Ping | IndirectPing) -> dict[str, object]:
    """The three Source fields; a part that is empty is left out, as real agents do."""
    source: dict[str, object] = {}
    if message.source is not None:
        source["SourceAddr"] = message.source.ip.packed
    if message.source_node:
        source["SourceNode"] = message.source_node
    if message.source is not None:
        source["SourcePort"] = message.source.port
    return source


# --- reading packets


@dataclass(frozen=True, slots=True)
class Packet:
    """What one UDP payload held: the messages that were read, and a reason for each part that was refused."""

    messages: tuple[PacketMessage, ...]
    refused: tuple[str, ...] = ()


def decode_packet(data: bytes, *, local_port: int) -> Packet:
    """Take one UDP payload apart; `local_port` stands in where an alive message names none."""
    if len(data) > PACKET_LIMIT:
        return Packet((), ("too_long",))
    if len(data) >= 5 and data[0] == CRC:
        if zlib.crc32(data[5:]) != int.from_bytes(data[1:5], "big"):
            return Packet((), ("bad_crc",))
        data = data[5:]
    reading = _Reading(local_port)
    reading.take(data, NESTING_LIMIT)
    return Packet(tuple(reading.messages), tuple(reading.refused))


@dataclass(slots=True)
class _Reading:
    """One packet being taken apart."""

    local_port: int
    messages: list[PacketMessage] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    plain_left: int = PACKET_PLAIN_LIMIT

    def take(self, data: bytes, depth: int) -> None:
        if not data:
            self.refused.append("empty")
        elif data[0] in (COMPOUND, COMPRESS) and depth == 0:
            self.refused.append("nested_too_deep")
        elif data[0] == COMPOUND:
            parts, is_cut = _split_compound(data)
            if is_cut:
                self.refused.append("cut_short")
            for part in parts:
                self.take(part, depth - 1)
        elif data[0] == USER:
            self.messages.append(User(data[1:]))
        elif data[0] in _REFUSED_KINDS:
            self.refused.append(_REFUSED_KINDS[data[0]])
        elif data[0] != COMPRESS and data[0] not in _READERS:
            self.refused.append("unknown_type")
        else:
            try:
                if data[0] in _NEWS and len(data) <= _REMEMBERED_BYTES:
                    self.messages.append(_read_again(data, self.local_port))
                    return
                fields = Fields(unpack(data[1:]))
                if data[0] == COMPRESS:
                    plain = _decompress(fields, PACKET_LIMIT, self.plain_left)
                    self.plain_left -= len(plain)
                    self.take(plain, depth - 1)
                else:
                    self.messages.append(_READERS[data[0]](fields, self.local_port))
            except PeerError as error:
                self.refused.append(f"bad_{_KIND_NAMES[data[0]]}: {error}")


_NEWS = frozenset({ALIVE, SUSPECT, DEAD})
_REMEMBERED_BYTES = 1024


@lru_cache(maxsize=1024)
def _read_again(data: bytes, local_port: int) -> PacketMessage:
    """Read a piece of news; gossip brings each one several times, in the very same bytes."""
    return _READERS[data[0]](Fields(unpack(data[1:])), local_port)


_REFUSED_KINDS = {ENCRYPT: "encrypted", LABEL: "label", CRC: "crc_inside"}


def _decompress(fields: Fields, limit: int, plain_limit: int) -> bytes:
    fields.number(b"Algo", limit=0)
    return lzw.decompress(fields.raw(b"Buf", limit=limit), limit=plain_limit)


def _split_compound(data: bytes) -> tuple[list[bytes], bool]:
    """Return the whole parts of a compound, and whether something was cut off its end."""
    if len(data) < 2:
        return [], True
    count = data[1]
    start = 2 + 2 * count
    if len(data) < start:
        return [], True
    parts: list[bytes] = []
    for length in struct.unpack(f">{count}H", data[2:start]):
        if start + length > len(data):
            return parts, True
        parts.append(data[start : start + length])
        start += length
    return parts, False


def _read_ping(fields: Fields, _: int) -> Ping:
    return Ping(fields.number(b"SeqNo"), fields.text(b"Node"), fields.source(), fields.text(b"SourceNode"))


def _read_indirect_ping(fields: Fields, local_port: int) -> IndirectPing:
    return IndirectPing(
        seq_no=fields.number(b"SeqNo"),
        node=fields.text(b"Node"),
        target=fields.address(b"Target", b"Port", default_port=local_port),
        nack=fields.flag(b"Nack"),
        source=fields.source(),
        source_node=fields.text(b"SourceNode"),
    )


def _read_ack(fields: Fields, _: int) -> Ack:
    return Ack(fields.number(b"SeqNo"), fields.raw(b"Payload", limit=ACK_PAYLOAD_LIMIT))


def _read_nack(fields: Fields, _: int) -> Nack:
    return Nack(fields.number(b"SeqNo"))


def _read_suspect(fields: Fields, _: int) -> Suspect:
    return Suspect(fields.number(b"Incarnation"), fields.text(b"Node"), fields.text(b"From"))


def _read_dead(fields: Fields, _: int) -> Dead:
    return Dead(fields.number(b"Incarnation"), fields.text(b"Node"), fields.text(b"From"))


def _read_alive(fields: Fields, local_port: int) -> Alive:
    return Alive(
        incarnation=fields.number(b"Incarnation"),
        node=fields.text(b"Node"),
        address=fields.address(b"Addr", b"Port", default_port=local_port),
        meta=fields.raw(b"Meta", limit=META_LIMIT),
        versions=fields.versions(),
    )


_READERS: dict[int, Callable[[Fields, int], PacketMessage]] = {
    PING: _read_ping,
    INDIRECT_PING: _read_indirect_ping,
    ACK: _read_ack,
    NACK: _read_nack,
    SUSPECT: _read_suspect,
    DEAD: _read_dead,
    ALIVE: _read_alive,
}
_KIND_NAMES = {
    PING: "ping",
    INDIRECT_PING: "indirect_ping",
    ACK: "ack",
    NACK: "nack",
    SUSPECT: "suspect",
    DEAD: "dead",
    ALIVE: "alive",
    COMPRESS: "compressed",
}


# --- reading streams


class StreamDecoder:
    """Reads the one message of a TCP stream, however its bytes are cut; each byte is looked at once."""

    def __init__(self, *, local_port: int, may_be_compressed: bool = True) -> None:
        self._local_port = local_port
        self._may_be_compressed = may_be_compressed
        self._kind: int | None = None
        self._objects = _Objects()
        self._head: Fields | None = None
        self._nodes: list[NodeRecord] = []
        self._is_done = False

    def feed(self, data: bytes) -> StreamMessage | None:
        """Return the message once it is whole, None before.

        Raises:
            PeerError: the stream is not one we read; nothing after it will be.
        """
        if self._is_done:
            raise PeerError("bytes after the message")
        if not data:
            return None
        if self._kind is None:
            self._kind = self._stream_kind(data[0])
            if self._kind == COMPRESS:
                self._objects = _Objects(STREAM_COMPRESSED_LIMIT + STREAM_OBJECT_LIMIT)
            data = data[1:]
        self._objects.feed(data)
        message = self._read(self._kind)
        self._is_done = message is not None
        return message

    def _stream_kind(self, kind: int) -> int:
        if kind in _REFUSED_KINDS:
            raise PeerError(f"the stream is {_REFUSED_KINDS[kind]}, which is not spoken here")
        if kind == COMPRESS and not self._may_be_compressed:
            raise PeerError("compressed more than once")
        if kind not in (PUSH_PULL, PING, ACK, USER, ERROR, COMPRESS):
            raise PeerError(f"unknown stream type {kind}")
        return kind

    def _read(self, kind: int) -> StreamMessage | None:
        head = self._head = self._head or self._objects.next()
        if head is None:
            return None
        if kind == COMPRESS:
            return self._read_compressed(head)
        if kind == PUSH_PULL:
            return self._read_push_pull(head)
        if kind == USER:
            payload = self._objects.rest(head.number(b"UserMsgLen", limit=USER_STATE_LIMIT))
            return None if payload is None else User(payload)
        if kind == ERROR:
            return StreamError(head.text(b"Error", limit=ERROR_TEXT_LIMIT))
        return _read_ping(head, self._local_port) if kind == PING else _read_ack(head, self._local_port)

    def _read_compressed(self, head: Fields) -> StreamMessage:
        inner = StreamDecoder(local_port=self._local_port, may_be_compressed=False)
        message = inner.feed(_decompress(head, STREAM_COMPRESSED_LIMIT, STREAM_PLAIN_LIMIT))
        if message is None:
            raise PeerError("the compressed message is cut short")
        return message

    def _read_push_pull(self, head: Fields) -> PushPull | None:
        count = head.number(b"Nodes", limit=NODES_LIMIT)
        state_length = head.number(b"UserStateLen", limit=USER_STATE_LIMIT)
        while len(self._nodes) < count:
            fields = self._objects.next()
            if fields is None:
                return None
            self._nodes.append(
                NodeRecord(
                    name=fields.text(b"Name"),
                    address=fields.address(b"Addr", b"Port", default_port=self._local_port),
                    incarnation=fields.number(b"Incarnation"),
                    state=State(fields.number(b"State", limit=3)),
                    meta=fields.raw(b"Meta", limit=META_LIMIT),
                    versions=fields.versions(),
                )
            )
        user_state = self._objects.rest(state_length)
        return None if user_state is None else PushPull(head.flag(b"Join"), tuple(self._nodes), user_state)


class _Objects:
    """The msgpack objects that follow a stream's type byte, one after the other."""

    def __init__(self, limit: int = STREAM_OBJECT_LIMIT) -> None:
        self._limit = limit
        self._unpacker = msgpack.Unpacker(
            raw=True,
            strict_map_key=False,
            read_size=4096,
            max_buffer_size=STREAM_LIMIT,
            max_str_len=limit,
            max_bin_len=limit,
            max_ext_len=0,
            max_array_len=1024,
            max_map_len=1024,
        )
        self._fed = 0
        self._used = 0

    def feed(self, data: bytes) -> None:
        self._fed += len(data)
        # The type byte counts too.
        if self._fed + 1 > STREAM_LIMIT:
            raise PeerError(f"a stream longer than {STREAM_LIMIT} bytes")
        self._unpacker.feed(data)

    def next(self) -> Fields | None:
        """Return the next object, or None while it is not whole."""
        try:
            fields = Fields(self._unpacker.unpack())
        except msgpack.OutOfData:
            if self._fed - self._used > self._limit:
                raise PeerError(f"an object longer than {self._limit} bytes") from None
            return None
        except PeerError:
            raise
        except Exception as error:
            raise PeerError("not msgpack") from error
        # Only after a whole object does the unpacker say where it stands.
        self._used = self._unpacker.tell()
        return fields

    def rest(self, length: int) -> bytes | None:
        """Return exactly `length` raw bytes after the last object, or None while some are missing."""
        if self._fed - self._used < length:
            return None
        rest: bytes = self._unpacker.read_bytes(length)
        return rest
