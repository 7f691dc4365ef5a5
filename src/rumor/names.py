"""Strict types parsed from text that came over the network or from a file: parse or refuse.

What these functions return is safe in haproxy.cfg, on HAProxy's command line, in a file name and in a log line;
nothing is ever cleaned up and used. Why so strict: HAProxy expands `$VAR` in addresses even unquoted, ends a
statement at `#`, and takes a line feed as the start of a directive of the sender's choice.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NewType, Self

from rumor.errors import PeerError

MemberName = NewType("MemberName", str)
ServiceName = NewType("ServiceName", str)

IPAddress = IPv4Address | IPv6Address

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?", re.ASCII)
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_CANONICAL_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_WEIGHT = re.compile(r"[0-9]{1,3}", re.ASCII)
# HAProxy's own rows in `show stat`; a server of that name could not be told from them.
_RESERVED = frozenset({"FRONTEND", "BACKEND"})


def _parse_name(text: str, noun: str) -> str:
    if not _NAME.fullmatch(text):
        raise PeerError(
            f"{noun} {text[:80]!a} is refused: use 1 to 63 of A-Z a-z 0-9 _ . - and begin with a letter or digit"
        )
    if text in _RESERVED:
        raise PeerError(f"{noun} {text!a} is refused: HAProxy uses this word for its own rows")
    return text


def parse_member_name(text: str) -> MemberName:
    """Return the name if it may be a server's name in HAProxy.

    Raises:
        PeerError: any other character than HAProxy's own set without the colon, too long, or reserved.
    """
    return MemberName(_parse_name(text, "member name"))


def parse_service_name(text: str) -> ServiceName:
    """Return the name if it may be a backend's name in HAProxy.

    Raises:
        PeerError: as for `parse_member_name`.
    """
    return ServiceName(_parse_name(text, "service name"))


def parse_port(text: str) -> int:
    """Return the port, 1 to 65535. HAProxy itself takes 70000 as 4464, so this must be right here.

    Raises:
        PeerError: not a number, or out of range.
    """
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise PeerError(f"port {text[:20]!a} is refused: a port is a number from 1 to 65535")
    return int(text)


def parse_weight(text: str) -> int:
    """Return the weight, 0 to 256, HAProxy's range.

    Raises:
        PeerError: not a number, or out of range.
    """
    if not _WEIGHT.fullmatch(text) or int(text) > 256:
        raise PeerError(f"weight {text[:40]!a} is refused: a weight is a number from 0 to 256")
    return int(text)


def parse_ip(text: str) -> IPAddress:
    """Return the address; host names, zone ids and HAProxy's short forms (`127.1`, `*`) are refused.

    Raises:
        PeerError: not an IPv4 or IPv6 address in full notation.
    """
    try:
        address = ip_address(text)
    except ValueError as error:
        raise PeerError(f"address {text[:80]!a} is refused: it is neither an IPv4 nor an IPv6 address") from error
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise PeerError(f"address {text[:80]!a} is refused: a zone id means something on its own host only")
    return address


def parse_host(text: str) -> str:
    """Return an IP address as text, in its one canonical form.

    Raises:
        PeerError: see `parse_ip`.
    """
    return text if _CANONICAL_IPV4.fullmatch(text) else str(parse_ip(text))


@dataclass(frozen=True, slots=True, order=True)
class HostPort:
    """An IP address and a port: where a member gossips or a server listens. Prints as `10.0.0.7:80` or `[::1]:80`."""

    host: str  # canonical text of an IP address
    port: int

    @classmethod
    def of(cls, host: IPAddress, port: int) -> Self:
        return cls(str(host), port)

    @property
    def ip(self) -> IPAddress:
        return _ip(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A host that may still be a DNS name, or empty for "any address", and a port. Prints as it is written in files."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(maxsize=4096)
def _ip(host: str) -> IPAddress:
    return ip_address(host)


def _split_port(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise PeerError(f"address {text[:80]!a} is refused: write an IPv6 address with its port as [::1]:80")
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None
    host, colon, port = text.partition(":")
    return host, port if colon else None


def parse_host_port(text: str) -> HostPort:
    """Parse `10.0.0.7:80` or `[::1]:80`; both parts are required.

    Raises:
        PeerError: see `parse_ip` and `parse_port`.
    """
    host, port = _split_port(text)
    if port is None:
        raise PeerError(f"address {text[:80]!a} is refused: the port is missing")
    return HostPort(parse_host(host), parse_port(port))


def parse_endpoint(text: str, *, default_port: int | None = None) -> Endpoint:
    """Parse `:8080`, `balancer`, `balancer:7946`, `10.0.0.7:80`, `[::1]:80`.

    Raises:
        PeerError: neither an address nor a DNS name, or no port where `default_port` gives none.
    """
    host, port = _split_port(text)
    if port is None and default_port is None:
        raise PeerError(f"address {text[:80]!a} is refused: the port is missing")
    number = default_port if port is None else parse_port(port)
    assert number is not None  # noqa: S101 - narrowing for the type checker; both branches above set it
    if host == "" and port is not None:
        return Endpoint("", number)
    if ":" in host or host.replace(".", "").isdigit():
        return Endpoint(str(parse_ip(host)), number)
    if len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise PeerError(f"address {text[:80]!a} is refused: it is neither an IP address nor a DNS name")
    return Endpoint(host, number)
