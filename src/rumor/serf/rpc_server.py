"""Serf's RPC, server side: whoever speaks to a serf agent's port 7373 may speak to ours.

One task per client reads commands one after the other and answers in that order; events, query answers and log lines
come between. A client that reads too slowly loses events, never the agent its time.
Facts: reference/gossip-wire.md, section 10.
"""

import asyncio
import contextlib
import hmac
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rumor.errors import ConfigError, PeerError, Refused
from rumor.log import get_logger
from rumor.model import Seconds
from rumor.names import Endpoint
from rumor.serf import rpc
from rumor.serf.coordinate import Coordinate
from rumor.serf.events import QueryAcked, QueryAnswered, QueryEnded, QueryHeard, SerfMember
from rumor.serf.keys import KeyReport
from rumor.serf.layer import QueryRequest
from rumor.serf.queries import compile_expression
from rumor.serf.stream import EventFilter, StreamEvent, parse_filters

log = get_logger("agent.ipc")

_CLIENTS_LIMIT = 256
_PENDING_LIMIT = 1024 * 1024
"""How many bytes may wait for a client before it loses events."""
_OPEN_QUERIES_LIMIT = 1024
LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERR")
_Body = dict[str, Any]
QueryEvent = QueryAcked | QueryAnswered | QueryEnded
Unsubscribe = Callable[[], None]


class Control(Protocol):
    """What the agent does for its RPC clients."""

    def members(self) -> tuple[SerfMember, ...]: ...
    async def join(self, addresses: list[str], *, replay: bool) -> tuple[int, str]: ...
    async def leave(self) -> None: ...
    def force_leave(self, name: str, *, prune: bool) -> None: ...
    def user_event(self, name: str, payload: bytes, *, coalesce: bool) -> None: ...
    def change_tags(self, tags: dict[str, str], delete: list[str]) -> None: ...
    def query(self, request: QueryRequest, on_event: Callable[[QueryEvent], None]) -> None: ...
    def respond(self, key: int, payload: bytes) -> None: ...
    async def change_keys(self, verb: str, key: str) -> KeyReport: ...
    def stats(self) -> dict[str, dict[str, str]]: ...
    def coordinate(self, name: str) -> Coordinate | None: ...
    def subscribe(self, filters: tuple[EventFilter, ...], on_event: Callable[[StreamEvent], None]) -> Unsubscribe: ...
    def follow_log(self, level: str, on_line: Callable[[str], None]) -> Unsubscribe: ...


@dataclass(frozen=True, slots=True)
class RpcSettings:
    """Where RPC is served: on an address, or on a UNIX socket, which asks for no token."""

    bind: Endpoint | Path
    token: str = field(default="", repr=False)


