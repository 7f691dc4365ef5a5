"""Bytes <-> Serf's messages, with every limit.

A message is a type byte and a msgpack struct, and travels behind memberlist's user type. What does not parse raises
`PeerError`, never msgpack's own. Facts: reference/gossip-wire.md, section 9.
"""

from collections.abc import Mapping, Sequence

import msgpack

from rumor.errors import PeerError
from rumor.names import HostPort
from rumor.serf.lamport import LTIME_LIMIT
from rumor.serf.messages import (
    Filter,
    JoinIntent,
    KeyAnswer,
    LeaveIntent,
    MemberRecord,
    NodeFilter,
    PastEvents,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfState,
    Status,
    TagFilter,
    UserEvent,
)
from rumor.swim.fields import NAME_LIMIT, Fields, pack, read_ip, unpack

LEAVE, JOIN, STATE, USER_EVENT, QUERY, QUERY_RESPONSE, CONFLICT, KEY_REQUEST, KEY_ANSWER, RELAY = range(10)
RING = 512
"""For how many ticks of a clock events and queries are remembered."""
STATE_ITEMS_LIMIT = 100_000
PAYLOAD_LIMIT = 16 * 1024
_FILTERS_LIMIT = 256
_EXPRESSION_LIMIT = 512
_TIMEOUT_LIMIT = 24 * 3600 * 10**9


# --- writing


def encode(message: SerfMessage) -> bytes:
    match message:
        case LeaveIntent(ltime, node, prune):
            return _typed(LEAVE, {"LTime": ltime, "Node": node, "Prune": prune})
        case JoinIntent(ltime, node):
            return _typed(JOIN, {"LTime": ltime, "Node": node})
        case UserEvent(ltime, name, payload, coalesce):
            return _typed(USER_EVENT, {"CC": coalesce, "LTime": ltime, "Name": name, "Payload": payload or None})
        case Query():
            return _typed(
                QUERY,
                {
                    "Addr": message.address.ip.packed,
                    "Filters": list(message.filters) or None,
                    "Flags": message.flags,
                    "ID": message.id,
                    "LTime": message.ltime,
                    "Name": message.name,
                    "Payload": message.payload or None,
                    "Port": message.address.port,
                    "RelayFactor": message.relay_factor,
                    "SourceNode": message.source_node,
                    "Timeout": message.timeout_ns,
                },
            )
        case QueryResponse():
            return _typed(
                QUERY_RESPONSE,
                {
                    "Flags": message.flags,
                    "From": message.sender,
                    "ID": message.id,
                    "LTime": message.ltime,
                    "Payload": message.payload or None,
                },
            )
        case Relay(address, name, inner):
            where = {"IP": address.ip.packed, "Port": address.port, "Zone": ""}
            return _typed(RELAY, {"DestAddr": where, "DestName": name}) + inner


def encode_state(state: SerfState) -> bytes:
    """Return Serf's part of a push/pull, the ring of events in full as real agents send it."""
    ring: list[object] = [None] * RING
    for past in state.events:
        events = [{"Name": name, "Payload": payload or None} for name, payload in past.events]
        ring[past.ltime % RING] = {"Events": events, "LTime": past.ltime}
    return _typed(
        STATE,
        {
            "EventLTime": state.event_ltime,
            "Events": ring,
            "LTime": state.ltime,
            "LeftMembers": list(state.left),
            "QueryLTime": state.query_ltime,
            "StatusLTimes": dict(state.status_ltimes),
        },
    )


def encode_filter(value: Filter) -> bytes:
    match value:
        case NodeFilter(names):
            packed: bytes = msgpack.packb(list(names), use_bin_type=False, unicode_errors="surrogateescape")
            return b"\x00" + packed
        case TagFilter(tag, expression):
            return b"\x01" + pack({"Expr": expression, "Tag": tag})


