"""One command out, one reply in, over HAProxy's UNIX sockets, each with a deadline and a limit.

Every exchange is a connection of its own: the worker behind the path changes with each reload.
Facts: reference/haproxy.md, section 1.
"""

import asyncio
import time
from pathlib import Path

from rumor.errors import Bug, Unreachable
from rumor.log import get_logger
from rumor.model import Seconds

log = get_logger("haproxy")

DEADLINE = Seconds(5.0)
_SLOW = Seconds(0.1)
"""An answer that takes longer is worth a line in the log; usual are one or two milliseconds."""
RELOAD_DEADLINE = Seconds(30.0)
_REPLY_LIMIT = 64 * 1024 * 1024
_COMMAND_LIMIT = 16_000
"""One command must fit HAProxy's buffer of 16,384 bytes."""


class CommandSocket:
    """A worker's stats socket, or the master CLI."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def ask(self, *commands: str, deadline: Seconds = DEADLINE) -> str:
        """Send commands on one line and return the whole reply, stripped.

        Raises:
            Unreachable: nobody listens, or the reply did not come in time.
            Bug: a command holds a character that would start another.
        """
        for command in commands:
            if "\n" in command or ";" in command or len(command) > _COMMAND_LIMIT:
                raise Bug(f"this is not one command for HAProxy: {command[:200]!a}")
        began = time.monotonic()
        try:
            async with asyncio.timeout(deadline):
                return await self._exchange(";".join(commands))
        except TimeoutError as error:
            raise Unreachable(f"HAProxy did not answer on {self.path} within {deadline:g} s") from error
        except OSError as error:
            raise Unreachable(f"HAProxy does not listen on {self.path}: {error.strerror or error}") from error
        finally:
            took = time.monotonic() - began
            if took > _SLOW:
                log.warning("haproxy_slow", command=commands[0][:80], took=f"{took:.3f}s")

    async def _exchange(self, line: str) -> str:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            writer.write(f"{line}\n".encode())
            # The master keeps the connection open unless we are seen to have finished.
            writer.write_eof()
            parts: list[bytes] = []
            size = 0
            while data := await reader.read(256 * 1024):
                size += len(data)
                if size > _REPLY_LIMIT:
                    raise Unreachable(f"HAProxy's reply on {self.path} is longer than {_REPLY_LIMIT} bytes")
                parts.append(data)
            return b"".join(parts).decode("utf-8", "replace").strip()
        finally:
            writer.close()
