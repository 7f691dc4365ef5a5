"""Where this node gossips, and where the others can reach it."""

import socket

from rumor.config import ClusterConfig
from rumor.errors import ConfigError, RumorError
from rumor.names import Endpoint, HostPort, parse_host_port

# What the kernel picks for a packet to another host is the address other hosts can reach.
_ELSEWHERE = ("192.0.2.1", 9)


def gossip_address(bind: Endpoint) -> HostPort:
    """Return the address to bind, any address where only a port is named.

    Raises:
        ConfigError: it is no IP address.
    """
    try:
        return parse_host_port(str(Endpoint(bind.host or "0.0.0.0", bind.port)))  # noqa: S104 - "any" as written
    except RumorError as error:
        raise ConfigError(f"cluster.bind: {error}; a node gossips on an IP address") from error


def advertised_address(cluster: ClusterConfig) -> HostPort:
    """Return the address at which the others can reach this node.

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
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_ELSEWHERE)
            host: str = probe.getsockname()[0]
    except OSError as error:
        raise ConfigError(
            "this node has no address that others could reach: say which with --advertise ADDRESS"
        ) from error
    return HostPort(host, bind.port)
