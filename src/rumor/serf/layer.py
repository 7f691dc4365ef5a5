"""Serf over SWIM: intents, user events, queries, coordinates, keys; wraps a `Node` and offers the same inputs.

Sans-IO like the core: whoever runs a `Node` can run a `Serf` instead. What the core tells of members comes out as
`MemberChanged`; the rest of its events pass through. Facts: reference/gossip-wire.md, sections 7.8 and 9.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from rumor.errors import PeerError, Refused
from rumor.model import Instant, Seconds
from rumor.names import HostPort
from rumor.serf import codec
from rumor.serf.coordinate import Coordinate, CoordinateClient, decode_coordinate, encode_coordinate
from rumor.serf.events import (
    Change,
    KeyringChanged,
    MemberChanged,
    NameLost,
    QueryAcked,
    QueryAnswered,
    QueryEnded,
    QueryHeard,
    SerfMember,
    UserEventHeard,
    Warned,
)
from rumor.serf.lamport import LamportClock
from rumor.serf.members import Members
from rumor.serf.messages import (
    ACK,
    INTERNAL,
    NO_BROADCAST,
    JoinIntent,
    KeyAnswer,
    LeaveIntent,
    PastEvents,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfState,
    Status,
    UserEvent,
)
from rumor.serf.messages import MemberRecord as DescribedMember
from rumor.serf.queries import (
    QUERY_LIMIT_BYTES,
    RESPONSE_LIMIT_BYTES,
    Queries,
    default_timeout,
    passes,
)
from rumor.serf.ring import Ring
from rumor.serf.tags import decode_tags, encode_tags
from rumor.swim import events
from rumor.swim.broadcast import BroadcastQueue
from rumor.swim.membership import MemberState
from rumor.swim.messages import State
from rumor.swim.node import Node, NodeSettings, Notify, Output, Statistics
from rumor.swim.sealing import Keyring, format_key

_REAP_INTERVAL = Seconds(15.0)
_LAST_SERF_TYPE = codec.RELAY
_KEY_QUERIES = frozenset(f"{INTERNAL}{verb}" for verb in ("install-key", "use-key", "remove-key", "list-keys"))


@dataclass(frozen=True, slots=True)
class SerfSettings:
    """One member's Serf side; `node` holds the rest."""

    node: NodeSettings
    tags: Mapping[str, str] = field(default_factory=dict)
    event_limit: int = 512
    """The longest user event in bytes, name and payload together and also encoded."""
    query_limit: int = QUERY_LIMIT_BYTES
    response_limit: int = RESPONSE_LIMIT_BYTES
    replays: bool = False
    """Whether joining asks for the user events of the past, if the command does not say."""
    votes_on_name: bool = True
    has_coordinates: bool = True


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """What to ask, and whom."""

    name: str
    payload: bytes = b""
    nodes: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    """Tag and expression; all must be found."""
    wants_acks: bool = False
    relay_factor: int = 0
    timeout: Seconds | None = None
    straight_to: tuple[str, ...] = ()
    """Members that are asked directly, besides gossip: sooner, and with few sends gossip leaves some out."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The three logical clocks, as the times that come next."""

    member: int = 1
    event: int = 1
    query: int = 1


