"""Many nodes in one process on a virtual clock, over a network that loses, parts and stalls.

For tests, for measuring and for playing with timings: an hour of a hundred members takes minutes, and the same seed
gives the same run to the last packet. No socket, no real clock, no task: `run` moves the time on. The nodes are the
real ones; only what `runner.py` does for them is done here by a heap of what happens next.

    simulation = Simulation(seed=1, nodes=5)
    simulation.join_all()
    simulation.run(5)
    simulation.crash("node-3")
    simulation.run(30)
    print(simulation.states("node-0"))
"""

import hashlib
import heapq
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar, assert_never

from rumor.model import Instant, Seconds
from rumor.names import HostPort
from rumor.swim.events import Event
from rumor.swim.membership import Picture
from rumor.swim.messages import NodeRecord, State
from rumor.swim.node import CloseStream, Node, NodeSettings, Notify, OpenStream, Output, SendPacket, SendStream
from rumor.swim.presets import LAN, Timings

_PORT = 7946
_HELD_LIMIT_BYTES = 212_992
"""What Linux keeps for a UDP socket that nobody reads (net.core.rmem_default)."""
_NODES_LIMIT = 2**24 - 2

_E = TypeVar("_E", bound=Event)


@dataclass(frozen=True, slots=True)
class Happening:
    """What one node told the layer above it, and when."""

    at: Instant
    node: str
    event: Event


@dataclass(slots=True)
class Traffic:
    """What the network has carried so far."""

    packets_sent: int = 0
    packets_lost: int = 0
    packets_cut_off: int = 0
    """Sent to nobody: the other side of a partition, or an address where no node runs."""
    bytes_sent: int = 0
    streams_opened: int = 0
    streams_failed: int = 0


@dataclass(slots=True, eq=False)
class _Host:
    """One life of one node; a restart makes a new one."""

    node: Node
    settings: NodeSettings
    is_running: bool = True
    is_frozen: bool = False
    armed: Instant | None = None
    """The earliest timer on the heap."""
    held: list[Callable[[], None]] = field(default_factory=list)
    """What came while the node was frozen."""
    held_bytes: int = 0
    streams: dict[int, tuple["_Host", int]] = field(default_factory=dict)
    """stream id -> the other end"""
    asked: set[int] = field(default_factory=set)
    """The streams it opened that have not ended."""


