"""Start HAProxy, unless one runs on the same file: run by its path, with the standard library alone.

    python -I -S launch.py HAPROXY … -f FILE

A second HAProxy on a file starts without complaint, takes half of the traffic, and puts the first beyond reach (facts:
reference/haproxy.md, section 5). The lock beside the file is handed on by exec: master and workers hold it through
every reload, and the kernel lets go of it when the last of them ends, however it ends.
"""

import fcntl
import os
import sys

IN_USE = 75
"""EX_TEMPFAIL: it may be tried again."""


def main(command: list[str]) -> int:
    """Take the lock and become HAProxy; return only if that fails, with the exit status."""
    try:
        config = command[command.index("-f") + 1]
    except (ValueError, IndexError):
        print("error: launch.py wants HAPROXY … -f FILE", file=sys.stderr)
        return 2
    try:
        lock = os.open(f"{config}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.set_inheritable(lock, True)
        os.execv(command[0], command)  # noqa: S606 - it becomes HAProxy; no shell is wanted
    except BlockingIOError:
        print(f"error: another HAProxy runs on {config}: end it first", file=sys.stderr)
        return IN_USE
    except OSError as error:
        print(f"error: cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
