"""Where this node gossips, and where the others can reach it."""

import fcntl
import socket
import struct
from collections.abc import Callable

from rumor.config import ClusterConfig
from rumor.errors import ConfigError, RumorError
from rumor.names import Endpoint, HostPort, parse_host_port

# What the kernel picks for a packet to another host is the address other hosts can reach.
_ELSEWHERE = ("192.0.2.1", 9)
_SIOCGIFADDR = 0x8915
"""Linux's netdevice(7): an interface's address."""


def gossip_address(bind: Endpoint) -> HostPort:
    """Return the address to bind, any address where only a port is named.

    Raises:
        ConfigError: it is no IP address.
    """
    try:
        return parse_host_port(str(Endpoint(bind.host or "0.0.0.0", bind.port)))  # noqa: S104 - "any" as written
    except RumorError as error:
        raise ConfigError(f"cluster.bind: {error}; a node gossips on an IP address") from error


def routed_address() -> str:
    """Return the address from which packets to other hosts leave.

    Raises:
        OSError: no route leads to other hosts.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_ELSEWHERE)
        host: str = probe.getsockname()[0]
    return host


def interface_addresses() -> tuple[str, ...]:
    """Return the IPv4 addresses of this host's interfaces, in the kernel's order."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # An interface without an address.
            found.append(socket.inet_ntoa(reply[20:24]))
    return tuple(found)


def advertised_address(
    cluster: ClusterConfig,
    *,
    routed: Callable[[], str] = routed_address,
    addresses: Callable[[], tuple[str, ...]] = interface_addresses,
) -> HostPort:
    """Return the address at which the others can reach this node.

    That is the one from which packets to other hosts leave; in a network that no route leads out of, the first one
    that is not loopback.

    Raises:
        ConfigError: it is bound to any address, and none of them leads anywhere.
    """
    if cluster.advertise is not None:
        try:
            return parse_host_port(str(cluster.advertise))
        except RumorError as error:
            raise ConfigError(f"cluster.advertise: {error}; others need an IP address") from error
    bind = gossip_address(cluster.bind)
    if not bind.ip.is_unspecified:
        return bind
    try:
        return HostPort(routed(), bind.port)
    except OSError as error:
        for address in addresses():
            host = parse_host_port(f"{address}:{bind.port}")
            if not host.ip.is_loopback:
                return host
        raise ConfigError(
            "this node has no address that others could reach: say which with --advertise ADDRESS"
        ) from error
