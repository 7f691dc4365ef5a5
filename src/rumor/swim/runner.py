"""The asyncio skin of a SWIM node: one UDP socket, one TCP server, one timer.

No policy lives here: it carries out the node's outputs and feeds it what arrives. Nothing in the packet path waits on
anything, so pings are answered whatever else runs. Every stream has a deadline and a limit, and all streams that peers
opened share one; what goes beyond is counted and cut. Facts: reference/gossip-wire.md, sections 2.4 and 6.1.
"""

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar, cast

from rumor.errors import ConfigError
from rumor.log import get_logger
from rumor.model import Instant, Seconds
from rumor.names import HostPort
from rumor.swim.codec import PACKET_LIMIT
from rumor.swim.events import Event
from rumor.swim.membership import MemberState
from rumor.swim.node import CloseStream, Notify, OpenStream, Output, SendPacket, SendStream, Statistics

log = get_logger("swim")

_INBOUND_STREAMS_LIMIT = 128
_INBOUND_BYTES_LIMIT = 64 * 1024 * 1024
"""What all streams that peers have opened may have sent together, as long as they are open."""
_READ_CHUNK = 64 * 1024
_RECEIVE_BUFFER = 2 * 1024 * 1024
_PAUSE_AFTER_BUG = 1.0
_BUG_REPORT_INTERVAL = 5.0
_BACKLOG = 256
_BIND_HINTS = {
    errno.EADDRINUSE: "stop the program that holds this port, or choose another one with --bind",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose one of its own with --bind",
    errno.EACCES: "ports below 1024 need root: choose another one with --bind",
}


C = TypeVar("C", bound="Core")
R = TypeVar("R")


class Core(Protocol):
    """What runs here: a `Node`, or a layer over one that takes the same inputs."""

    def receive_packet(self, data: bytes, source: HostPort, now: Instant) -> None: ...
    def open_stream(self, stream_id: int, now: Instant) -> None: ...
    def receive_stream(self, stream_id: int, data: bytes, now: Instant) -> None: ...
    def close_stream(self, stream_id: int, now: Instant, *, error: str = "") -> None: ...
    def handle_timer(self, now: Instant) -> None: ...
    def next_timer(self) -> Instant | None: ...
    def take_outputs(self) -> list[Output]: ...
    def join(self, addresses: Sequence[HostPort], now: Instant) -> None: ...
    def sync(self, address: HostPort, now: Instant) -> None: ...
    def leave(self, now: Instant) -> None: ...
    def members(self) -> tuple[MemberState, ...]: ...
    def statistics(self) -> Statistics: ...


