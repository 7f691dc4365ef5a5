"""Ports for a cluster on this machine: what the file says, else free ones, kept from one start to the next."""

import contextlib
import json
import socket
from pathlib import Path

from rumor.errors import ConfigError

LOOPBACK = "127.0.0.1"
_ATTEMPTS = 50


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
    """The ports of one data directory, by what they are for: `web-1/app`, `balancer/gossip`."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier start has kept; a file that does not parse counts as none."""
        self._path = path
        self._ports: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(kept, dict):
                self._ports = {str(key): port for key, port in kept.items() if isinstance(port, int)}

    def fixed(self, purpose: str, port: int, key: str, *, host: str = LOOPBACK) -> int:
        """Take a port that the configuration names.

        Raises:
            ConfigError: somebody listens there.
        """
        if not is_free(host or "0.0.0.0", port):  # noqa: S104 - "any address", as the file says
            raise ConfigError(f"{key}: port {port} of {purpose} is taken: stop what listens there, or name another")
        self._ports[purpose] = port
        return port

    def free(self, purpose: str, *, preferred: int = 0, also_udp: bool = False) -> int:
        """Take the port kept from last time if it is still free, else the preferred one, else any free one."""
        others = {port for name, port in self._ports.items() if name != purpose}
        for port in (self._ports.get(purpose, 0), preferred):
            if port and port not in others and is_free(LOOPBACK, port, also_udp=also_udp):
                self._ports[purpose] = port
                return port
        for _ in range(_ATTEMPTS):
            with socket.socket() as probe:
                probe.bind((LOOPBACK, 0))
                port = int(probe.getsockname()[1])
            if port not in others and is_free(LOOPBACK, port, also_udp=also_udp):
                self._ports[purpose] = port
                return port
        raise ConfigError(f"no free port was found for {purpose}")

    def keep(self) -> None:
        """Write them down for the next start."""
        self._path.write_text(json.dumps(self._ports, indent=2, sort_keys=True) + "\n", encoding="utf-8")