class Serf:
    """One member of a Serf cluster."""

    def __init__(
        self, settings: SerfSettings, *, random: Random, now: Instant, remembered: Clocks | None = None
    ) -> None:
        """Prepare the member; `remembered` are the clocks of an earlier life.

        Raises:
            ConfigError: the tags do not fit into Serf's 512 bytes.
        """
        self._settings = settings
        self._random = random
        self._name = settings.node.name
        self._tags = dict(settings.tags)
        self._keyring = settings.node.wire.keyring
        self._clock, self._event_clock, self._query_clock = LamportClock(), LamportClock(), LamportClock()
        self._members = Members(self._name)
        self._events: Ring[tuple[str, bytes]] = Ring()
        self._heard: Ring[int] = Ring()
        self._queries = Queries()
        self._coordinates = CoordinateClient(random)
        mult = settings.node.timings.retransmit_mult
        self._intent_queue, self._query_queue, self._event_queue = (BroadcastQueue(mult) for _ in range(3))
        self._queued = 0
        self._joining: dict[HostPort, bool] = {}
        """Addresses that are being joined -> whether to replay old events."""
        self._conflict: tuple[int, dict[str, bool]] | None = None
        """The running vote: its query, and who spoke for whom."""
        self._leave_intent = ""
        self._leave_deadline: Instant | None = None
        self._next_reap = Instant(now + _REAP_INTERVAL)
        self._outputs: list[Output] = []
        if remembered is not None:
            self._clock.witness(remembered.member)
            self._event_clock.witness(remembered.event)
            self._query_clock.witness(remembered.query)
            self._events.minimum, self._heard.minimum = remembered.event + 1, remembered.query + 1
        self._node = Node(
            replace(settings.node, meta=encode_tags(self._tags)), random=random, now=now, delegate=_Delegate(self)
        )
        self._tell_change(Change.JOIN, self._name)

    # --- commands

    def join(self, addresses: Sequence[HostPort], now: Instant, *, replay: bool | None = None) -> None:
        """Exchange pictures with each address; `replay` asks for the user events of the past as well."""
        replay = self._settings.replays if replay is None else replay
        self._joining.update(dict.fromkeys(addresses, replay))
        self._node.join(addresses, now)
        self._settle(now)

    def sync(self, address: HostPort, now: Instant) -> None:
        self._node.sync(address, now)
        self._settle(now)

    def leave(self, now: Instant) -> None:
        """Say that this node leaves; `LeaveDone` follows when it has been said often enough."""
        if self._members.is_leaving:
            return
        self._members.is_leaving = True
        intent = LeaveIntent(self._clock.tick(), self._name)
        self._take_leave_intent(intent, now)
        others = (state for state in self._node.members() if state.name != self._name)
        if any(state.state in (State.ALIVE, State.SUSPECT) for state in others):
            self._leave_intent = self._broadcast(self._intent_queue, intent)
            self._leave_deadline = Instant(now + self._settings.node.timings.leave_timeout)
        else:
            self._node.leave(now)
        self._settle(now)

    def force_leave(self, name: str, now: Instant, *, prune: bool = False) -> None:
        """Say of another member that it has left; unknown names are told on as well, as Serf does."""
        intent = LeaveIntent(self._clock.tick(), name, prune)
        self._take_leave_intent(intent, now)
        self._broadcast(self._intent_queue, intent)
        self._settle(now)

    def set_tags(self, tags: Mapping[str, str], now: Instant) -> None:
        """Replace this member's tags.

        Raises:
            ConfigError: they do not fit into Serf's 512 bytes; the old ones stay.
        """
        meta = encode_tags(tags)
        self._tags = dict(tags)
        self._node.set_meta(meta, now)
        self._tell_change(Change.UPDATE, self._name)
        self._settle(now)

    def user_event(self, name: str, payload: bytes, now: Instant, *, coalesce: bool = True) -> None:
        """Tell everybody something.

        Raises:
            Refused: it is too long, in Serf's words.
        """
        limit = self._settings.event_limit
        if len(name.encode("utf-8", "surrogateescape")) + len(payload) > limit:
            raise Refused(f"user event exceeds configured limit of {limit} bytes before encoding")
        event = UserEvent(self._event_clock.time, name, payload, coalesce)
        raw = codec.encode(event)
        if len(raw) > limit:
            raise Refused(f"encoded user event exceeds configured limit of {limit} bytes after encoding")
        self._event_clock.tick()
        self._take_user_event(event)
        self._queue(self._event_queue, raw)
        self._settle(now)

    def query(self, request: QueryRequest, now: Instant) -> tuple[int, Instant]:
        """Ask; return the query's id and its deadline. `QueryAcked`, `QueryAnswered` and `QueryEnded` follow.

        Raises:
            Refused: it is too long or not allowed, in Serf's words, or too many run.
        """
        if request.name.startswith(INTERNAL) and (request.name != f"{INTERNAL}ping" or request.payload):
            raise Refused(f"Queries cannot contain the '{INTERNAL}' prefix")
        asked = self._ask(request, now)
        self._settle(now)
        return asked

    def key_query(self, verb: str, key: bytes, now: Instant, *, relay_factor: int = 0) -> tuple[int, Instant]:
        """Ask all members to `install-key`, `use-key`, `remove-key` or `list-keys`; the key is raw bytes."""
        payload = codec.encode_key_request(key)
        asked = self._ask(QueryRequest(f"{INTERNAL}{verb}", payload, relay_factor=relay_factor), now)
        self._settle(now)
        return asked

    def respond(self, key: int, payload: bytes, now: Instant) -> None:
        """Answer a query that was heard.

        Raises:
            Refused: in Serf's words: answered before, too late, or too long.
        """
        query = self._queries.answer(key, now)
        response = QueryResponse(query.ltime, query.id, self._name, 0, payload)
        raw = codec.encode(response)
        if len(raw) > self._settings.response_limit:
            raise Refused(f"response exceeds limit of {self._settings.response_limit} bytes")
        self._send_response(query, raw, now)
        self._settle(now)

    def announce(self, names: Sequence[str], now: Instant) -> None:
        self._node.announce(names, now)
        self._settle(now)

    def send_user(self, name: str, payload: bytes, now: Instant) -> bool:
        is_sent = self._node.send_user(name, payload, now)
        self._settle(now)
        return is_sent

    def probe_soon(self, name: str, now: Instant) -> bool:
        is_known = self._node.probe_soon(name, now)
        self._settle(now)
        return is_known

    # --- views

    @property
    def tags(self) -> dict[str, str]:
        return dict(self._tags)

    @property
    def keyring(self) -> Keyring | None:
        return self._keyring

    @property
    def clocks(self) -> Clocks:
        return Clocks(self._clock.time, self._event_clock.time, self._query_clock.time)

    def members(self) -> tuple[MemberState, ...]:
        """Return what the core knows of everybody."""
        return self._node.members()

    def serf_members(self) -> tuple[SerfMember, ...]:
        """Return every member, this one and those that are gone included, as Serf sees them."""
        states = {state.name: state for state in self._node.members()}
        return tuple(
            SerfMember(state, record.status, record.status_ltime)
            for record in self._members
            if (state := states.get(record.name)) is not None
        )

    def coordinate(self, name: str) -> Coordinate | None:
        return self._coordinates.own if name == self._name else self._coordinates.others.get(name)

    def statistics(self) -> Statistics:
        return self._node.statistics()

    def counts(self) -> dict[str, int]:
        """Return what `serf info` shows under `serf`."""
        statuses = [record.status for record in self._members]
        return {
            "members": len(statuses),
            "failed": statuses.count(Status.FAILED),
            "left": statuses.count(Status.LEFT),
            "health_score": self._node.statistics().health_score,
            "member_time": self._clock.time,
            "event_time": self._event_clock.time,
            "query_time": self._query_clock.time,
            "intent_queue": len(self._intent_queue),
            "event_queue": len(self._event_queue),
            "query_queue": len(self._query_queue),
            "coordinate_resets": self._coordinates.resets,
        }

    # --- inputs: the core's, with what Serf makes of them

    def receive_packet(self, data: bytes, source: HostPort, now: Instant) -> None:
        self._node.receive_packet(data, source, now)
        self._settle(now)

    def open_stream(self, stream_id: int, now: Instant) -> None:
        self._node.open_stream(stream_id, now)
        self._settle(now)

    def receive_stream(self, stream_id: int, data: bytes, now: Instant) -> None:
        self._node.receive_stream(stream_id, data, now)
        self._settle(now)

    def close_stream(self, stream_id: int, now: Instant, *, error: str = "") -> None:
        self._node.close_stream(stream_id, now, error=error)
        self._settle(now)

    def handle_timer(self, now: Instant) -> None:
        self._node.handle_timer(now)
        self._settle(now)
        for id in self._queries.expire(now):
            self._end_query(id)
        self._settle_leave(now)
        if now >= self._next_reap:
            self._next_reap = Instant(now + _REAP_INTERVAL)
            for name in self._members.expired(now):
                self._erase(name)
        self._settle(now)

    def next_timer(self) -> Instant | None:
        own = (self._node.next_timer(), self._queries.next_deadline(), self._leave_deadline, self._next_reap)
        return min(due for due in own if due is not None)

    def take_outputs(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs

    def _settle(self, now: Instant) -> None:
        """Take what the core tells, and let everything else pass in order."""
        while outputs := self._node.take_outputs():
            for output in outputs:
                if isinstance(output, Notify):
                    self._hear(output.event, now)
                else:
                    self._outputs.append(output)
        if self.has_broadcasts():
            self._node.note_news(now)

    def _settle_leave(self, now: Instant) -> None:
        if self._leave_deadline is None:
            return
        if now >= self._leave_deadline or not self._intent_queue.holds(self._leave_intent):
            self._leave_deadline, self._leave_intent = None, ""
            self._node.leave(now)
            self._settle(now)

    def _tell(self, event: events.Event) -> None:
        self._outputs.append(Notify(event))

    def _tell_change(self, change: Change, name: str, by: str = "") -> None:
        record, state = self._members.get(name), self._node.member(name)
        if record is not None and state is not None:
            self._tell(MemberChanged(change, SerfMember(state, record.status, record.status_ltime), by))

    # --- what the core tells

    def _hear(self, event: events.Event, now: Instant) -> None:
        match event:
            case events.MemberJoined(name):
                self._members.come(name)
                self._tell_change(Change.JOIN, name)
            case events.MemberUpdated(name):
                self._tell_change(Change.UPDATE, name)
            case events.MemberSuspected(name, by):
                self._tell_change(Change.SUSPECT, name, by)
            case events.MemberRefuted(name):
                self._tell_change(Change.REFUTED, name)
            case events.MemberFailed(name, by):
                self._go(name, now, has_left=False, by=by)
            case events.MemberLeft(name):
                self._go(name, now, has_left=True)
            case events.UserMessage(source, payload):
                self._take_message(payload, source, now)
            case events.RemoteState(payload, is_join):
                self._take_state(payload, now, is_join=is_join)
            case events.Answered(name, rtt, payload):
                self._take_coordinate(name, rtt, payload)
            case events.Synced(address):
                if address in self._joining:
                    del self._joining[address]
                    self._say_joined(now)
                self._tell(event)
            case events.SyncFailed(address):
                self._joining.pop(address, None)
                self._tell(event)
            case events.LeaveDone():
                self._go(self._name, now, has_left=True)
                self._tell(event)
            case events.NameConflict(name):
                self._tell(event)
                if name == self._name and self._settings.votes_on_name and not self._members.is_leaving:
                    self._call_vote(now)
            case _:
                self._tell(event)

    def _go(self, name: str, now: Instant, *, has_left: bool, by: str = "") -> None:
        change = self._members.go(name, now, has_left=has_left)
        if change is not None:
            self._tell_change(change, name, by)

    def _take_coordinate(self, name: str, rtt: Seconds, payload: bytes) -> None:
        if self._settings.has_coordinates:
            try:
                self._coordinates.update(name, decode_coordinate(payload), rtt)
            except PeerError as error:
                self._tell(Warned(f"coordinate of {name!a}: {error}"))

    def _take_message(self, payload: bytes, source: HostPort | None, now: Instant) -> None:
        if not payload or payload[0] > _LAST_SERF_TYPE:
            # Not Serf's: rumor's own words between its agents.
            self._tell(events.UserMessage(source, payload))
            return
        try:
            message = codec.decode(payload)
        except PeerError as error:
            self._tell(Warned(f"user message: {error}"))
            return
        queue = self._take(message, now)
        if queue is not None:
            # What is told on is told in the sender's bytes.
            self._queue(queue, payload)

    def _take(self, message: SerfMessage, now: Instant) -> BroadcastQueue | None:
        """Take one message; return the queue in which it is told on, None where it is not."""
        match message:
            case JoinIntent():
                self._clock.witness(message.ltime)
                return self._intent_queue if self._members.hear_join(message, now) else None
            case LeaveIntent():
                return self._intent_queue if self._take_leave_intent(message, now) else None
            case UserEvent():
                return self._event_queue if self._take_user_event(message) else None
            case Query():
                return self._query_queue if self._take_query(message, now) else None
            case QueryResponse():
                found = self._queries.take(message, now)
                if found is not None:
                    self._take_answer(found)
                return None
            case Relay(address, _, inner):
                self._node.send_user_to(address, inner, now)
                return None

    # --- intents

    def _say_joined(self, now: Instant) -> None:
        intent = JoinIntent(self._clock.time, self._name)
        self._clock.witness(intent.ltime)
        self._members.hear_join(intent, now)
        self._broadcast(self._intent_queue, intent)

    def _take_leave_intent(self, intent: LeaveIntent, now: Instant) -> bool:
        self._clock.witness(intent.ltime)
        heard = self._members.hear_leave(intent, now)
        if heard.refutes:
            self._say_joined(now)
            return False
        if heard.change is not None:
            self._tell_change(heard.change, intent.node)
        record = self._members.get(intent.node)
        if intent.prune and heard.is_news and record is not None and record.status is Status.LEFT:
            self._erase(intent.node)
        return heard.is_news

    def _erase(self, name: str) -> None:
        self._tell_change(Change.REAP, name)
        self._members.forget(name)
        self._coordinates.forget(name)
        self._node.forget(name)

    # --- user events

    def _take_user_event(self, event: UserEvent) -> bool:
        self._event_clock.witness(event.ltime)
        if not self._events.accept(event.ltime, (event.name, event.payload), self._event_clock.time):
            return False
        self._tell(UserEventHeard(event.ltime, event.name, event.payload, event.coalesce))
        return True

    # --- queries

    def _ask(self, request: QueryRequest, now: Instant) -> tuple[int, Instant]:
        timings = self._settings.node.timings
        timeout = request.timeout or default_timeout(len(self._members), timings.gossip_interval)
        query = Query(
            ltime=self._query_clock.time,
            id=self._random.getrandbits(31),
            address=self._settings.node.address,
            source_node=self._name,
            name=request.name,
            payload=request.payload,
            filters=codec.filters_of(request.nodes, request.tags),
            flags=ACK if request.wants_acks else 0,
            relay_factor=request.relay_factor,
            timeout_ns=round(timeout * 1e9),
        )
        raw = codec.encode(query)
        if len(raw) > self._settings.query_limit:
            raise Refused(f"query exceeds limit of {self._settings.query_limit} bytes")
        deadline = Instant(now + timeout)
        self._queries.ask(query, deadline)
        self._query_clock.tick()
        if self._take_query(query, now):
            self._queue(self._query_queue, raw)
        for name in request.straight_to:
            self._node.send_user(name, raw, now)
        return query.id, deadline

    def _take_query(self, query: Query, now: Instant) -> bool:
        self._query_clock.witness(query.ltime)
        if not self._heard.accept(query.ltime, query.id, self._query_clock.time):
            return False
        is_told_on = not query.flags & NO_BROADCAST
        if not passes(query, name=self._name, tags=self._tags):
            return is_told_on
        if query.flags & ACK:
            self._send_response(query, codec.encode(QueryResponse(query.ltime, query.id, self._name, ACK)), now)
        deadline = Instant(now + query.timeout_ns / 1e9)
        key = self._queries.hear(query, deadline)
        if key is None:
            return is_told_on
        if query.name.startswith(INTERNAL):
            self._answer_internal(query, key, now)
        else:
            self._tell(QueryHeard(key, query.ltime, query.name, query.payload, query.source_node, deadline))
        return is_told_on

    def _send_response(self, query: Query, raw: bytes, now: Instant) -> None:
        """Send a response straight to the asker, and by others if the query wants that."""
        self._node.send_user_to(query.address, raw, now)
        if not query.relay_factor or len(self._members) < query.relay_factor + 1:
            return
        helpers = [
            state.name
            for state in self._node.members()
            if state.state is State.ALIVE
            and state.name not in (self._name, query.source_node)
            and state.versions[1:2] >= b"\x05"
        ]
        relay = codec.encode(Relay(query.address, query.source_node, raw))
        if len(relay) > self._settings.response_limit:
            return
        for name in self._random.sample(helpers, min(query.relay_factor, len(helpers))):
            self._node.send_user(name, relay, now)

    def _take_answer(self, found: QueryAcked | QueryAnswered) -> None:
        if self._conflict is None or found.query != self._conflict[0]:
            self._tell(found)
        elif isinstance(found, QueryAnswered):
            me = self._settings.node.address
            try:
                record = codec.decode_member(found.payload)
            except PeerError as error:
                self._tell(Warned(f"vote of {found.sender!a}: {error}"))
                return
            self._conflict[1][found.sender] = record is not None and record.address == me

    def _end_query(self, id: int) -> None:
        if self._conflict is None or id != self._conflict[0]:
            self._tell(QueryEnded(id))
            return
        votes = self._conflict[1]
        self._conflict = None
        for_me = sum(votes.values())
        if for_me < len(votes) // 2 + 1:
            self._tell(NameLost(for_me, len(votes)))

    # --- queries that Serf itself answers

    def _answer_internal(self, query: Query, key: int, now: Instant) -> None:
        if query.name in _KEY_QUERIES:
            answer = codec.encode_key_answer(self._answer_about_keys(query))
        elif query.name == f"{INTERNAL}conflict":
            asked = query.payload.decode("utf-8", "surrogateescape")
            if asked == self._name:
                return
            answer = codec.encode_member(self._describe(asked))
        else:
            # A ping is answered by its ack.
            if query.name != f"{INTERNAL}ping":
                self._tell(Warned(f"unknown internal query {query.name!a}"))
            return
        try:
            self.respond(key, answer, now)
        except Refused as error:
            self._tell(Warned(f"answer to {query.name}: {error}"))

    def _describe(self, name: str) -> DescribedMember | None:
        record, state = self._members.get(name), self._node.member(name)
        if record is None or state is None:
            return None
        try:
            tags = decode_tags(state.meta)
        except PeerError:
            tags = {}
        return DescribedMember(name, state.address, tags, record.status, state.versions)

    def _call_vote(self, now: Instant) -> None:
        """Ask everybody where this node's name belongs."""
        if self._conflict is None:
            payload = self._name.encode("utf-8", "surrogateescape")
            try:
                id, _ = self._ask(QueryRequest(f"{INTERNAL}conflict", payload), now)
            except Refused as error:
                self._tell(Warned(f"no vote: {error}"))
                return
            self._conflict = (id, {})

    def _answer_about_keys(self, query: Query) -> KeyAnswer:
        """Do with the key ring what a query says."""
        verb = query.name.removeprefix(INTERNAL)
        ring = self._keyring
        if ring is None:
            word = "Keyring is empty" if verb == "list-keys" else "No keyring to modify"
            return KeyAnswer(False, f"{word} (encryption not enabled)")
        if verb == "list-keys":
            return self._list_keys(ring)
        try:
            key = codec.decode_key_request(query.payload)
            changed = {"install-key": ring.install, "use-key": ring.use, "remove-key": ring.remove}[verb](key)
        except (PeerError, Refused) as error:
            return KeyAnswer(False, str(error))
        if changed != ring:
            self._keyring = changed
            self._node.set_keyring(changed)
            self._tell(KeyringChanged(changed))
        return KeyAnswer(True)

    def _list_keys(self, ring: Keyring) -> KeyAnswer:
        """Return as many keys as fit into a response."""
        total = len(ring.keys)
        for count in range(total, -1, -1):
            keys = tuple(format_key(key) for key in ring.keys[:count])
            words = "" if count == total else f"truncated key list response, showing first {count} of {total} keys"
            answer = KeyAnswer(True, words, keys, format_key(ring.primary))
            if len(codec.encode_key_answer(answer)) <= self._settings.response_limit - 100:
                break
        return answer

    # --- what goes with push/pulls, pings and gossip

    def local_state(self) -> bytes:
        return codec.encode_state(
            SerfState(
                ltime=self._clock.time,
                event_ltime=self._event_clock.time,
                query_ltime=self._query_clock.time,
                status_ltimes={record.name: record.status_ltime for record in self._members},
                left=tuple(record.name for record in self._members if record.status is Status.LEFT),
                events=tuple(PastEvents(ltime, past) for ltime, past in self._events),
            )
        )

    def _take_state(self, payload: bytes, now: Instant, *, is_join: bool) -> None:
        try:
            state = codec.decode_state(payload)
        except PeerError as error:
            self._tell(Warned(f"push/pull: {error}"))
            return
        for clock, seen in (
            (self._clock, state.ltime),
            (self._event_clock, state.event_ltime),
            (self._query_clock, state.query_ltime),
        ):
            if seen > 0:
                clock.witness(seen - 1)
        left = set(state.left)
        for name in state.left:
            if name in state.status_ltimes:
                self._take_leave_intent(LeaveIntent(state.status_ltimes[name] + 1, name), now)
        for name, ltime in state.status_ltimes.items():
            if name not in left:
                self._clock.witness(ltime)
                self._members.hear_join(JoinIntent(ltime, name), now)
        if is_join and self._joining and not any(self._joining.values()):
            self._events.minimum = max(self._events.minimum, state.event_ltime)
        for past in state.events:
            for name, body in past.events:
                self._take_user_event(UserEvent(past.ltime, name, body))

    def ack_payload(self) -> bytes:
        return encode_coordinate(self._coordinates.own) if self._settings.has_coordinates else b""

    def has_broadcasts(self) -> bool:
        return bool(len(self._intent_queue) or len(self._query_queue) or len(self._event_queue))

    def take_broadcasts(self, room: int, overhead: int, count: int) -> list[bytes]:
        taken: list[bytes] = []
        for queue in (self._intent_queue, self._query_queue, self._event_queue):
            if len(queue) and count > len(taken):
                more = queue.take(room, overhead, len(self._members), count - len(taken))
                room -= sum(len(message) + overhead for message in more)
                taken += more
        return taken

    def _broadcast(self, queue: BroadcastQueue, message: SerfMessage) -> str:
        return self._queue(queue, codec.encode(message))

    def _queue(self, queue: BroadcastQueue, raw: bytes) -> str:
        """Queue bytes to gossip; no message of Serf's replaces another."""
        self._queued += 1
        key = str(self._queued)
        queue.queue(key, raw)
        return key


class _Delegate:
    """What the core may ask of Serf, and nothing else of it."""

    def __init__(self, serf: Serf) -> None:
        self._serf = serf

    def user_state(self, *, is_join: bool) -> bytes:
        return self._serf.local_state()

    def ack_payload(self) -> bytes:
        return self._serf.ack_payload()

    def has_broadcasts(self) -> bool:
        return self._serf.has_broadcasts()

    def take_broadcasts(self, room: int, overhead: int, count: int) -> list[bytes]:
        return self._serf.take_broadcasts(room, overhead, count)