class RpcServer:
    """Listens for RPC clients."""

    def __init__(self, settings: RpcSettings, control: Control) -> None:
        self._settings = settings
        self._control = control
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigError: the address is taken or not this machine's.
        """
        bind = self._settings.bind
        try:
            if isinstance(bind, Path):
                bind.unlink(missing_ok=True)
                self._server = await asyncio.start_unix_server(self._serve, bind, backlog=64)
                bind.chmod(0o600)
            else:
                self._server = await asyncio.start_server(self._serve, bind.host or None, bind.port, backlog=64)
        except OSError as error:
            raise ConfigError(f"cannot listen for RPC on {bind}: {error.strerror}; choose another -rpc-addr") from error

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
            if isinstance(self._settings.bind, Path):
                self._settings.bind.unlink(missing_ok=True)
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._clients) >= _CLIENTS_LIMIT:
            writer.transport.abort()
            return
        self._clients.add(task)
        peer = writer.get_extra_info("peername")
        log.info("accepted", text=f"Accepted client: {peer[0]}:{peer[1]}" if peer else "Accepted client")
        client = _Client(reader, writer, self._control, self._settings.token)
        try:
            await client.run()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except PeerError as error:
            log.error("client_refused", text=str(error))
        finally:
            client.close()
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


class _Bye(Exception):
    """The conversation is over."""


class _Client:
    """One client's conversation."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, control: Control, token: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._control = control
        self._token = token
        self._objects = rpc.Reader()
        self._has_shaken_hands = False
        self._is_known = not token
        self._streams: dict[int, Unsubscribe] = {}
        self._monitor: tuple[int, Unsubscribe] | None = None
        self._queries: dict[int, int] = {}
        """The client's number of a heard query -> the agent's."""
        self._next_query = 0
        self._is_closed = False

    async def run(self) -> None:
        """Read and answer commands until the client goes, or breaks the rules.

        Raises:
            PeerError: it did.
        """
        with contextlib.suppress(_Bye):
            while True:
                header = await self._next()
                if header is None:
                    return
                command, seq = rpc.text(header.get("Command")), header.get("Seq", 0)
                if not isinstance(seq, int):
                    raise PeerError("Seq is no number")
                await self._take(command, seq)
                await self._writer.drain()

    def close(self) -> None:
        self._is_closed = True
        for stop in self._streams.values():
            stop()
        if self._monitor is not None:
            self._monitor[1]()
        self._streams.clear()
        self._monitor = None

    # --- objects in, objects out

    async def _next(self) -> _Body | None:
        """Return the next object; None at the end."""
        while (found := self._objects.next()) is None:
            data = await self._reader.read(64 * 1024)
            if not data:
                return None
            self._objects.feed(data)
        return found

    async def _body(self) -> _Body:
        body = await self._next()
        if body is None:
            raise _Bye
        return body

    def _reply(self, seq: int, error: str = "", body: dict[str, object] | None = None) -> None:
        data = rpc.pack({"Error": error, "Seq": seq})
        self._writer.write(data if body is None else data + rpc.pack(body))

    def _push(self, seq: int, body: dict[str, object]) -> None:
        """Send a record of a stream, unless the client does not take what it was sent before."""
        if not self._is_closed and self._writer.transport.get_write_buffer_size() < _PENDING_LIMIT:
            self._reply(seq, body=body)

    # --- commands

    async def _take(self, command: str, seq: int) -> None:
        if command == "handshake":
            self._shake_hands(seq, await self._body())
        elif not self._has_shaken_hands:
            self._reply(seq, "Handshake required")
            await self._writer.drain()
            raise _Bye
        elif command == "auth":
            key = rpc.text((await self._body()).get("AuthKey"))
            self._is_known = hmac.compare_digest(key.encode("utf-8", "surrogateescape"), self._token.encode())
            self._reply(seq, "" if self._is_known else "Invalid authentication token")
        elif not self._is_known:
            self._reply(seq, "Authentication required")
        elif command in _COMMANDS:
            await _COMMANDS[command](self, seq)
        else:
            self._reply(seq, "Unsupported command")
            await self._writer.drain()
            raise _Bye

    def _shake_hands(self, seq: int, body: _Body) -> None:
        if body.get("Version") != rpc.VERSION:
            self._reply(seq, "Unsupported IPC version")
        elif self._has_shaken_hands:
            self._reply(seq, "Handshake already performed")
        else:
            self._has_shaken_hands = True
            self._reply(seq)

    async def _event(self, seq: int) -> None:
        body = await self._body()
        try:
            self._control.user_event(
                rpc.text(body.get("Name")), _bytes(body.get("Payload")), coalesce=body.get("Coalesce") is True
            )
        except Refused as error:
            self._reply(seq, str(error))
        else:
            self._reply(seq)

    async def _force_leave(self, seq: int) -> None:
        body = await self._body()
        self._control.force_leave(rpc.text(body.get("Node")), prune=body.get("Prune") is True)
        self._reply(seq)

    async def _join(self, seq: int) -> None:
        body = await self._body()
        addresses = [rpc.text(one) for one in _list(body.get("Existing"))]
        count, words = await self._control.join(addresses, replay=body.get("Replay") is True)
        self._reply(seq, "" if count else words, {"Num": count})

    async def _members(self, seq: int) -> None:
        self._reply(seq, body={"Members": [rpc.member_record(member) for member in self._control.members()]})

    async def _members_filtered(self, seq: int) -> None:
        body = await self._body()
        name = _anchored(rpc.text(body.get("Name")))
        status = _anchored(rpc.text(body.get("Status")))
        tags = {tag: _anchored(rpc.text(expression)) for tag, expression in (body.get("Tags") or {}).items()}
        found = []
        for member in self._control.members():
            record = rpc.member_record(member)
            own = record["Tags"]
            if (
                (name is None or name.search(member.name))
                and (status is None or status.search(rpc.status_word(member.status)))
                and isinstance(own, dict)
                and all(wanted is None or wanted.search(own.get(tag, "")) for tag, wanted in tags.items())
            ):
                found.append(record)
        self._reply(seq, body={"Members": found})

    async def _leave(self, seq: int) -> None:
        log.info("leave", text="Graceful leave triggered")
        await self._control.leave()
        self._reply(seq)

    async def _tags(self, seq: int) -> None:
        body = await self._body()
        tags = {tag: rpc.text(value) for tag, value in (body.get("Tags") or {}).items()}
        delete = [rpc.text(one) for one in _list(body.get("DeleteTags"))]
        try:
            self._control.change_tags(tags, delete)
        except (ConfigError, Refused) as error:
            self._reply(seq, str(error))
        else:
            self._reply(seq)

    async def _stream(self, seq: int) -> None:
        kinds = rpc.text((await self._body()).get("Type"))
        if seq in self._streams:
            self._reply(seq, "Stream with given sequence exists")
            return
        try:
            filters = parse_filters(kinds)
        except Refused:
            self._reply(seq, "Invalid event filter")
            return
        self._reply(seq)
        self._streams[seq] = self._control.subscribe(filters, lambda event: self._push_event(seq, event))

    def _push_event(self, seq: int, event: StreamEvent) -> None:
        number = 0
        if isinstance(event, QueryHeard):
            self._next_query += 1
            number = self._next_query
            if len(self._queries) >= _OPEN_QUERIES_LIMIT:
                del self._queries[next(iter(self._queries))]
            self._queries[number] = event.key
        self._push(seq, rpc.event_record(event, number))

    async def _follow(self, seq: int) -> None:
        level = rpc.text((await self._body()).get("LogLevel")).upper()
        if level not in LOG_LEVELS:
            self._reply(seq, f"Unknown log level: {level}")
        elif self._monitor is not None:
            self._reply(seq, "Monitor already exists")
        else:
            self._reply(seq)
            self._monitor = (seq, self._control.follow_log(level, lambda line: self._push(seq, {"Log": line})))

    async def _stop(self, seq: int) -> None:
        stop = (await self._body()).get("Stop")
        if self._monitor is not None and self._monitor[0] == stop:
            self._monitor[1]()
            self._monitor = None
        end = self._streams.pop(stop, None) if isinstance(stop, int) else None
        if end is not None:
            end()
        self._reply(seq)

    async def _query(self, seq: int) -> None:
        body = await self._body()
        timeout = body.get("Timeout") or 0
        factor = body.get("RelayFactor") or 0
        if not isinstance(timeout, int) or not isinstance(factor, int) or not 0 <= factor <= 255:
            raise PeerError("Timeout and RelayFactor are numbers")
        request = QueryRequest(
            name=rpc.text(body.get("Name")),
            payload=_bytes(body.get("Payload")),
            nodes=tuple(rpc.text(one) for one in _list(body.get("FilterNodes"))),
            tags=tuple((tag, rpc.text(value)) for tag, value in (body.get("FilterTags") or {}).items()),
            wants_acks=body.get("RequestAck") is True,
            relay_factor=factor,
            timeout=Seconds(timeout / 1e9) if timeout > 0 else None,
        )
        try:
            self._control.query(request, lambda event: self._push(seq, _query_record(event)))
        except Refused as error:
            self._reply(seq, str(error))
        else:
            self._reply(seq)

    async def _respond(self, seq: int) -> None:
        body = await self._body()
        number = body.get("ID")
        key = self._queries.get(number) if isinstance(number, int) else None
        if key is None:
            self._reply(seq, "No pending queries matching ID")
            return
        try:
            self._control.respond(key, _bytes(body.get("Payload")))
        except Refused as error:
            self._reply(seq, f"failed to respond to key query: {error}")
        else:
            self._reply(seq)

    async def _stats(self, seq: int) -> None:
        stats: dict[str, object] = dict(self._control.stats())
        self._reply(seq, body=stats)

    async def _coordinate(self, seq: int) -> None:
        name = rpc.text((await self._body()).get("Node"))
        self._reply(seq, body=rpc.coordinate_record(self._control.coordinate(name)))

    async def _change_keys(self, seq: int, verb: str) -> None:
        key = "" if verb == "list-keys" else rpc.text((await self._body()).get("Key"))
        report = await self._control.change_keys(verb, key)
        self._reply(
            seq,
            report.error,
            {
                "Keys": dict(report.keys) if report.keys is not None else None,
                "Messages": dict(report.messages),
                "NumErr": report.errors,
                "NumNodes": report.nodes,
                "NumResp": report.responses,
            },
        )


