"""Where HAProxy's log comes in: a datagram socket beside its command sockets.

HAProxy sends without waiting, and drops what nobody reads: a log can be late or lost, never a burden.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from rumor.haproxy.log_lines import parse_log_line
from rumor.log import get_logger
from rumor.model import CheckResult

log = get_logger("haproxy")


class _LogReader(asyncio.DatagramProtocol):
    def __init__(self, on_result: Callable[[CheckResult], None]) -> None:
        self._on_result = on_result

    def datagram_received(self, data: bytes, addr: object) -> None:
        result = parse_log_line(data)
        if result is not None:
            self._on_result(result)

    def error_received(self, exc: Exception) -> None:
        log.debug("log_socket", reason=str(exc))


@contextlib.asynccontextmanager
async def listen_to_log(path: Path, on_result: Callable[[CheckResult], None]) -> AsyncIterator[None]:
    """Hear HAProxy's log at this path, where only this user may write, and hand on what it says of checks.

    Where no socket can be made nothing is heard: ours says so, and HAProxy's statistics tell the same a little later.
    """
    transport: asyncio.DatagramTransport | None = None
    try:
        transport = await _listen(path, on_result)
    except OSError as error:
        log.warning("log_not_heard", path=path, reason=error.strerror or str(error))
    try:
        yield
    finally:
        if transport is not None:
            transport.close()


async def _listen(path: Path, on_result: Callable[[CheckResult], None]) -> asyncio.DatagramTransport:
    listener = _bind(path)
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _LogReader(on_result), sock=listener
        )
    except BaseException:
        listener.close()
        raise
    return transport


def _bind(path: Path) -> socket.socket:
    # Made under another name: at the one that HAProxy knows there is no moment with a wider mode, and none without it.
    early = path.with_name(f"{path.name}.new")
    early.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        listener.setblocking(False)
        listener.bind(os.fspath(early))
        early.chmod(0o600)
        early.replace(path)
    except BaseException:
        listener.close()
        raise
    return listener
