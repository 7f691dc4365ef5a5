"""The snapshot file: who was there, so that a restarted agent finds its way back alone.

Serf's own format, line by line, so that either program can read the other's file. Lines are appended as things
happen, and the file is rewritten through `PATH.compact` when it has grown too long. A line torn by kill -9 is dropped.
Appends are a few dozen bytes to the page cache, some microseconds at each membership change, so they are not worth a
thread; they survive kill -9 of the agent, not a power cut, after which the configured addresses are still there.
Facts: reference/gossip-wire.md, section 9.13.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rumor.errors import ConfigError, PeerError
from rumor.log import get_logger
from rumor.names import HostPort, parse_host_port

log = get_logger("serf")

_READ_LIMIT = 64 * 1024 * 1024
_COMPACT_AT = 128 * 1024
_COMPACT_PER_MEMBER = 256
_CLOCKS = ("clock", "event-clock", "query-clock")


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a snapshot says: who was alive, Serf's three Lamport clocks, and whether this node left on purpose."""

    alive: Mapping[str, HostPort] = field(default_factory=dict)
    clocks: Mapping[str, int] = field(default_factory=dict)
    """By Serf's words `clock`, `event-clock` and `query-clock`."""
    left: bool = False


def parse_snapshot(text: str, *, rejoin_after_leave: bool = False) -> Remembered:
    """Replay the lines of a snapshot; what does not parse is skipped, and so is a last line without its end.

    A leave wipes what was known before it, unless `rejoin_after_leave`.
    """
    alive: dict[str, HostPort] = {}
    clocks: dict[str, int] = {}
    left = False
    lines = text.split("\n")
    # Torn by kill -9, `alive: web-3 10.0.0.7:7946` may still read as a whole line, with another port.
    lines.pop()
    for line in lines:
        kind, _, rest = line.partition(": ")
        if kind == "alive":
            name, _, address = rest.rpartition(" ")
            with contextlib.suppress(PeerError):
                alive[name] = parse_host_port(address)
            left = False
        elif kind == "not-alive":
            alive.pop(rest, None)
        elif kind in _CLOCKS:
            if rest.isascii() and rest.isdigit() and len(rest) <= 20:
                clocks[kind] = int(rest)
        elif line == "leave" and not rejoin_after_leave:
            alive.clear()
            clocks.clear()
            left = True
    return Remembered(alive, clocks, left)


class Snapshot:
    """The snapshot file of one agent."""

    def __init__(self, path: Path, *, rejoin_after_leave: bool = False) -> None:
        """Read the file if there is one, and open it for appending.

        Raises:
            ConfigError: the file cannot be read or written.
        """
        self._path = path
        try:
            with path.open("rb") as file:
                content = file.read(_READ_LIMIT)
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise ConfigError(f"cannot read the snapshot {path}: {error.strerror}") from error
        text = content.decode("utf-8", "surrogateescape")
        self.remembered = parse_snapshot(text, rejoin_after_leave=rejoin_after_leave)
        self._alive = dict(self.remembered.alive)
        self._clocks = dict(self.remembered.clocks)
        self._is_failing = False
        try:
            self._file = self._open()
            if content and not content.endswith(b"\n"):
                os.ftruncate(self._file, content.rfind(b"\n") + 1)
        except OSError as error:
            raise ConfigError(f"cannot write the snapshot {path}: {error.strerror}") from error

    def note_alive(self, name: str, address: HostPort) -> None:
        if self._alive.get(name) != address and "\n" not in name:
            self._alive[name] = address
            self._append(f"alive: {name} {address}")

    def note_gone(self, name: str) -> None:
        if self._alive.pop(name, None) is not None:
            self._append(f"not-alive: {name}")

    def note_clock(self, kind: str, last: int) -> None:
        """Remember the last time of a clock, by Serf's words `clock`, `event-clock` and `query-clock`."""
        if self._clocks.get(kind, 0) != last:
            self._clocks[kind] = last
            self._append(f"{kind}: {last}")

    def note_leave(self) -> None:
        """Remember that this node left on purpose: the next start does not look for those it knew."""
        self._alive.clear()
        self._clocks.clear()
        self._append("leave")

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _append(self, line: str) -> None:
        try:
            os.write(self._file, f"{line}\n".encode("utf-8", "surrogateescape"))
            if os.fstat(self._file).st_size > max(_COMPACT_AT, _COMPACT_PER_MEMBER * len(self._alive)):
                self._compact()
        except OSError as error:
            # A full disk costs the way back after a crash, never the membership.
            if not self._is_failing:
                log.warning("snapshot_not_written", path=self._path, reason=error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False

    def _compact(self) -> None:
        """Write what still holds to a new file and put it in the old one's place: a crash leaves one or the other."""
        compact = self._path.with_name(f"{self._path.name}.compact")
        lines = [f"alive: {name} {address}\n" for name, address in sorted(self._alive.items())]
        lines += [f"{kind}: {clock}\n" for kind, clock in self._clocks.items()]
        compact.write_bytes("".join(lines).encode("utf-8", "surrogateescape"))
        compact.chmod(0o600)
        compact.replace(self._path)
        file = self._open()
        os.close(self._file)
        self._file = file
