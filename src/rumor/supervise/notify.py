"""Say that this process is ready, to whoever supervises it: systemd by a datagram, s6 by a line on a descriptor.

Facts: sd_notify(3); s6's servicedir(7), `notification-fd`.
"""

import contextlib
import os
import socket
from collections.abc import Mapping

FD_VARIABLE = "RUMOR_NOTIFY_FD"
_SYSTEMD_VARIABLE = "NOTIFY_SOCKET"


def notify_ready(environ: Mapping[str, str]) -> None:
    """Tell the supervisor once; one that does not listen is no error."""
    address = environ.get(_SYSTEMD_VARIABLE, "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            to.send(b"READY=1")
    descriptor = environ.get(FD_VARIABLE, "")
    if descriptor.isdecimal():
        with contextlib.suppress(OSError):
            os.write(int(descriptor), b"\n")
            os.close(int(descriptor))