def encode_member(record: MemberRecord | None) -> bytes:
    """Return a node's description of a member, or that it knows none."""
    if record is None:
        return bytes((CONFLICT,)) + b"\xc0"
    versions = record.versions.ljust(6, b"\0")
    return _typed(
        CONFLICT,
        {
            "Addr": record.address.ip.packed,
            "DelegateCur": versions[5],
            "DelegateMax": versions[4],
            "DelegateMin": versions[3],
            "Name": record.name,
            "Port": record.address.port,
            "ProtocolCur": versions[2],
            "ProtocolMax": versions[1],
            "ProtocolMin": versions[0],
            "Status": int(record.status),
            "Tags": dict(record.tags),
        },
    )


def encode_key_request(key: bytes) -> bytes:
    return _typed(KEY_REQUEST, {"Key": key})


def encode_key_answer(answer: KeyAnswer) -> bytes:
    body = {
        "Keys": list(answer.keys) or None,
        "Message": answer.message,
        "PrimaryKey": answer.primary,
        "Result": answer.result,
    }
    return _typed(KEY_ANSWER, body)


def _typed(kind: int, body: Mapping[str, object]) -> bytes:
    return bytes((kind,)) + pack(body)


# --- reading


def decode(data: bytes) -> SerfMessage:
    """Return the message of one user message.

    Raises:
        PeerError: it is none of Serf's, or not whole.
    """
    kind = data[0] if data else -1
    if kind == RELAY:
        return _read_relay(data)
    if kind not in (LEAVE, JOIN, USER_EVENT, QUERY, QUERY_RESPONSE):
        raise PeerError(f"unknown Serf message type {kind}")
    fields = Fields(unpack(data[1:]))
    ltime = fields.number(b"LTime", limit=LTIME_LIMIT)
    match kind:
        case 0:
            return LeaveIntent(ltime, fields.text(b"Node"), fields.flag(b"Prune"))
        case 1:
            return JoinIntent(ltime, fields.text(b"Node"))
        case 3:
            payload = fields.raw(b"Payload", limit=PAYLOAD_LIMIT)
            return UserEvent(ltime, fields.text(b"Name"), payload, fields.flag(b"CC"))
        case 4:
            return _read_query(fields, ltime)
        case _:
            return QueryResponse(
                ltime,
                fields.number(b"ID"),
                fields.text(b"From"),
                fields.number(b"Flags"),
                fields.raw(b"Payload", limit=PAYLOAD_LIMIT),
            )


def _read_query(fields: Fields, ltime: int) -> Query:
    filters = fields.items(b"Filters")
    if len(filters) > _FILTERS_LIMIT or not all(isinstance(one, bytes) for one in filters):
        raise PeerError("Filters is no array of byte strings")
    return Query(
        ltime=ltime,
        id=fields.number(b"ID"),
        address=fields.address(b"Addr", b"Port", default_port=0),
        source_node=fields.text(b"SourceNode"),
        name=fields.text(b"Name"),
        payload=fields.raw(b"Payload", limit=PAYLOAD_LIMIT),
        filters=tuple(filters),
        flags=fields.number(b"Flags"),
        relay_factor=fields.number(b"RelayFactor", limit=255),
        timeout_ns=min(fields.number(b"Timeout", limit=2**63), _TIMEOUT_LIMIT),
    )


def _read_relay(data: bytes) -> Relay:
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=max(1, len(data)))
    unpacker.feed(data[1:])
    try:
        head = unpacker.unpack()
        rest = unpacker.tell()
    except Exception as error:
        raise PeerError("not msgpack") from error
    fields = Fields(head)
    where = Fields(fields.mapping(b"DestAddr"))
    address = HostPort.of(read_ip(where.raw(b"IP", limit=16)), where.number(b"Port", limit=65_535))
    return Relay(address, fields.text(b"DestName"), data[1 + rest :])