class Simulation:
    """A cluster of nodes called `node-0`, `node-1`, ..., all started at time 0 and joined to nobody."""

    def __init__(
        self,
        seed: int,
        nodes: int,
        *,
        timings: Timings = LAN,
        loss: float = 0.0,
        latency: tuple[Seconds, Seconds] = (Seconds(0.001), Seconds(0.003)),
    ) -> None:
        """Start the nodes.

        Args:
            seed: where all randomness comes from.
            nodes: how many.
            timings: the preset that all of them use.
            loss: the share of packets that get lost; streams are reliable, as TCP is. May be changed at any time.
            latency: the shortest and the longest way of a packet; a stream takes the longest.
        """
        if not 0 < nodes <= _NODES_LIMIT:
            raise ValueError(f"a simulation has 1 to {_NODES_LIMIT} nodes")
        self.seed = seed
        self.now = Instant(0.0)
        self.loss = loss
        self.losses: dict[str, float] = {}
        """The loss of single nodes, for what they send as for what they get, instead of `loss`."""
        self.passes_streams = True
        """False for a firewall that lets UDP through and drops what would open a stream."""
        self.happenings: list[Happening] = []
        self.traffic = Traffic()
        self._latency = latency
        self._random = Random(seed)  # noqa: S311 # a simulation is repeatable on purpose
        self._next: list[tuple[Instant, int, Callable[[], None]]] = []
        self._order = 0
        self._stream_ids = 0
        self._trace = hashlib.sha256()
        self._sides: Mapping[str, int] = {}
        self._hosts: dict[str, _Host] = {}
        self._names: dict[HostPort, str] = {}
        for number in range(nodes):
            place = number + 1
            address = HostPort(f"10.{place >> 16}.{place >> 8 & 255}.{place & 255}", _PORT)
            self._start(NodeSettings(f"node-{number}", address, timings))

    # --- what to look at

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._hosts)

    @property
    def running(self) -> tuple[str, ...]:
        """The nodes that have not crashed; frozen ones run."""
        return tuple(name for name, host in self._hosts.items() if host.is_running)

    def node(self, name: str) -> Node:
        return self._hosts[name].node

    def address(self, name: str) -> HostPort:
        return self._hosts[name].settings.address

    def states(self, observer: str) -> dict[str, State]:
        """Return how one node sees all those it knows, itself included."""
        return self._hosts[observer].node.states()

    def is_agreed(self, alive: Iterable[str]) -> bool:
        """Say whether each of these nodes sees exactly these as alive, and nobody as suspect."""
        names = set(alive)
        for observer in names:
            states = self.states(observer)
            # Cheap questions first: it is asked after every step, of everybody.
            seen = list(states.values())
            if seen.count(State.ALIVE) != len(names) or State.SUSPECT in seen:
                return False
            if any(states.get(name) is not State.ALIVE for name in names):
                return False
        return True

    def events(self, kind: type[_E]) -> list[tuple[Instant, str, _E]]:
        """Return all events of one kind as (time, who noticed, event), in order."""
        return [(one.at, one.node, one.event) for one in self.happenings if isinstance(one.event, kind)]

    def trace_hash(self) -> str:
        """Return a digest of all inputs of all nodes so far: equal for equal runs, and only for them."""
        return self._trace.hexdigest()

    # --- what to do to a cluster

    def act(self, name: str, command: Callable[[Node, Instant], object]) -> None:
        """Give a node a command, as the layer above it would. A frozen node gets it when it resumes."""
        host = self._hosts[name]
        self._input(host, b"c", b"", lambda: command(host.node, self.now))

    def join(self, name: str, *others: str) -> None:
        addresses = [self.address(other) for other in others]
        self.act(name, lambda node, now: node.join(addresses, now))

    def converge(self) -> None:
        """Let everybody know everybody, as if long joined: joining a thousand members one by one takes its time."""
        nodes = (
            NodeRecord(name, host.settings.address, 1, State.ALIVE, host.settings.meta, host.settings.versions)
            for name, host in self._hosts.items()
        )
        picture = Picture(nodes, self.now)
        for host in self._hosts.values():
            host.node.adopt(picture, self.now)
            self._carry_out(host)

    def join_all(self) -> None:
        """Let all nodes join the first one."""
        first, *others = self._hosts
        for name in others:
            self.join(name, first)

    def sync(self, name: str, address: HostPort) -> None:
        self.act(name, lambda node, now: node.sync(address, now))

    def leave(self, name: str) -> None:
        self.act(name, lambda node, now: node.leave(now))

    def crash(self, name: str) -> None:
        """Stop a node without a word, as `kill -9` does; its host still refuses connections."""
        host = self._hosts[name]
        host.is_running = False
        host.held.clear()
        for peer, peer_id in host.streams.values():
            self._end(peer, peer_id, "connection reset")
        host.streams.clear()

    def restart(self, name: str, *, address: HostPort | None = None) -> None:
        """Start a crashed node anew, with nothing remembered and joined to nobody, at a new address if one is given."""
        host = self._hosts[name]
        if host.is_running:
            self.crash(name)
        old = host.settings
        del self._names[old.address]
        self._start(NodeSettings(name, address or old.address, old.timings, old.meta, old.versions))

    def freeze(self, name: str) -> None:
        """Stop a node's time, as SIGSTOP does: what arrives waits in its sockets."""
        self._hosts[name].is_frozen = True

    def resume(self, name: str) -> None:
        host = self._hosts[name]
        host.is_frozen = False
        held, host.held = host.held, []
        host.held_bytes = 0
        for deliver in held:
            deliver()
        self._fire(host)

    def partition(self, *sides: Iterable[str]) -> None:
        """Cut the network into sides; nodes of no side make up one of their own. Replaces an earlier partition."""
        self._sides = {name: number for number, side in enumerate(sides, start=1) for name in side}

    def heal(self) -> None:
        """Join the sides again: only the network; see `sync` for telling the nodes."""
        self._sides = {}

    # --- time

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until = Instant(self.now + seconds)
        while self._next and self._next[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._next)
            happen()
        self.now = until

    def run_until(self, condition: Callable[[], bool], *, within: float, step: float = 0.1) -> Seconds | None:
        """Let time pass until the condition holds; return how long it took, None if it never did."""
        start = self.now
        while not condition():
            if self.now - start >= within:
                return None
            self.run(step)
        return Seconds(self.now - start)

    def _after(self, delay: float, happen: Callable[[], None]) -> None:
        self._at(Instant(self.now + delay), happen)

    def _at(self, moment: Instant, happen: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._next, (moment, self._order, happen))

    # --- nodes

    def _start(self, settings: NodeSettings) -> None:
        if settings.address in self._names:
            raise ValueError(f"{settings.address} is taken by {self._names[settings.address]}")
        # Each life draws numbers of its own, and none depends on how many nodes there are.
        source = Random(f"{self.seed} {settings.name} {self.now}")  # noqa: S311 # as above
        host = _Host(Node(settings, random=source, now=self.now), settings)
        self._hosts[settings.name] = host
        self._names[settings.address] = settings.name
        self._carry_out(host)

    def _input(self, host: _Host, kind: bytes, data: bytes, deliver: Callable[[], object]) -> None:
        """Hand one input to a node and do what it asks for; note it in the trace."""
        if not host.is_running:
            return
        if host.is_frozen:
            if host.held_bytes + len(data) <= _HELD_LIMIT_BYTES:
                host.held_bytes += len(data)
                host.held.append(lambda: self._input(host, kind, data, deliver))
            return
        self._trace.update(struct.pack(">dI", self.now, len(data)) + kind + host.settings.name.encode() + data)
        deliver()
        self._carry_out(host)

    def _fire(self, host: _Host) -> None:
        host.armed = None
        if host.is_frozen or not host.is_running:
            return
        due = host.node.next_timer()
        if due is not None and due <= self.now:
            self._input(host, b"t", b"", lambda: host.node.handle_timer(self.now))
        else:
            self._arm(host)

    def _arm(self, host: _Host) -> None:
        due = host.node.next_timer()
        if due is not None and (host.armed is None or due < host.armed):
            host.armed = due
            self._at(max(due, self.now), lambda: self._fire_if_armed(host, due))

    def _fire_if_armed(self, host: _Host, due: Instant) -> None:
        if host.armed == due:
            self._fire(host)

    def _carry_out(self, host: _Host) -> None:
        for output in host.node.take_outputs():
            self._carry_out_one(host, output)
        self._arm(host)

    def _carry_out_one(self, host: _Host, output: Output) -> None:
        match output:
            case SendPacket(destination, data):
                self._send(host, destination, data)
            case OpenStream():
                self.traffic.streams_opened += 1
                host.asked.add(output.stream_id)
                self._after(self._latency[1], lambda: self._connect(host, output))
                # The skin closes what takes too long.
                self._after(output.timeout, lambda: self._time_out(host, output.stream_id))
            case SendStream(stream_id, data):
                if stream_id in host.streams:
                    peer, peer_id = host.streams[stream_id]
                    self._after(self._latency[1], lambda: self._feed(peer, peer_id, data))
            case CloseStream(stream_id):
                host.asked.discard(stream_id)
                if stream_id in host.streams:
                    peer, peer_id = host.streams.pop(stream_id)
                    self._end(peer, peer_id, "")
            case Notify(event):
                self.happenings.append(Happening(self.now, host.settings.name, event))
            case _:
                assert_never(output)

    # --- network

    def _reach(self, host: _Host, destination: HostPort) -> _Host | None:
        """Return the node at an address, unless a partition is between or none is there."""
        name = self._names.get(destination)
        if name is None or self._sides.get(name, 0) != self._sides.get(host.settings.name, 0):
            return None
        return self._hosts[name]

    def _send(self, host: _Host, destination: HostPort, data: bytes) -> None:
        self.traffic.packets_sent += 1
        self.traffic.bytes_sent += len(data)
        losses = self.losses
        chance = self.loss
        if losses:
            mine, theirs = host.settings.name, self._names.get(destination, "")
            chance = max(losses.get(mine, chance), losses.get(theirs, chance))
        if self._random.random() < chance:
            self.traffic.packets_lost += 1
            return
        shortest, longest = self._latency
        delay = shortest + self._random.random() * (longest - shortest)
        self._after(delay, lambda: self._deliver(host, destination, data))

    def _deliver(self, sender: _Host, destination: HostPort, data: bytes) -> None:
        host = self._reach(sender, destination)
        if host is None or not host.is_running:
            self.traffic.packets_cut_off += 1
            return
        source = sender.settings.address
        self._input(host, b"p", data, lambda: host.node.receive_packet(data, source, self.now))

    def _connect(self, host: _Host, request: OpenStream) -> None:
        if not host.is_running:
            return
        peer = self._reach(host, request.destination)
        if peer is None or not self.passes_streams:
            return  # the packets of the handshake vanish, and the time-out ends it
        if not peer.is_running:
            self._fail(host, request.stream_id, "connection refused")
            return
        self._stream_ids += 2
        peer_id = self._stream_ids
        host.streams[request.stream_id] = (peer, peer_id)
        peer.streams[peer_id] = (host, request.stream_id)
        self._input(peer, b"o", b"", lambda: peer.node.open_stream(peer_id, self.now))
        self._feed(peer, peer_id, request.data)

    def _feed(self, host: _Host, stream_id: int, data: bytes) -> None:
        if stream_id in host.streams:
            self._input(host, b"s", data, lambda: host.node.receive_stream(stream_id, data, self.now))

    def _end(self, host: _Host, stream_id: int, error: str) -> None:
        """Tell one end, after what is still under way to it, that the other has closed."""
        self._after(self._latency[1], lambda: self._finish(host, stream_id, error))

    def _finish(self, host: _Host, stream_id: int, error: str) -> None:
        if host.streams.pop(stream_id, None) is not None:
            host.asked.discard(stream_id)
            self._close(host, stream_id, error)

    def _fail(self, host: _Host, stream_id: int, error: str) -> None:
        self.traffic.streams_failed += 1
        host.asked.discard(stream_id)
        self._close(host, stream_id, error)

    def _close(self, host: _Host, stream_id: int, error: str) -> None:
        self._input(host, b"e", error.encode(), lambda: host.node.close_stream(stream_id, self.now, error=error))

    def _time_out(self, host: _Host, stream_id: int) -> None:
        if stream_id not in host.asked:
            return
        peer = host.streams.pop(stream_id, None)
        if peer is not None:
            self._end(*peer, "")
        self._fail(host, stream_id, "timed out")
