"""Commands out, replies in, over HAProxy's UNIX sockets, each exchange with a deadline and a limit.

Every exchange is a connection of its own: the worker behind the path changes with each reload. Many commands go as one
conversation (`ask_each`): a thousand servers cost one connection, not a thousand.
Facts: reference/haproxy.md, section 1.
"""

import asyncio
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from rumor.errors import Bug, Unreachable
from rumor.haproxy.replies import CONVERSATION_BEGINS, split_conversation
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
_QUIT = "quit"
_MANY_LINES = 64
_GATHERING = Seconds(0.003)
_LINE_TIME = Seconds(0.01)
"""What the deadline of a conversation grows by with each line; usual are 0.1 ms."""


class Commands(Protocol):
    """One of HAProxy's command sockets."""

    async def ask(self, *commands: str, deadline: Seconds = DEADLINE) -> str: ...
    async def ask_with(self, command: str, payload: str) -> str: ...
    async def ask_each(self, lines: Sequence[Sequence[str]]) -> list[str]: ...


class NobodyListens(Unreachable):
    """No word has been said yet: it may be said elsewhere."""


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
        reply = await self._exchange([_line(commands)], deadline, slow=_SLOW)
        return reply.strip()

    async def ask_each(self, lines: Sequence[Sequence[str]]) -> list[str]:
        """Send many lines of commands in one conversation; return what was replied to each, stripped.

        A line is carried out as a whole or not at all, whatever becomes of this process.

        Raises:
            Unreachable: nobody listens, the replies did not come in time, or some are missing.
            Bug: a command holds a character that would start another.
        """
        if not lines:
            return []
        texts = ["prompt", *map(_line, (CONVERSATION_BEGINS, *lines)), _QUIT]
        time_for_all = Seconds(len(lines) * _LINE_TIME)
        reply = await self._exchange(texts, Seconds(DEADLINE + time_for_all), slow=Seconds(_SLOW + time_for_all))
        replies = split_conversation(reply, [len(line) for line in lines])
        if replies is None:
            raise Unreachable(f"HAProxy broke off on {self.path} in a conversation of {len(lines)} lines")
        return replies

    async def ask_with(self, command: str, payload: str) -> str:
        """Send one command with what it is to take in; return the reply, stripped.

        Raises:
            Unreachable: nobody listens, or the reply did not come in time.
            Bug: the command holds a character that would start another, or the payload an empty line, which ends it.
        """
        lines = payload.splitlines()
        if not all(lines):
            raise Bug("a payload for HAProxy holds an empty line")
        # No word of this is ever logged: it may be a key.
        return (await self._exchange([f"{_line([command])} <<", *lines, ""], DEADLINE, slow=_SLOW)).strip()

    async def _exchange(self, lines: Sequence[str], deadline: Seconds, *, slow: Seconds) -> str:
        began = time.monotonic()
        try:
            async with asyncio.timeout(deadline):
                return await self._converse(lines)
        except TimeoutError as error:
            raise Unreachable(f"HAProxy did not answer on {self.path} within {deadline:g} s") from error
        except OSError as error:
            raise Unreachable(f"HAProxy does not listen on {self.path}: {error.strerror or error}") from error
        finally:
            took = time.monotonic() - began
            if took > slow:
                first = lines[2] if lines[0] == "prompt" and len(lines) > 2 else lines[0]
                log.warning("haproxy_slow", command=first[:80], took=f"{took:.3f}s")

    async def _converse(self, lines: Sequence[str]) -> str:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
            opened.setblocking(False)
            try:
                await loop.sock_connect(opened, str(self.path))
            except (FileNotFoundError, ConnectionRefusedError) as error:
                raise NobodyListens(f"HAProxy does not listen on {self.path}: {error.strerror or error}") from error
            # HAProxy stops reading while its replies are not taken, so both go on at once.
            writing = asyncio.create_task(_write(opened, lines), name="commands")
            try:
                parts: list[bytes] = []
                size = 0
                while data := await loop.sock_recv(opened, 256 * 1024):
                    size += len(data)
                    if size > _REPLY_LIMIT:
                        raise Unreachable(f"HAProxy's reply on {self.path} is longer than {_REPLY_LIMIT} bytes")
                    parts.append(data)
                    if len(lines) > _MANY_LINES:
                        # It writes each reply by itself, and waking up for each costs more than what it says.
                        await asyncio.sleep(_GATHERING)
                await writing
                return b"".join(parts).decode("utf-8", "replace")
            finally:
                writing.cancel()
                # Before its socket is closed: the loop knows that by a number, which is another's next.
                await asyncio.gather(writing, return_exceptions=True)


class WorkerSocket(CommandSocket):
    """The current worker's stats socket; where nobody listens on it, the worker is reached through the master CLI.

    Its file may be gone, or another's: HAProxy serves on.
    """

    def __init__(self, path: Path, master: Path) -> None:
        super().__init__(path)
        self._master = CommandSocket(master)

    async def ask(self, *commands: str, deadline: Seconds = DEADLINE) -> str:
        try:
            return await super().ask(*commands, deadline=deadline)
        except NobodyListens:
            return await self._master.ask("@1", *commands, deadline=deadline)

    async def ask_with(self, command: str, payload: str) -> str:
        try:
            return await super().ask_with(command, payload)
        except NobodyListens:
            return await self._master.ask_with(f"@1 {command}", payload)

    async def ask_each(self, lines: Sequence[Sequence[str]]) -> list[str]:
        try:
            return await super().ask_each(lines)
        except NobodyListens:
            return [await self._master.ask("@1", *line) for line in lines]


def _line(commands: Sequence[str]) -> str:
    for command in commands:
        if "\n" in command or ";" in command or len(command) > _COMMAND_LIMIT:
            raise Bug(f"this is not one command for HAProxy: {command[:200]!a}")
    return ";".join(commands)


async def _write(opened: socket.socket, lines: Sequence[str]) -> None:
    await asyncio.get_running_loop().sock_sendall(opened, "".join(f"{line}\n" for line in lines).encode())
    # The master keeps the connection open unless we are seen to have finished. But HAProxy hangs up on who has finished
    # early, with commands still unread, once it finds no room for a reply: a conversation ends by its last command.
    if lines[-1] != _QUIT:
        opened.shutdown(socket.SHUT_WR)