def decode_state(data: bytes) -> SerfState:
    """Return Serf's part of a push/pull.

    Raises:
        PeerError: it is not of Serf's form.
    """
    if data[:1] != bytes((STATE,)):
        raise PeerError("no Serf state")
    fields = Fields(unpack(data[1:], items=STATE_ITEMS_LIMIT))
    statuses = {
        _text(name): Fields({b"LTime": ltime}).number(b"LTime", limit=LTIME_LIMIT)
        for name, ltime in fields.mapping(b"StatusLTimes").items()
    }
    return SerfState(
        ltime=fields.number(b"LTime", limit=LTIME_LIMIT),
        event_ltime=fields.number(b"EventLTime", limit=LTIME_LIMIT),
        query_ltime=fields.number(b"QueryLTime", limit=LTIME_LIMIT),
        status_ltimes=statuses,
        left=tuple(_text(name) for name in fields.items(b"LeftMembers")),
        events=tuple(_read_past(Fields(slot)) for slot in fields.items(b"Events") if slot is not None),
    )


def _read_past(fields: Fields) -> PastEvents:
    events = [Fields(event) for event in fields.items(b"Events")]
    return PastEvents(
        fields.number(b"LTime", limit=LTIME_LIMIT),
        tuple((event.text(b"Name"), event.raw(b"Payload", limit=PAYLOAD_LIMIT)) for event in events),
    )


def decode_filter(data: bytes) -> Filter:
    """Return one filter of a query.

    Raises:
        PeerError: its kind is unknown, or it is not whole.
    """
    kind, body = data[:1], unpack(data[1:])
    if kind == b"\x00" and isinstance(body, list):
        return NodeFilter(tuple(_text(name) for name in body))
    if kind == b"\x01":
        fields = Fields(body)
        return TagFilter(fields.text(b"Tag"), fields.text(b"Expr", limit=_EXPRESSION_LIMIT))
    raise PeerError("unknown kind of filter")


def decode_member(payload: bytes) -> MemberRecord | None:
    """Return what a node knows of a member, None if it knows none.

    Raises:
        PeerError: the payload is no such answer.
    """
    body = unpack(payload[1:])
    if payload[:1] != bytes((CONFLICT,)):
        raise PeerError("no description of a member")
    if body is None:
        return None
    fields = Fields(body)
    versions = (b"ProtocolMin", b"ProtocolMax", b"ProtocolCur", b"DelegateMin", b"DelegateMax", b"DelegateCur")
    return MemberRecord(
        name=fields.text(b"Name"),
        address=fields.address(b"Addr", b"Port", default_port=0),
        tags={_text(key): _text(value) for key, value in fields.mapping(b"Tags").items()},
        status=Status(fields.number(b"Status", limit=4)),
        versions=bytes(fields.number(key, limit=255) for key in versions),
    )


def decode_key_request(payload: bytes) -> bytes:
    """Return the raw key that a query about keys names, empty for none.

    Raises:
        PeerError: the payload is no such request.
    """
    if payload[:1] != bytes((KEY_REQUEST,)):
        raise PeerError("no key request")
    return Fields(unpack(payload[1:])).raw(b"Key", limit=256)


def decode_key_answer(payload: bytes) -> KeyAnswer:
    """Return a node's answer about its keys.

    Raises:
        PeerError: the payload is no such answer.
    """
    if payload[:1] != bytes((KEY_ANSWER,)):
        raise PeerError("no answer about keys")
    fields = Fields(unpack(payload[1:]))
    return KeyAnswer(
        fields.flag(b"Result"),
        fields.text(b"Message", limit=NAME_LIMIT),
        tuple(_text(key) for key in fields.items(b"Keys")),
        fields.text(b"PrimaryKey"),
    )


def filters_of(nodes: Sequence[str], tags: Sequence[tuple[str, str]]) -> tuple[bytes, ...]:
    """Return the filters of a query to some nodes, or to nodes with some tags."""
    by_node = (encode_filter(NodeFilter(tuple(nodes))),) if nodes else ()
    return (*by_node, *(encode_filter(TagFilter(tag, expression)) for tag, expression in tags))


def _text(value: object) -> str:
    if not isinstance(value, bytes) or len(value) > NAME_LIMIT:
        raise PeerError("not a text")
    return value.decode("utf-8", "surrogateescape")