class GossipRunner(asyncio.DatagramProtocol, Generic[C]):
    """Runs one core on one address."""

    def __init__(
        self,
        node: C,
        bind: HostPort,
        *,
        tcp_timeout: Seconds = Seconds(10.0),
        on_event: Callable[[Event], None],
    ) -> None:
        """Prepare to run; nothing is bound before `start`.

        Args:
            node: the protocol core; from now on nobody else may call it.
            bind: where to listen, UDP and TCP on the same number; port 0 is not supported.
            tcp_timeout: how long an inbound stream may take in all.
            on_event: called for each event, in order, from the event loop; must not wait. It may give commands.
        """
        self._node = node
        self._bind = bind
        self._tcp_timeout = tcp_timeout
        self._on_event = on_event
        self._udp: asyncio.DatagramTransport | None = None
        self._udp_socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._is_settling = False
        self._pause = 0.0
        self._next_bug_report = Instant(0.0)
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._inbound: set[asyncio.Task[None] | None] = set()
        self._inbound_bytes = 0
        self._next_inbound_id = 0
        self.faults: Counter[str] = Counter()
        """What went wrong at this wall, by kind: `send`, `receive`, `streams_limit`, `bytes_limit`, `bug`."""

    async def start(self) -> None:
        """Bind UDP and TCP.

        Raises:
            ConfigError: the address is taken or is not this machine's.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await asyncio.start_server(self._serve, self._bind.host, self._bind.port, backlog=_BACKLOG)
            self._udp_socket = _bind_udp(self._bind)
            self._udp, _ = await loop.create_datagram_endpoint(lambda: self, sock=self._udp_socket)
        except OSError as error:
            await self.aclose()
            hint = _BIND_HINTS.get(error.errno or 0, "choose another address with --bind")
            raise ConfigError(f"cannot gossip on {self._bind} (UDP and TCP): {_reason(error)}; {hint}") from error

    async def run(self) -> None:
        """Gossip until cancelled. Call `start` first."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                try:
                    self._settle()
                    await asyncio.Event().wait()
                finally:
                    # The group takes no more tasks from here on.
                    self._tasks = None
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close every socket at once, without a word: the others will find this node silent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._udp is not None:
            self._udp.abort()
            self._udp = self._udp_socket = None
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers.values():
            writer.transport.abort()
        self._writers.clear()
        inbound = [task for task in self._inbound if task is not None]
        for task in inbound:
            task.cancel()
        if inbound:
            await asyncio.wait(inbound, timeout=1.0)
        # One turn of the loop lets the transports close their sockets.
        await asyncio.sleep(0)

    # --- commands: each calls the node and carries out what it wants

    def join(self, addresses: Sequence[HostPort]) -> None:
        self._node.join(addresses, _now())
        self._settle()

    def sync(self, address: HostPort) -> None:
        self._node.sync(address, _now())
        self._settle()

    def leave(self) -> None:
        self._node.leave(_now())
        self._settle()

    def do(self, command: Callable[[C, Instant], R]) -> R:
        """Give the core any other command; whatever it raises is raised here."""
        try:
            return command(self._node, _now())
        finally:
            self._settle()

    def members(self) -> tuple[MemberState, ...]:
        return self._node.members()

    def statistics(self) -> Statistics:
        return self._node.statistics()

    # --- UDP

    def datagram_received(self, data: bytes, addr: tuple[object, ...]) -> None:
        self._tell(lambda now: self._node.receive_packet(data[: PACKET_LIMIT + 1], _address(addr), now))

    def error_received(self, exc: Exception) -> None:
        self.faults["receive"] += 1

    def _send(self, destination: HostPort, data: bytes) -> None:
        if self._udp_socket is None:
            return
        try:
            # Not through the transport, which would queue without a limit what the kernel does not take now: the
            # protocol is made for lost packets, not for late ones.
            self._udp_socket.sendto(data, (destination.host, destination.port))
        except OSError:
            # No route, a packet too long, a full buffer: the probe will notice in its own way.
            self.faults["send"] += 1

    # --- the one timer, and the one way in and out of the node

    def _fire(self) -> None:
        self._timer = None
        self._tell(self._node.handle_timer)

    def _tell(self, input_at: Callable[[Instant], None]) -> None:
        """Hand one input to the node. A bug in it costs this input, not the agent."""
        try:
            input_at(_now())
        except Exception as error:
            self._report_bug(error)
        self._settle()

    def _settle(self) -> None:
        """Carry out what the node wants and set the timer anew."""
        if self._tasks is None or self._is_settling:
            # Before `run` and after it nothing is sent. An event's receiver that gives a command is served by the
            # loop below, in the order in which the node said things.
            return
        self._is_settling = True
        try:
            while outputs := self._node.take_outputs():
                for output in outputs:
                    self._carry_out(output)
        finally:
            self._is_settling = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._node.next_timer()
        if due is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(self._pause, due - _now()), self._fire)
            self._pause = 0.0

    def _carry_out(self, output: Output) -> None:
        match output:
            case SendPacket(destination, data):
                self._send(destination, data)
            case OpenStream(stream_id):
                assert self._tasks is not None  # noqa: S101 - _settle has looked
                self._tasks.create_task(self._converse(output), name=f"stream {stream_id}")
            case SendStream(stream_id, data):
                writer = self._writers.get(stream_id)
                if writer is not None:
                    writer.write(data)
            case CloseStream(stream_id):
                writer = self._writers.pop(stream_id, None)
                if writer is not None:
                    writer.close()
            case Notify(event):
                try:
                    self._on_event(event)
                except Exception as error:
                    self._report_bug(error)

    def _report_bug(self, error: Exception) -> None:
        """Say so in the log: a packet that finds a bug must not be able to stop the agent, nor to fill its log."""
        self.faults["bug"] += 1
        # What was due still is; without a pause the timer would spin.
        self._pause = _PAUSE_AFTER_BUG
        if _now() >= self._next_bug_report:
            self._next_bug_report = Instant(_now() + _BUG_REPORT_INTERVAL)
            log.error("bug", exc=error, text=repr(error), so_far=self.faults["bug"])

    # --- TCP

    async def _converse(self, stream: OpenStream) -> None:
        """Open one stream to a peer, write, and feed the node what comes back."""
        error = ""
        writer = None
        try:
            async with asyncio.timeout(stream.timeout):
                reader, writer = await asyncio.open_connection(stream.destination.host, stream.destination.port)
                self._writers[stream.stream_id] = writer
                writer.write(stream.data)
                await writer.drain()
                while stream.stream_id in self._writers and (data := await reader.read(_READ_CHUNK)):
                    self._feed(stream.stream_id, data)
        except TimeoutError:
            error = f"no answer within {stream.timeout:g} s"
        except OSError as failure:
            error = _reason(failure)
        finally:
            if writer is not None:
                writer.transport.abort()
        self._end(stream.stream_id, error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one peer's stream, until our reply has been taken or its time is up."""
        if self._tasks is None or len(self._inbound) >= _INBOUND_STREAMS_LIMIT:
            self.faults["streams_limit"] += 1
            writer.transport.abort()
            return
        task = asyncio.current_task()
        self._inbound.add(task)
        self._next_inbound_id += 2
        stream_id = self._next_inbound_id
        self._writers[stream_id] = writer
        error = ""
        read_bytes = 0
        try:
            async with asyncio.timeout(self._tcp_timeout):
                self._tell(lambda now: self._node.open_stream(stream_id, now))
                while stream_id in self._writers and (data := await reader.read(_READ_CHUNK)):
                    read_bytes += len(data)
                    self._inbound_bytes += len(data)
                    if self._inbound_bytes > _INBOUND_BYTES_LIMIT:
                        self.faults["bytes_limit"] += 1
                        error = "too much at once"
                        break
                    self._feed(stream_id, data)
                # A peer that does not take its reply holds its place among the 128 until the deadline.
                writer.close()
                await writer.wait_closed()
        except TimeoutError:
            error = f"not finished within {self._tcp_timeout:g} s"
        except OSError as failure:
            error = _reason(failure)
        finally:
            writer.transport.abort()
            self._inbound_bytes -= read_bytes
            self._inbound.discard(task)
            self._end(stream_id, error)

    def _feed(self, stream_id: int, data: bytes) -> None:
        self._tell(lambda now: self._node.receive_stream(stream_id, data, now))

    def _end(self, stream_id: int, error: str) -> None:
        self._writers.pop(stream_id, None)
        self._tell(lambda now: self._node.close_stream(stream_id, now, error=error))


def _bind_udp(bind: HostPort) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    udp_socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family is socket.AF_INET6:
            # As asyncio does for TCP: `::` means IPv6 alone, so that an address has one form only.
            udp_socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with contextlib.suppress(OSError):
            udp_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        udp_socket.bind((bind.host, bind.port))
    except OSError:
        udp_socket.close()
        raise
    return udp_socket


def _reason(error: OSError) -> str:
    """Return the system's own words; asyncio puts its own in their place."""
    return (os.strerror(error.errno) if error.errno else str(error)).lower()


def _now() -> Instant:
    return Instant(time.monotonic())


def _address(addr: tuple[object, ...]) -> HostPort:
    host, port = cast("tuple[str, int]", addr[:2])
    return HostPort(host.partition("%")[0], port)
