"""The facade of the SWIM core: packets, stream bytes and time in; packets, streams and events out.

Sans-IO: no socket, no clock, no randomness of its own. The caller passes `now` and a `Random`, carries out what
`take_outputs` returns, and calls `handle_timer` at `next_timer`. Same seed, same inputs, same outputs. Knows nothing
of Serf or HAProxy: meta, user messages and the user state of a push/pull pass through as opaque bytes.
Facts: reference/gossip-wire.md, sections 2, 6, 7 and 8.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import assert_never

from rumor.errors import PeerError
from rumor.model import Instant, Seconds
from rumor.names import HostPort
from rumor.swim import events
from rumor.swim.awareness import Awareness
from rumor.swim.broadcast import BroadcastQueue
from rumor.swim.codec import (
    COMPOUND_PARTS_SENT,
    decode_packet,
    encode,
    encode_compound,
    encode_push_pull,
    encode_stream_error,
    encode_user,
)
from rumor.swim.delegate import Delegate, NoDelegate
from rumor.swim.membership import GONE, MemberState, MemberTable, Merge, Picture, Record, versions_agree
from rumor.swim.messages import (
    VERSIONS,
    Ack,
    Alive,
    Dead,
    IndirectPing,
    Nack,
    NodeRecord,
    PacketMessage,
    Ping,
    PushPull,
    State,
    StreamError,
    StreamMessage,
    Suspect,
    User,
)
from rumor.swim.newcomers import MEMBERS_LIMIT, Newcomers
from rumor.swim.presets import Timings
from rumor.swim.probe import ProbeOrder, ProbeRound, Relay, Verdict
from rumor.swim.sealing import NONCE_LENGTH, Keyring
from rumor.swim.suspicion import Suspicion
from rumor.swim.wire import PLAIN, StreamReader, Wire

_RELAYS_LIMIT = 1024
_STREAMS_LIMIT = 256
_NOTHING_DUE = Instant(float("inf"))


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Who this node is. `address` is the one it tells others."""

    name: str
    address: HostPort
    timings: Timings
    meta: bytes = b""
    versions: bytes = VERSIONS
    wire: Wire = PLAIN


@dataclass(frozen=True, slots=True)
class SendPacket:
    destination: HostPort
    data: bytes


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Connect, write `data`, hand what comes back to `receive_stream`, and close at the latest after `timeout`."""

    stream_id: int
    destination: HostPort
    data: bytes
    timeout: Seconds


@dataclass(frozen=True, slots=True)
class SendStream:
    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseStream:
    stream_id: int


@dataclass(frozen=True, slots=True)
class Notify:
    event: events.Event


Output = SendPacket | OpenStream | SendStream | CloseStream | Notify


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start, and the present state of the node's health."""

    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int
    refused: dict[str, int]
    health_score: int
    queue_length: int
    probes: int
    probes_failed: int


@dataclass(slots=True)
class _Stream:
    reader: StreamReader
    peer: HostPort | None
    """Whom we asked; None where a peer opened the stream."""
    is_join: bool = False
    probe_seq_no: int | None = None


@dataclass(slots=True)
class _Reclaim:
    """A claim to a name that another address holds; the old address is asked first."""

    claim: Alive
    seq_no: int
    deadline: Instant