def _key_command(verb: str) -> Callable[[_Client, int], Coroutine[Any, Any, None]]:
    return lambda client, seq: client._change_keys(seq, verb)


_COMMANDS: dict[str, Callable[[_Client, int], Coroutine[Any, Any, None]]] = {
    "event": _Client._event,
    "force-leave": _Client._force_leave,
    "join": _Client._join,
    "members": _Client._members,
    "members-filtered": _Client._members_filtered,
    "leave": _Client._leave,
    "tags": _Client._tags,
    "stream": _Client._stream,
    "monitor": _Client._follow,
    "stop": _Client._stop,
    "query": _Client._query,
    "respond": _Client._respond,
    "stats": _Client._stats,
    "get-coordinate": _Client._coordinate,
    **{verb: _key_command(verb) for verb in ("install-key", "use-key", "remove-key", "list-keys")},
}


def _query_record(event: QueryEvent) -> dict[str, object]:
    match event:
        case QueryAcked(_, sender):
            return {"From": sender, "Payload": None, "Type": "ack"}
        case QueryAnswered(_, sender, payload):
            return {"From": sender, "Payload": payload or None, "Type": "response"}
        case QueryEnded():
            return {"From": "", "Payload": None, "Type": "done"}


def _anchored(expression: str) -> re.Pattern[str] | None:
    return compile_expression(f"^{expression}$") if expression else None


def _bytes(value: object) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, bytes):
        raise PeerError("bytes were expected")
    return value


def _list(value: object) -> list[object]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise PeerError("a list was expected")
    return value
