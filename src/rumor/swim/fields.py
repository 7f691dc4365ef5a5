"""The structs of the wire: msgpack maps as Go writes them, read field by field into strict types.

Shared by memberlist's messages and Serf's. Facts: reference/gossip-wire.md, section 1.
"""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import msgpack

from rumor.errors import PeerError
from rumor.names import HostPort

NAME_LIMIT = 1024
SEQ_LIMIT = 2**32 - 1

_pack = msgpack.Packer(use_bin_type=False, use_single_float=False, unicode_errors="surrogateescape").pack


def pack(body: Mapping[str, object]) -> bytes:
    """Return a struct as it goes over the wire; keys must come in ascending order."""
    encoded: bytes = _pack(body)
    return encoded


def unpack(data: bytes, *, items: int = 1024) -> object:
    """Return the first object in the data; what follows it is ignored, as Go does.

    Args:
        data: from its first byte on.
        items: how many items an array or a map may have.

    Raises:
        PeerError: it is no whole msgpack object within these limits.
    """
    unpacker = _unpacker(len(data), items)
    unpacker.feed(data)
    try:
        return unpacker.unpack()
    except Exception as error:
        raise PeerError("not msgpack") from error


def _unpacker(size: int, items: int) -> msgpack.Unpacker:
    limit = max(1, size)
    return msgpack.Unpacker(
        raw=True,
        strict_map_key=False,
        max_buffer_size=limit,
        max_str_len=limit,
        max_bin_len=limit,
        max_ext_len=0,
        max_array_len=items,
        max_map_len=items,
    )


class Fields:
    """Typed access to one decoded struct. A field that is missing or nil is zero, as Go has it."""

    __slots__ = ("_fields",)

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise PeerError("not a map")
        self._fields: dict[Any, Any] = value

    def text(self, key: bytes, *, limit: int = NAME_LIMIT) -> str:
        return self.raw(key, limit=limit).decode("utf-8", "surrogateescape")

    def raw(self, key: bytes, *, limit: int) -> bytes:
        value = self._fields.get(key)
        if value is None:
            return b""
        if not isinstance(value, bytes) or len(value) > limit:
            raise PeerError(f"{key.decode()} is no byte string of up to {limit}")
        return value

    def number(self, key: bytes, *, limit: int = SEQ_LIMIT) -> int:
        value = self._fields.get(key)
        if value is None:
            return 0
        if type(value) is not int or not 0 <= value <= limit:
            raise PeerError(f"{key.decode()} is no number from 0 to {limit}")
        return value

    def real(self, key: bytes) -> float:
        value = self._fields.get(key)
        if value is None:
            return 0.0
        if type(value) not in (int, float):
            raise PeerError(f"{key.decode()} is no number")
        return float(value)

    def items(self, key: bytes) -> list[Any]:
        """Return an array; its items are not looked at."""
        value = self._fields.get(key)
        if value is None or value == b"":
            return []
        if not isinstance(value, list):
            raise PeerError(f"{key.decode()} is no array")
        return value

    def mapping(self, key: bytes) -> dict[Any, Any]:
        """Return a map; what is in it is not looked at."""
        value = self._fields.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise PeerError(f"{key.decode()} is no map")
        return value

    def flag(self, key: bytes) -> bool:
        value = self._fields.get(key)
        if value is not None and type(value) is not bool:
            raise PeerError(f"{key.decode()} is neither true nor false")
        return bool(value)

    def address(self, host: bytes, port: bytes, *, default_port: int) -> HostPort:
        number = self.number(port, limit=65_535) or default_port
        return HostPort(_read_host(self.raw(host, limit=16)), number)

    def source(self) -> HostPort | None:
        if not self._fields.get(b"SourceAddr") or not self._fields.get(b"SourcePort"):
            return None
        return self.address(b"SourceAddr", b"SourcePort", default_port=1)

    def versions(self) -> bytes:
        versions = self.raw(b"Vsn", limit=64)
        if versions and len(versions) < 6:
            raise PeerError("Vsn is shorter than 6 bytes")
        return versions[:6]


@lru_cache(maxsize=4096)
def _read_host(packed: bytes) -> str:
    """Return an address as text; a picture of the cluster names each member's at every exchange."""
    return str(read_ip(packed))


def read_ip(packed: bytes) -> IPv4Address | IPv6Address:
    """Return an address from its 4 or 16 bytes; one mapped into IPv6 is the one it maps.

    Raises:
        PeerError: it has another length.
    """
    if len(packed) not in (4, 16):
        raise PeerError("an address has 4 or 16 bytes")
    address = ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