@dataclass(slots=True)
class _Counters:
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    probes: int = 0
    probes_failed: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class Node:
    """One member of a gossip cluster."""

    def __init__(
        self, settings: NodeSettings, *, random: Random, now: Instant, delegate: Delegate | None = None
    ) -> None:
        self._settings = settings
        self._delegate = delegate or NoDelegate()
        self._timings = settings.timings
        self._random = random
        self._wire = settings.wire
        self._table = MemberTable()
        self._me = Record(settings.name, settings.address, settings.meta, State.ALIVE, 1, settings.versions, now)
        self._table.add(self._me)
        self._awareness = Awareness(self._timings.awareness_max)
        self._newcomers = Newcomers()
        self._queue = BroadcastQueue(self._timings.retransmit_mult)
        self._probe_order = ProbeOrder(random)
        self._probe: ProbeRound | None = None
        self._relays: dict[int, Relay] = {}
        self._reclaims: dict[str, _Reclaim] = {}
        self._suspects: set[str] = set()
        self._next_expiry = _NOTHING_DUE
        """No suspicion ends before; it may be that none ends then."""
        self._streams: dict[int, _Stream] = {}
        self._seq_no = 0
        self._last_stream_id = -1
        self._outputs: list[Output] = []
        self._counters = _Counters()
        self._leave_deadline: Instant | None = None
        self._is_leaving = False
        stagger = random.random
        self._next_probe = Instant(now + stagger() * self._timings.probe_interval)
        self._next_push_pull = Instant(now + stagger() * self._timings.push_pull_interval)
        self._next_gossip: Instant | None = None
        self._due = _NOTHING_DUE
        self._resumed_at = Instant(float("-inf"))
        """When it was last found that this node had stood still."""
        self._announce(now)
        self._arm(now)

    # --- commands

    def join(self, addresses: Sequence[HostPort], now: Instant) -> None:
        """Exchange the whole picture with each address; `Synced` or `SyncFailed` tells how each went."""
        self._wake(now)
        for address in addresses:
            self._open_push_pull(address, is_join=True)
        self._arm(now)

    def sync(self, address: HostPort, now: Instant) -> None:
        """Exchange the whole picture with one address that is a member already."""
        self._wake(now)
        self._open_push_pull(address, is_join=False)
        self._arm(now)

    def leave(self, now: Instant) -> None:
        """Tell the others that this node leaves on purpose; `LeaveDone` follows. Probes are still answered."""
        self._wake(now)
        if not self._is_leaving:
            self._is_leaving = True
            claim = self._farewell()
            self._table.merge_dead(claim, now)
            self._queue.queue(claim.node, encode(claim))
            self._leave_deadline = Instant(now + self._timings.leave_timeout)
            self._settle_leave(now)
        self._arm(now)

    def set_meta(self, meta: bytes, now: Instant) -> None:
        """Change what this node says of itself, and spread it."""
        self._wake(now)
        if meta != self._me.meta:
            self._me.meta = meta
            self._me.incarnation += 1
            self._announce(now)
        self._arm(now)

    def announce(self, names: Sequence[str], now: Instant) -> None:
        """Tell some members straight away what this node says of itself, ahead of gossip's luck.

        An ordinary alive message, or dead once it leaves, in a packet of its own: whom it does not reach hears of it
        by gossip. Gossip alone leaves a given member out for seconds now and then: with the local preset's two sends
        each, in about one of ten cases among six members.
        """
        self._wake(now)
        message = encode(self._farewell() if self._is_leaving else self._claim())
        for name in names:
            record = self._table.records.get(name)
            if record is not None and record is not self._me and record.state not in GONE:
                self._send(record.address, [message], piggyback=False)
        self._arm(now)

    def send_user(self, name: str, payload: bytes, now: Instant) -> bool:
        """Send bytes for the layer above to one member by one packet; False if the member is unknown or gone."""
        record = self._table.records.get(name)
        if record is None or record.state in GONE:
            return False
        self._send(record.address, [encode(User(payload))])
        self._arm(now)
        return True

    def note_news(self, now: Instant) -> None:
        """Gossip soon: the layer above has something to tell."""
        self._arm(now)

    def adopt(self, picture: Picture, now: Instant) -> None:
        """Begin with a picture of the cluster as if long a member of it: nothing is told, in either direction."""
        self._table.adopt(picture, self._me)
        # Long a member, it is anywhere between two exchanges.
        self._next_push_pull = Instant(now + self._random.random() * self._push_pull_interval())
        self._queue = BroadcastQueue(self._timings.retransmit_mult)
        self._next_gossip = None
        self._arm(now)

    def send_user_to(self, address: HostPort, payload: bytes, now: Instant) -> None:
        """Send bytes for the layer above to an address, whoever listens there; nothing else rides along."""
        self._send(address, [encode(User(payload))], piggyback=False)
        self._arm(now)

    def forget(self, name: str) -> None:
        """Erase a member that is gone; one that is not stays."""
        record = self._table.records.get(name)
        if record is None or record.state in GONE:
            self._table.forget(name)

    def probe_soon(self, name: str, now: Instant) -> bool:
        """Probe a member before its turn, since somebody has reason to doubt it; False if it is unknown or gone."""
        self._wake(now)
        record = self._table.records.get(name)
        is_known = record is not None and record is not self._me and record.state not in GONE
        if is_known and (self._probe is None or self._probe.target != name):
            self._probe_order.put_first(name)
            if self._probe is None:
                self._next_probe = now
        self._arm(now)
        return is_known

    def set_keyring(self, keyring: Keyring | None) -> None:
        """Seal and open with other keys from the next packet on."""
        self._wire = replace(self._wire, keyring=keyring)

    # --- views

    def members(self) -> tuple[MemberState, ...]:
        """Return every member this node knows, itself and those that are gone included."""
        return self._table.views()

    def member(self, name: str) -> MemberState | None:
        """Return one member, also one that is gone; None for one that is not known."""
        return self._table.view(name)

    def states(self) -> dict[str, State]:
        """Return every member's state by its name."""
        return self._table.states()

    def failed(self) -> list[str]:
        """Return the names of members that failed and are not forgotten yet."""
        return [record.name for record in self._table.records.changed() if record.state is State.DEAD]

    def statistics(self) -> Statistics:
        counters = self._counters
        return Statistics(
            packets_in=counters.packets_in,
            packets_out=counters.packets_out,
            bytes_in=counters.bytes_in,
            bytes_out=counters.bytes_out,
            refused=dict(counters.refused),
            health_score=self._awareness.score,
            queue_length=len(self._queue),
            probes=counters.probes,
            probes_failed=counters.probes_failed,
        )

    def take_outputs(self) -> list[Output]:
        """Return what is to be done, in order; each output is returned once."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def next_timer(self) -> Instant | None:
        """Return when `handle_timer` is due, None for never."""
        return None if self._due == _NOTHING_DUE else self._due

    # --- inputs

    def receive_packet(self, data: bytes, source: HostPort, now: Instant) -> None:
        """Take one UDP payload; what does not parse is counted, never raised."""
        self._wake(now)
        self._counters.packets_in += 1
        self._counters.bytes_in += len(data)
        try:
            data = self._wire.unwrap_packet(data)
        except PeerError as error:
            self._refuse(str(error))
            self._arm(now)
            return
        packet = decode_packet(data, local_port=self._settings.address.port)
        for reason in packet.refused:
            self._refuse(reason)
        for message in packet.messages:
            self._take(message, source, now)
        self._arm(now)

    def open_stream(self, stream_id: int, now: Instant) -> None:
        """A peer has connected."""
        self._wake(now)
        if len(self._streams) >= _STREAMS_LIMIT:
            self._refuse("too_many_streams")
            self._outputs.append(CloseStream(stream_id))
        else:
            self._streams[stream_id] = _Stream(self._reader(is_dialled=True), peer=None)
        self._arm(now)

    def receive_stream(self, stream_id: int, data: bytes, now: Instant) -> None:
        """Take the next bytes of a stream, however they are cut."""
        self._wake(now)
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        self._counters.bytes_in += len(data)
        try:
            message = stream.reader.feed(data)
        except PeerError as error:
            self._refuse("bad_stream")
            if stream.peer is None:
                self._reply_stream(stream_id, encode_stream_error(str(error)))
            self._end_stream(stream_id, str(error))
        else:
            if message is not None:
                self._take_stream(stream_id, stream, message, now)
        self._arm(now)

    def close_stream(self, stream_id: int, now: Instant, *, error: str = "") -> None:
        """A stream is over: the peer closed it, the connection failed or its time was up."""
        self._wake(now)
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            self._fail_stream(stream, error or "closed without an answer")
        self._arm(now)

    def handle_timer(self, now: Instant) -> None:
        """Do all that is due by now."""
        self._wake(now)
        self._expire_suspicions(now)
        self._expire_relays(now)
        self._expire_reclaims(now)
        self._advance_probe(now)
        if now >= self._next_probe:
            self._start_probe(now)
        if self._next_gossip is not None and now >= self._next_gossip:
            self._gossip(now)
        if now >= self._next_push_pull:
            self._start_push_pull(now)
        self._settle_leave(now)
        self._arm(now)

    # --- time

    def _wake(self, now: Instant) -> None:
        """Notice that this node stood still: then nobody else is to blame for what it missed."""
        gap = now - self._due
        still = max(2.0, 2 * self._timings.probe_interval)
        if gap <= still:
            return
        self._due = now
        if now - self._resumed_at <= still:
            # What has just been found out is not found out again for each thing that lay in wait: every time would open
            # more streams, which lie in wait in their turn.
            return
        self._resumed_at = now
        self._probe = None
        self._relays.clear()
        for name in self._suspects:
            suspicion = self._table.records[name].suspicion
            if suspicion is not None:
                suspicion.postpone(Seconds(gap))
        for reclaim in self._reclaims.values():
            reclaim.deadline = Instant(reclaim.deadline + gap)
        self._next_probe = Instant(now + self._timings.probe_interval)
        self._notify(events.Resumed(Seconds(gap)))
        # Others may have declared this node dead. Those it knew as alive will say so at once.
        for record in self._pick(2, lambda record: record.state not in GONE):
            self._open_push_pull(record.address, is_join=False)

    def _arm(self, now: Instant) -> None:
        has_news = len(self._queue) or self._delegate.has_broadcasts()
        if self._next_gossip is None and has_news and self._has_gossip_target(now):
            self._next_gossip = Instant(now + self._timings.gossip_interval)
        due = min(self._next_probe, self._next_push_pull)
        if self._probe is not None:
            due = min(due, self._probe.next_at)
        if self._next_gossip is not None:
            due = min(due, self._next_gossip)
        if self._leave_deadline is not None:
            due = min(due, self._leave_deadline)
        due = min(due, self._next_expiry)
        for relay in self._relays.values():
            due = min(due, relay.deadline)
        for reclaim in self._reclaims.values():
            due = min(due, reclaim.deadline)
        self._due = due

    # --- failure detection

    def _start_probe(self, now: Instant) -> None:
        period = self._awareness.stretch(self._timings.probe_interval)
        self._next_probe = Instant(now + period)
        if self._probe is not None:
            return
        target = self._next_target(now)
        if target is None:
            return
        self._counters.probes += 1
        ping = self._ping(target.name)
        self._probe = ProbeRound(
            target.name, ping.seq_no, Instant(now + self._timings.probe_timeout), Instant(now + period), now
        )
        if target.state is State.SUSPECT:
            # A suspect must hear of the accusation in time to refute it.
            accusation = Suspect(target.incarnation, target.name, self._settings.name)
            self._send(target.address, [encode(ping), encode(accusation)], piggyback=False, to=target)
        else:
            self._send(target.address, [encode(ping)])

    def _next_target(self, now: Instant) -> Record | None:
        for _ in range(2):
            while (name := self._probe_order.take()) is not None:
                record = self._table.records.get(name)
                if record is not None and record is not self._me and record.state not in GONE:
                    return record
            self._table.forget_gone(Instant(now - self._timings.gossip_to_the_dead))
            if self._settings.name not in self._table.records:
                self._table.add(self._me)
            names = [name for name in self._table.records if name != self._settings.name]
            self._probe_order.restart(names)
        return None

    def _advance_probe(self, now: Instant) -> None:
        probe = self._probe
        if probe is None or now < probe.next_at:
            return
        if not probe.is_widened and now < probe.deadline:
            self._widen_probe(probe, now)
            return
        self._probe = None
        self._awareness.apply(probe.awareness_delta())
        match probe.verdict():
            case Verdict.ANSWERED:
                pass
            case Verdict.ANSWERED_OVER_TCP_ONLY:
                self._refuse("udp_lost_tcp_answered")
            case Verdict.SILENT:
                self._counters.probes_failed += 1
                record = self._table.records.get(probe.target)
                if record is not None:
                    self._merge_suspect(Suspect(record.incarnation, record.name, self._settings.name), now)

    def _widen_probe(self, probe: ProbeRound, now: Instant) -> None:
        probe.is_widened = True
        target = self._table.records.get(probe.target)
        if target is None:
            return
        helpers = self._pick(
            self._timings.indirect_checks,
            lambda record: record.state is State.ALIVE and record is not target,
        )
        for helper in helpers:
            nack = len(helper.versions) == 6 and helper.versions[1] >= 4
            probe.nacks_expected += nack
            request = IndirectPing(
                probe.seq_no, target.name, target.address, nack, self._settings.address, self._settings.name
            )
            self._send(helper.address, [encode(request)])
        if len(target.versions) != 6 or target.versions[1] >= 3:
            ping = Ping(probe.seq_no, target.name, self._settings.address, self._settings.name)
            stream_id = self._open_stream(target.address, encode(ping), Seconds(probe.deadline - now))
            self._streams[stream_id].probe_seq_no = probe.seq_no

    def _expire_suspicions(self, now: Instant) -> None:
        if now < self._next_expiry:
            return
        self._next_expiry = _NOTHING_DUE
        for name in sorted(self._suspects):
            record = self._table.records.get(name)
            if record is None or record.suspicion is None:
                self._suspects.discard(name)
            elif now >= record.suspicion.deadline:
                self._merge_dead(Dead(record.incarnation, name, self._settings.name), now)
            else:
                self._next_expiry = min(self._next_expiry, record.suspicion.deadline)

    def _expire_relays(self, now: Instant) -> None:
        for seq_no in [seq_no for seq_no, relay in self._relays.items() if now >= relay.deadline]:
            relay = self._relays.pop(seq_no)
            if relay.wants_nack:
                self._send(relay.requester, [encode(Nack(relay.seq_no))])

    def _expire_reclaims(self, now: Instant) -> None:
        for name in [name for name, reclaim in self._reclaims.items() if now >= reclaim.deadline]:
            claim = self._reclaims.pop(name).claim
            self._apply_alive(claim, self._table.merge_alive(claim, now, may_replace_address=True), now)

    # --- spreading news

    def _gossip(self, now: Instant) -> None:
        self._next_gossip = None
        for record in self._pick(self._timings.gossip_nodes, lambda record: self._is_gossip_target(record, now)):
            parts = self._news([])
            if not parts:
                break
            self._send(record.address, parts, piggyback=False, to=record)

    def _is_gossip_target(self, record: Record, now: Instant) -> bool:
        """Say whether a member is worth telling: the living, and the recently dead, so that they can refute."""
        if record.state is State.LEFT:
            return False
        return record.state is not State.DEAD or now - record.changed_at <= self._timings.gossip_to_the_dead

    def _has_gossip_target(self, now: Instant) -> bool:
        return any(record is not self._me and self._is_gossip_target(record, now) for record in self._table.order)

    def _start_push_pull(self, now: Instant) -> None:
        self._next_push_pull = Instant(now + self._push_pull_interval())
        for record in self._pick(1, lambda record: record.state is State.ALIVE):
            self._open_push_pull(record.address, is_join=False)

    def _push_pull_interval(self) -> float:
        """Return the pause between exchanges: large clusters have them less often (reference, section 6.7)."""
        members = len(self._table.records)
        return self._timings.push_pull_interval * (1 if members <= 32 else (members - 1).bit_length() - 4)

    def _settle_leave(self, now: Instant) -> None:
        if self._leave_deadline is None:
            return
        is_told = not self._has_gossip_target(now) or not self._queue.holds(self._settings.name)
        if is_told or now >= self._leave_deadline:
            self._leave_deadline = None
            self._notify(events.LeaveDone())

    def _announce(self, now: Instant) -> None:
        self._queue.queue(self._me.name, encode(self._claim()))

    def _claim(self) -> Alive:
        me = self._me
        return Alive(me.incarnation, me.name, me.address, me.meta, me.versions)

    def _farewell(self) -> Dead:
        return Dead(self._me.incarnation, self._me.name, self._me.name)

    def _refute(self, accused: int, now: Instant) -> None:
        """Answer an accusation: only a higher incarnation than the accused one outweighs it."""
        self._me.incarnation = max(self._me.incarnation, accused) + 1
        self._awareness.apply(1)
        self._announce(now)
        self._notify(events.Refuted(self._me.incarnation))

    # --- messages

    def _take(self, message: PacketMessage, source: HostPort, now: Instant) -> None:
        match message:
            case Ping():
                if message.node and message.node != self._settings.name:
                    self._refuse("ping_for_another")
                else:
                    self._send(message.source or source, [encode(Ack(message.seq_no, self._delegate.ack_payload()))])
            case IndirectPing():
                self._relay(message, source, now)
            case Ack():
                self._take_ack(message, now)
            case Nack(seq_no):
                if self._probe is not None and self._probe.seq_no == seq_no:
                    self._probe.nacks = min(self._probe.nacks + 1, self._probe.nacks_expected)
            case Alive(_, node):
                if node in self._table.records or self._newcomers.lets_in(now):
                    self._merge_alive(message, now)
                else:
                    self._refuse("too_many_newcomers")
            case Suspect():
                self._merge_suspect(message, now)
            case Dead():
                self._merge_dead(message, now)
            case User(payload):
                self._notify(events.UserMessage(source, payload))
            case _:
                assert_never(message)

    def _relay(self, request: IndirectPing, source: HostPort, now: Instant) -> None:
        if len(self._relays) >= _RELAYS_LIMIT:
            self._refuse("too_many_relays")
            return
        ping = self._ping(request.node)
        deadline = Instant(now + self._timings.probe_timeout)
        self._relays[ping.seq_no] = Relay(request.source or source, request.seq_no, request.nack, deadline)
        self._send(request.target, [encode(ping)])

    def _take_ack(self, ack: Ack, now: Instant) -> None:
        probe, seq_no = self._probe, ack.seq_no
        if probe is not None and probe.seq_no == seq_no:
            if ack.payload and not probe.is_widened:
                self._notify(events.Answered(probe.target, Seconds(now - probe.sent_at), ack.payload))
            probe.is_acked = True
            self._awareness.apply(probe.awareness_delta())
            self._probe = None
            return
        relay = self._relays.pop(seq_no, None)
        if relay is not None:
            self._send(relay.requester, [encode(Ack(relay.seq_no))])
            return
        for name, reclaim in self._reclaims.items():
            if reclaim.seq_no == seq_no:
                del self._reclaims[name]
                ours = self._table.records[name].address
                self._notify(events.NameConflict(name, ours, reclaim.claim.address))
                return

    def _merge_alive(self, claim: Alive, now: Instant) -> None:
        if claim.node == self._settings.name:
            self._answer_about_me(claim, now)
            return
        if claim.node not in self._table.records and len(self._table.records) >= MEMBERS_LIMIT:
            self._refuse("too_many_members")
            return
        outcome = self._table.merge_alive(claim, now)
        if outcome is Merge.CONFLICT:
            self._doubt_address(claim, now)
        else:
            self._apply_alive(claim, outcome, now)

    def _answer_about_me(self, claim: Alive, now: Instant) -> None:
        if self._is_leaving:
            return
        me = self._me
        if claim.address != me.address:
            self._notify(events.NameConflict(me.name, me.address, claim.address))
        elif claim.incarnation > me.incarnation or (
            claim.incarnation == me.incarnation and (claim.meta, claim.versions) != (me.meta, me.versions)
        ):
            # Somebody remembers an earlier life of this node.
            self._refute(claim.incarnation, now)

    def _doubt_address(self, claim: Alive, now: Instant) -> None:
        """A known name speaks from a new address: believe it only if the old address stays silent.

        A container that comes back has a new address; a second node with a name that is taken has one, too.
        """
        if claim.node in self._reclaims or len(self._reclaims) >= _RELAYS_LIMIT:
            return
        record = self._table.records[claim.node]
        ping = self._ping(record.name)
        deadline = Instant(now + self._timings.probe_interval)
        self._reclaims[claim.node] = _Reclaim(claim, ping.seq_no, deadline)
        self._send(record.address, [encode(ping)])

    def _apply_alive(self, claim: Alive, outcome: Merge, now: Instant) -> None:
        if outcome in (Merge.IGNORED, Merge.CONFLICT):
            return
        self._suspects.discard(claim.node)
        self._queue.queue(claim.node, encode(claim))
        match outcome:
            case Merge.JOINED:
                self._probe_order.add(claim.node)
                self._notify(events.MemberJoined(claim.node))
            case Merge.UPDATED:
                self._notify(events.MemberUpdated(claim.node))
            case Merge.REFUTED:
                self._notify(events.MemberRefuted(claim.node))
            case _:
                pass

    def _merge_suspect(self, claim: Suspect, now: Instant) -> None:
        if claim.node == self._settings.name:
            if claim.incarnation >= self._me.incarnation and not self._is_leaving:
                self._refute(claim.incarnation, now)
            return
        outcome = self._table.merge_suspect(claim, now)
        if outcome is Merge.IGNORED:
            return
        self._queue.queue(claim.node, encode(claim))
        record = self._table.records[claim.node]
        if outcome is Merge.SUSPECTED:
            members = len(self._table.records)
            record.suspicion = Suspicion.start(claim.accuser, claim.incarnation, members, self._timings, now)
            self._suspects.add(claim.node)
            self._notify(events.MemberSuspected(claim.node, claim.accuser))
        if record.suspicion is not None:
            self._next_expiry = min(self._next_expiry, record.suspicion.deadline)

    def _merge_dead(self, claim: Dead, now: Instant) -> None:
        if claim.node == self._settings.name:
            if claim.incarnation >= self._me.incarnation and not self._is_leaving:
                self._refute(claim.incarnation, now)
            return
        outcome = self._table.merge_dead(claim, now)
        if outcome is Merge.IGNORED:
            return
        self._suspects.discard(claim.node)
        self._queue.queue(claim.node, encode(claim))
        if outcome is Merge.LEFT:
            self._notify(events.MemberLeft(claim.node))
        else:
            self._notify(events.MemberFailed(claim.node, claim.accuser))

    # --- streams

    def _take_stream(self, stream_id: int, stream: _Stream, message: StreamMessage, now: Instant) -> None:
        match message:
            case PushPull():
                ours = self._picture()
                if stream.peer is None:
                    state = self._delegate.user_state(is_join=message.is_join)
                    self._reply_stream(stream_id, encode_push_pull(PushPull(message.is_join, tuple(ours), state)))
                refusal = ""
                if not versions_agree(ours, message.nodes):
                    refusal = "their protocol versions do not fit ours"
                    self._refuse("versions")
                elif stream.peer is not None and all(
                    (node.name, node.address) == (self._settings.name, self._settings.address) for node in message.nodes
                ):
                    # A host has more addresses than the one it tells; through another one it met itself.
                    refusal = "this node itself answered"
                else:
                    self._merge_picture(message.nodes, now)
                    if message.user_state:
                        self._notify(events.RemoteState(message.user_state, message.is_join))
                if not refusal and any(node.name != self._settings.name for node in message.nodes):
                    self._notify(events.Synced(stream.peer))
                    stream.peer = None
                self._end_stream(stream_id, refusal)
            case Ping(seq_no, node):
                if stream.peer is None and node in ("", self._settings.name):
                    self._reply_stream(stream_id, encode(Ack(seq_no)))
                self._end_stream(stream_id)
            case Ack(seq_no):
                if self._probe is not None and stream.probe_seq_no == seq_no == self._probe.seq_no:
                    self._probe.is_acked_over_tcp = True
                self._end_stream(stream_id)
            case User(payload):
                self._notify(events.UserMessage(stream.peer, payload))
                self._end_stream(stream_id)
            case StreamError(text):
                self._end_stream(stream_id, f"remote error: {text!a}")
            case _:
                assert_never(message)

    def _merge_picture(self, nodes: tuple[NodeRecord, ...], now: Instant) -> None:
        for node in nodes:
            match node.state:
                case State.ALIVE:
                    self._merge_alive(Alive(node.incarnation, node.name, node.address, node.meta, node.versions), now)
                case State.LEFT:
                    self._merge_dead(Dead(node.incarnation, node.name, node.name), now)
                case State.SUSPECT | State.DEAD:
                    # Hearsay of a death is a suspicion, so that the member gets its chance to refute.
                    self._merge_suspect(Suspect(node.incarnation, node.name, self._settings.name), now)

    def _picture(self) -> list[NodeRecord]:
        return [record.on_wire() for record in self._table.records.values()]

    def _open_push_pull(self, address: HostPort, *, is_join: bool) -> None:
        if address == self._settings.address:
            self._notify(events.SyncFailed(address, "this is the node's own address"))
            return
        state = self._delegate.user_state(is_join=is_join)
        data = encode_push_pull(PushPull(is_join, tuple(self._picture()), state))
        stream_id = self._open_stream(address, data, self._timings.tcp_timeout)
        self._streams[stream_id].is_join = is_join

    def _open_stream(self, address: HostPort, data: bytes, timeout: Seconds) -> int:
        self._last_stream_id += 2
        self._streams[self._last_stream_id] = _Stream(self._reader(is_dialled=False), peer=address)
        data = self._wire.wrap_stream(data, self._nonce(), is_dialling=True)
        self._counters.bytes_out += len(data)
        self._outputs.append(OpenStream(self._last_stream_id, address, data, timeout))
        return self._last_stream_id

    def _reply_stream(self, stream_id: int, data: bytes) -> None:
        data = self._wire.wrap_stream(data, self._nonce(), is_dialling=False)
        self._counters.bytes_out += len(data)
        self._outputs.append(SendStream(stream_id, data))

    def _end_stream(self, stream_id: int, error: str = "") -> None:
        stream = self._streams.pop(stream_id)
        self._outputs.append(CloseStream(stream_id))
        if error:
            self._fail_stream(stream, error)

    def _fail_stream(self, stream: _Stream, error: str) -> None:
        if stream.peer is not None and stream.probe_seq_no is None:
            self._notify(events.SyncFailed(stream.peer, error))

    # --- small change

    def _reader(self, *, is_dialled: bool) -> StreamReader:
        return StreamReader(self._wire, local_port=self._settings.address.port, is_dialled=is_dialled)

    def _nonce(self) -> bytes:
        return self._random.randbytes(NONCE_LENGTH) if self._wire.keyring is not None else b""

    def _ping(self, name: str) -> Ping:
        self._seq_no = self._seq_no % (2**32 - 1) + 1
        return Ping(self._seq_no, name, self._settings.address, self._settings.name)

    def _pick(self, count: int, accept: Callable[[Record], bool]) -> list[Record]:
        """Return up to `count` other members at random among those accepted."""
        order = self._table.order
        picked: list[Record] = []
        # A few draws are enough in a large cluster; only where they are not, everybody is looked at.
        for _ in range(3 * count if len(order) > 4 * count else 0):
            record = order[self._random.randrange(len(order))]
            if record is not self._me and record not in picked and accept(record):
                picked.append(record)
                if len(picked) == count:
                    return picked
        rest = [record for record in order if record is not self._me and record not in picked and accept(record)]
        return picked + self._random.sample(rest, min(count - len(picked), len(rest)))

    def _news(self, parts: Sequence[bytes]) -> list[bytes]:
        """Return as much news as still fits into a packet with these parts: about members first."""
        room = self._timings.packet_budget - 2 - self._wire.overhead - sum(len(part) + 2 for part in parts)
        news = self._queue.take(room, 2, len(self._table.records)) if len(self._queue) else []
        if self._delegate.has_broadcasts():
            room -= sum(len(part) + 2 for part in news)
            limit = COMPOUND_PARTS_SENT - len(parts) - len(news)
            news += [encode_user(payload) for payload in self._delegate.take_broadcasts(room, 3, limit)]
        return news

    def _send(
        self, destination: HostPort, parts: Sequence[bytes], *, piggyback: bool = True, to: Record | None = None
    ) -> None:
        """Send one packet, with as much news as still fits where `piggyback` says so.

        As real agents do, the checksum is there only where the receiver's record `to` says that it understands it.
        """
        if piggyback:
            parts = [*parts, *self._news(parts)]
        has_crc = to is not None and len(to.versions) == 6 and to.versions[1] >= 5
        data = self._wire.wrap_packet(encode_compound(parts), self._nonce(), has_crc=has_crc)
        self._counters.packets_out += 1
        self._counters.bytes_out += len(data)
        self._outputs.append(SendPacket(destination, data))

    def _notify(self, event: events.Event) -> None:
        self._outputs.append(Notify(event))

    def _refuse(self, reason: str) -> None:
        kind, _, _ = reason.partition(":")
        self._counters.refused[kind] += 1
