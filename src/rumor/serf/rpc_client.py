"""Serf's RPC, client side: talks to a serf agent, or to ours. Blocking; for commands, not for agents.

Facts: reference/gossip-wire.md, section 10.
"""

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rumor.errors import PeerError, Refused, Unreachable
from rumor.model import Seconds
from rumor.names import Endpoint
from rumor.serf import rpc

_CONNECT_DEADLINE = Seconds(10.0)
_HAS_BODY = frozenset(
    {
        "members", "members-filtered", "join", "stats", "get-coordinate",
        "install-key", "use-key", "remove-key", "list-keys",
    }
)  # fmt: skip
"""Commands whose replies have a body, even where they say no."""
Body = dict[str, Any]


class RpcError(Refused):
    """The agent said no; `body` is what came with it."""

    def __init__(self, words: str, body: Body) -> None:
        super().__init__(words)
        self.body = body


class RpcClient:
    """One connection to an agent."""

    def __init__(self, where: Endpoint | Path, *, token: str = "") -> None:
        """Connect, and say hello.

        Raises:
            Unreachable: nobody answers there; the words are serf's.
            RpcError: the agent does not take the token.
        """
        self._where = where
        self._objects = rpc.Reader(rpc.REPLY_LIMIT)
        self._seq = 0
        try:
            if isinstance(where, Path):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(_CONNECT_DEADLINE)
                self._socket.connect(str(where))
            else:
                self._socket = socket.create_connection((where.host or "127.0.0.1", where.port), _CONNECT_DEADLINE)
        except OSError as error:
            words = (error.strerror or str(error)).lower()
            raise Unreachable(f"Error connecting to Serf agent: dial {_name(where)}: connect: {words}") from error
        self._socket.settimeout(None)
        try:
            self.call("handshake", {"Version": rpc.VERSION})
            if token:
                self.call("auth", {"AuthKey": token})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RpcClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def call(self, command: str, body: Mapping[str, object] | None = None) -> Body:
        """Give one command and return the body of its reply, empty where it has none.

        Raises:
            RpcError: the agent said no.
            Unreachable: it hung up.
        """
        seq = self.send(command, body)
        while True:
            header = self._next()
            if header.get("Seq") == seq:
                break
        error = rpc.text(header.get("Error"))
        reply = self._next() if command in _HAS_BODY and error != "Authentication required" else {}
        if error:
            raise RpcError(error, reply)
        return reply

    def send(self, command: str, body: Mapping[str, object] | None = None) -> int:
        """Give a command and return its number, without waiting for the reply."""
        self._seq += 1
        data = rpc.pack({"Command": command, "Seq": self._seq})
        try:
            self._socket.sendall(data if body is None else data + rpc.pack(body))
        except OSError as error:
            raise Unreachable(f"the agent at {_name(self._where)} hung up") from error
        return self._seq

    def records(self) -> Iterator[tuple[int, Body]]:
        """Yield the records of streams as they come, with the number of the command that opened each; ends with it."""
        while True:
            try:
                header = self._next()
                yield int(header.get("Seq", 0)), self._next()
            except Unreachable:
                return

    def _next(self) -> Body:
        try:
            while (found := self._objects.next()) is None:
                data = self._socket.recv(64 * 1024)
                if not data:
                    raise Unreachable(f"the agent at {_name(self._where)} hung up")
                self._objects.feed(data)
        except OSError as error:
            raise Unreachable(f"the agent at {_name(self._where)} hung up: {error.strerror}") from error
        except PeerError as error:
            raise Unreachable(f"the agent at {_name(self._where)} does not speak Serf's RPC") from error
        return found


def _name(where: Endpoint | Path) -> str:
    return f"unix {where}" if isinstance(where, Path) else f"tcp {where}"
