"""Serve the API on a UNIX socket: HTTP/1.1 by h11 over asyncio's streams, light enough for every node.

Who may ask is decided by the file's mode (0600), so there is no token. Everything has a limit: connections, the size of
a request's head and body, how long a connection may be idle and how long a client may take to send or to read.
"""

import asyncio
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

import h11

from rumor.errors import Bug, ConfigError
from rumor.log import get_logger
from rumor.model import Seconds
from rumor.web.api import Answer, BadRequest, Response, failure, parse_target

log = get_logger("api")

PATH_LIMIT_BYTES = 107
"""Linux keeps a UNIX socket's path in 108 bytes, the last of them zero."""
_CHUNK_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one client, and all together, may take."""

    connections: int = 64
    head_bytes: int = 16 * 1024
    body_bytes: int = 64 * 1024
    idle: Seconds = Seconds(30.0)
    transfer: Seconds = Seconds(10.0)
    """For sending one request, and again for reading its response."""


class UnixServer:
    """Owns the socket file and the connections on it."""

    def __init__(self, path: Path, answer: Answer, *, limits: ServerLimits | None = None) -> None:
        self._path = path
        self._answer = answer
        self._limits = limits or ServerLimits()
        self._socket: socket.socket | None = None
        self._inode: int | None = None
        self._connections = 0

    async def start(self) -> None:
        """Listen; from here on clients may connect, and `run` answers them. A stale socket is replaced.

        Raises:
            ConfigError: the path is too long, is something else than a socket, or somebody answers there.
        """
        if len(os.fsencode(self._path)) > PATH_LIMIT_BYTES:
            raise ConfigError(
                f"socket path {self._path} is longer than {PATH_LIMIT_BYTES} bytes: use a shorter run directory"
            )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            await self._remove_stale()
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listener.setblocking(False)
                listener.bind(os.fspath(self._path))
                # Before listen: until then nobody can connect, so there is no moment with a wider mode.
                self._path.chmod(0o600)
                self._inode = self._path.stat().st_ino
                listener.listen(self._limits.connections)
            except BaseException:
                listener.close()
                raise
        except OSError as error:
            raise ConfigError(f"cannot listen on socket {self._path}: {error.strerror or error}") from error
        self._socket = listener

    async def run(self) -> None:
        """Answer until cancelled, then close everything and remove the socket.

        Raises:
            Bug: `start` was not called.
        """
        if self._socket is None:
            raise Bug("UnixServer.run before start")
        is_closing = False
        async with asyncio.TaskGroup() as tasks:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if is_closing:
                    writer.transport.abort()
                    return
                tasks.create_task(self._serve(reader, writer), name="api connection")

            server = await asyncio.start_unix_server(accept, sock=self._socket, limit=_CHUNK_BYTES)
            try:
                await asyncio.Event().wait()
            finally:
                is_closing = True
                server.close()
                self._remove_own()

    async def aclose(self) -> None:
        """Close a server that was started but never run; after `run` there is nothing left to do."""
        if self._socket is not None:
            self._socket.close()
            self._remove_own()

    async def _remove_stale(self) -> None:
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ConfigError(f"{self._path} is in the way: it is not a socket; move it away")
        try:
            async with asyncio.timeout(1.0):
                _, writer = await asyncio.open_unix_connection(self._path)
        except (ConnectionRefusedError, FileNotFoundError):
            self._path.unlink(missing_ok=True)
            return
        except TimeoutError:
            raise self._taken() from None
        except OSError as error:
            if error.errno == errno.EAGAIN:  # its backlog is full: somebody listens
                raise self._taken() from error
            raise
        writer.transport.abort()
        raise self._taken()

    def _taken(self) -> ConfigError:
        return ConfigError(f"an agent already answers at {self._path}: stop it, or use another data directory")

    def _remove_own(self) -> None:
        """Remove the file unless another agent has put its own in the same place."""
        try:
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass
        self._inode = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= self._limits.connections:
                await _Connection(reader, writer, self._answer, self._limits).run()
            else:
                log.warning("api_connection_refused", limit=self._limits.connections)
        except (OSError, TimeoutError) as error:
            log.debug("api_connection_lost", error=type(error).__name__)
        except Exception as error:
            # The one boundary of a connection: the others, and the agent, go on.
            log.error("api_connection_crashed", exc=error)
        finally:
            self._connections -= 1
            writer.transport.abort()


class _Connection:
    """One client's connection: requests one after the other, until it says close or is idle for too long."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer, limits: ServerLimits
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._limits = limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)

    async def run(self) -> None:
        # With no room in the buffer, `drain` returns once everything is with the kernel, and closing loses nothing.
        self._writer.transport.set_write_buffer_limits(0)
        while await self._answer_one():
            self._http.start_next_cycle()

    async def _answer_one(self) -> bool:
        """Read and answer one request; return whether another may follow."""
        try:
            async with asyncio.timeout(self._limits.idle):
                head = await self._next_event()
            if not isinstance(head, h11.Request):
                return False  # the client has closed
            method = head.method.decode("ascii")
            async with asyncio.timeout(self._limits.transfer):
                is_whole = await self._skip_body()
            request = parse_target(method, head.target.decode("ascii"))
        except h11.RemoteProtocolError as error:
            await self._send(failure(error.error_status_hint, f"bad request: {error}"), is_head=False)
            return False
        except BadRequest as error:
            await self._send(failure(400, str(error)), is_head=method == "HEAD")
        else:
            if is_whole:
                response = await self._answer(request)
            else:
                response = failure(413, f"a body of more than {self._limits.body_bytes} bytes is not wanted here")
            await self._send(response, is_head=method == "HEAD")
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _next_event(self) -> h11.Event | None:
        """Return the next event, or None where the client wants to speak another protocol."""
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                return None
            if self._http.they_are_waiting_for_100_continue:
                await self._write(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._reader.read(_CHUNK_BYTES))

    async def _skip_body(self) -> bool:
        """Read the body away; no route wants one. Return False if it is larger than it may be."""
        size = 0
        while isinstance(event := await self._next_event(), h11.Data):
            size += len(event.data)
            if size > self._limits.body_bytes:
                return False
        return True

    async def _send(self, response: Response, *, is_head: bool) -> None:
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            ("Cache-Control", "no-store"),
            *response.headers,
        ]
        events: list[h11.Event] = [h11.Response(status_code=response.status, headers=headers)]
        if not is_head:
            events.append(h11.Data(data=response.body))
        await self._write(*events, h11.EndOfMessage())

    async def _write(self, *events: h11.Event) -> None:
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        async with asyncio.timeout(self._limits.transfer):
            await self._writer.drain()
