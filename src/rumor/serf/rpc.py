"""The records of Serf's RPC: what a member, an event, a coordinate look like there, and how objects are cut apart.

Facts: reference/gossip-wire.md, sections 1 and 10.
"""

from collections.abc import Mapping
from typing import Any

import msgpack

from rumor.errors import PeerError
from rumor.serf.coordinate import Coordinate
from rumor.serf.events import QueryHeard, SerfMember, UserEventHeard
from rumor.serf.messages import Status
from rumor.serf.stream import MembersEvent, StreamEvent, kind_of
from rumor.serf.tags import decode_tags

VERSION = 1
PORT = 7373
BUFFER_LIMIT = 1024 * 1024
REPLY_LIMIT = 256 * 1024 * 1024
_STATUS = {Status.NONE: "none", Status.ALIVE: "alive", Status.LEAVING: "leaving", Status.LEFT: "left",
           Status.FAILED: "failed"}  # fmt: skip

_pack = msgpack.Packer(use_bin_type=True, unicode_errors="surrogateescape").pack


def pack(record: Mapping[str, object]) -> bytes:
    """Return one object as it goes over RPC, its keys in ascending order as Go writes a struct."""
    encoded: bytes = _pack(dict(sorted(record.items())))
    return encoded


class Reader:
    """Cuts a stream into its objects; old clients send bytes as raw, newer ones as bin, both are read."""

    def __init__(self, limit: int = BUFFER_LIMIT) -> None:
        self._limit = limit
        self._unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=limit, max_ext_len=0)

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            PeerError: more of them than an object may have, and none whole.
        """
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull as error:
            raise PeerError(f"a command of more than {self._limit} bytes") from error

    def next(self) -> dict[str, Any] | None:
        """Return the next object, None where more bytes are needed.

        Raises:
            PeerError: it is no msgpack, or no map; nothing after it can be read.
        """
        try:
            found = plain(self._unpacker.unpack())
        except msgpack.OutOfData:
            return None
        except Exception as error:
            # The unpacker raises what it likes: for a key that is a map, for text that is none, for depth.
            raise PeerError("not msgpack") from error
        if not isinstance(found, dict):
            raise PeerError("a command is a map")
        return found


def plain(value: object) -> Any:
    """Return an object with text for its keys; values stay bytes where they came as bytes."""
    if isinstance(value, dict):
        return {
            key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else str(key): plain(one)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value


def text(value: object) -> str:
    """Return a text field; nil is empty.

    Raises:
        PeerError: it is none.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise PeerError("a text was expected")
    return value.decode("utf-8", "surrogateescape")


def member_record(member: SerfMember) -> dict[str, object]:
    versions = member.state.versions.ljust(6, b"\0")
    try:
        tags = decode_tags(member.state.meta)
    except PeerError:
        tags = {}
    return dict(
        sorted(
            {
                "Name": member.name,
                "Addr": member.state.address.ip.packed,
                "Port": member.state.address.port,
                "Tags": tags,
                "Status": status_word(member.status),
                "ProtocolMin": versions[0],
                "ProtocolMax": versions[1],
                "ProtocolCur": versions[2],
                "DelegateMin": versions[3],
                "DelegateMax": versions[4],
                "DelegateCur": versions[5],
            }.items()
        )
    )


def status_word(status: Status) -> str:
    return _STATUS[status]


def event_record(event: StreamEvent, query_id: int = 0) -> dict[str, object]:
    """Return an event as stream clients get it; `query_id` is the client's own number for a query."""
    match event:
        case MembersEvent(_, members):
            return {"Event": kind_of(event), "Members": [member_record(member) for member in members]}
        case UserEventHeard():
            return {
                "Event": "user",
                "LTime": event.ltime,
                "Name": event.name,
                "Payload": event.payload or None,
                "Coalesce": event.coalesce,
            }
        case QueryHeard():
            return {
                "Event": "query",
                "ID": query_id,
                "LTime": event.ltime,
                "Name": event.name,
                "Payload": event.payload or None,
            }


def coordinate_record(coordinate: Coordinate | None) -> dict[str, object]:
    if coordinate is None:
        return {"Coord": {"Adjustment": 0.0, "Error": 0.0, "Height": 0.0, "Vec": None}, "Ok": False}
    return {
        "Coord": {
            "Adjustment": coordinate.adjustment,
            "Error": coordinate.error,
            "Height": coordinate.height,
            "Vec": list(coordinate.vec),
        },
        "Ok": True,
    }
