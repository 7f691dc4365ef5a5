"""Find the HAProxy of a configuration among the processes of this machine, and ask it to open its sockets anew.

For when its sockets are gone: a file may be removed, or another's put in its place, while HAProxy serves on.
"""

import contextlib
import os
import signal
import socket
from itertools import pairwise
from pathlib import Path

_CONNECT_DEADLINE = 1.0


def find_master(config: Path) -> int:
    """Return the pid of the master that runs a configuration; 0 if there is none, or no telling which."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_haproxy(pid := int(entry.name), config):
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name, in parentheses, may hold anything.
                parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    # Workers have the master's words, and are its children.
    masters = [pid for pid, parent in parents.items() if parent not in parents]
    return masters[0] if len(masters) == 1 else 0


def is_haproxy(pid: int, config: Path) -> bool:
    """Say whether this process is a HAProxy, master or worker, that was started on a configuration."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    # Not whoever is about to become one: see `launch`.
    is_launch = any(word.endswith(b"launch.py") for word in words)
    return not is_launch and b"-W" in words and (b"-f", os.fsencode(config)) in pairwise(words)


def listens(path: Path) -> bool:
    """Say whether somebody listens on a UNIX socket; True also where that cannot be told."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_DEADLINE)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
    return True


def open_anew(pid: int) -> None:
    """Let a master reload, which opens its sockets anew and costs nothing."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGUSR2)
