"""Ports for a cluster on this machine: what the file says, else free ones, kept from one start to the next."""

import contextlib
import json
import socket
from collections.abc import Iterable
from pathlib import Path
from random import SystemRandom

from rumor.errors import ConfigError

LOOPBACK = "127.0.0.1"
_ATTEMPTS = 200
_RANGE = range(20_000, 32_000)
"""Below what Linux gives to outgoing connections: such a one could take a port between our choice and its use."""
_RANDOM = SystemRandom()


def is_free(host: str, port: int, *, also_udp: bool = False) -> bool:
    """Say whether a port can be bound now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kinds = [socket.SOCK_STREAM, socket.SOCK_DGRAM] if also_udp else [socket.SOCK_STREAM]
    try:
        for kind in kinds:
            with socket.socket(family, kind) as probe:
                if kind == socket.SOCK_STREAM:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
    except OSError:
        return False
    return True


class Ports:
    """The ports of one data directory, by what they are for: `web-1/app`, `balancer/gossip`.

    A port that was taken here is claimed until `release`: between finding it free and a program's binding it, another
    cluster that starts in the same moment must not find it free, too. (HAProxy would not even tell: it shares ports.)
    """

    def __init__(self, path: Path, *, held: Iterable[str] = ()) -> None:
        """Read what an earlier start has kept; a file that does not parse counts as none.

        Args:
            path: where the ports are kept.
            held: what programs of this cluster hold now: that is taken, and theirs. Where the cluster runs, what it
                has kept is claimed by `rumor up` already.
        """
        self._path = path
        self._held = frozenset(held)
        self._ports: dict[str, int] = {}
        self._claims: list[socket.socket] = []
        with contextlib.suppress(OSError, ValueError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(kept, dict):
                self._ports = {str(key): port for key, port in kept.items() if isinstance(port, int)}

    def fixed(self, purpose: str, port: int, key: str, *, host: str = LOOPBACK) -> int:
        """Take a port that the configuration names.

        Raises:
            ConfigError: somebody listens there.
        """
        if purpose in self._held and self._ports.get(purpose) == port:
            return port
        any_or_host = host or "0.0.0.0"  # noqa: S104 - "any address", as the file says
        if not (is_free(any_or_host, port) and self._claim(any_or_host, port)):
            raise ConfigError(f"{key}: port {port} of {purpose} is taken: stop what listens there, or name another")
        self._ports[purpose] = port
        return port

    def free(self, purpose: str, *, preferred: int = 0, also_udp: bool = False) -> int:
        """Take the port kept from last time if it is still free, else the preferred one, else any free one."""
        if purpose in self._held and purpose in self._ports:
            return self._ports[purpose]
        others = {port for name, port in self._ports.items() if name != purpose}
        for port in (self._ports.get(purpose, 0), preferred):
            if port and port not in others and self._take(port, also_udp=also_udp):
                self._ports[purpose] = port
                return port
        for _ in range(_ATTEMPTS):
            port = _RANDOM.choice(_RANGE)
            if port not in others and self._take(port, also_udp=also_udp):
                self._ports[purpose] = port
                return port
        raise ConfigError(f"no free port was found for {purpose}")

    def keep(self) -> None:
        """Write them down for the next start."""
        self._path.write_text(json.dumps(self._ports, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def release(self) -> None:
        """Give up the claims: whoever asks now sees for himself who listens."""
        while self._claims:
            self._claims.pop().close()

    def _take(self, port: int, *, also_udp: bool) -> bool:
        return is_free(LOOPBACK, port, also_udp=also_udp) and self._claim(LOOPBACK, port)

    def _claim(self, host: str, port: int) -> bool:
        """Claim a port by a name in the kernel: one for all users of this network, and gone with this process."""
        if self._held and port in self._ports.values():
            return True
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0rumor port {host}:{port}")
        except OSError:
            claim.close()
            return False
        self._claims.append(claim)
        return True
