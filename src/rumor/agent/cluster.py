"""The whole cluster's side of an agent: what RPC clients and event handlers may ask of it, and what they hear.

Owns nobody's sockets: it gives commands to the `Membership`, waits for what comes of them, and hands gathered events
to whoever subscribed.
"""

import asyncio
import binascii
import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rumor.agent.membership import Membership
from rumor.errors import PeerError, Refused
from rumor.log import get_logger, serf_line
from rumor.model import Instant
from rumor.names import Endpoint, HostPort, parse_endpoint, parse_ip
from rumor.serf.coordinate import Coordinate
from rumor.serf.events import (
    MemberChanged,
    QueryAcked,
    QueryAnswered,
    QueryEnded,
    QueryHeard,
    SerfMember,
    UserEventHeard,
)
from rumor.serf.keys import KeyReport, KeyTally
from rumor.serf.layer import QueryRequest
from rumor.serf.stream import OWN_CHANGES, EventFilter, Gatherer, MembersEvent, StreamEvent
from rumor.swim import events
from rumor.swim.sealing import KEY_SIZES

log = get_logger("agent")
serf_log = get_logger("serf")

_LOG_LINES = 512
_LOG_NUMBERS = {"TRACE": 0, "DEBUG": logging.DEBUG, "INFO": logging.INFO, "WARN": logging.WARNING, "ERR": logging.ERROR}
_RESOLVE_DEADLINE = 5.0
QueryEvent = QueryAcked | QueryAnswered | QueryEnded


@dataclass(eq=False, slots=True)
class _Subscriber:
    filters: tuple[EventFilter, ...]
    on_event: Callable[[StreamEvent], None]


@dataclass(eq=False, slots=True)
class _JoinWait:
    """A join that somebody waits for."""

    addresses: set[HostPort]
    errors: dict[HostPort, str] = field(default_factory=dict)
    count: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Cluster:
    """The agent's answers to RPC clients, and its events for them and for handlers."""

    def __init__(
        self,
        membership: Membership,
        *,
        leave: Callable[[], None],
        join_port: int,
        handlers: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """Prepare.

        Args:
            membership: whom it speaks for; its events must come to `notice`.
            leave: begins this agent's leave and end.
            join_port: the port of a join address that names none.
            handlers: the event handlers by filter, for `serf info`.
        """
        self._membership = membership
        self._runner = membership.runner
        self._leave = leave
        self._join_port = join_port
        self._handlers = handlers
        self._gatherer = Gatherer()
        self._timer: asyncio.TimerHandle | None = None
        self._subscribers: list[_Subscriber] = []
        self._queries: dict[int, Callable[[QueryEvent], None]] = {}
        self._joins: list[_JoinWait] = []
        self._has_left = asyncio.Event()
        self._log = LogTail()

    def start(self) -> None:
        self._log.attach()

    def close(self) -> None:
        """Tell what is still gathered, and stop following the log."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for event in self._gatherer.take(Instant(float("inf"))):
            self._deliver(event)
        self._log.detach()

    def note_left(self) -> None:
        """The leave has been told: whoever waits for it may go on."""
        self._has_left.set()

    # --- what the member hears

    def notice(self, event: events.Event) -> None:
        """Take one event of the member."""
        now = Instant(time.monotonic())
        match event:
            case MemberChanged(change, member):
                serf_log.info("change", text=_describe(event))
                if change in OWN_CHANGES:
                    self._deliver(MembersEvent(change, (member,)))
                else:
                    self._gatherer.add_member(change, member, now)
            case UserEventHeard():
                if event.coalesce:
                    self._gatherer.add_user(event, now)
                else:
                    self._deliver(event)
            case QueryHeard():
                self._deliver(event)
            case QueryAcked() | QueryAnswered() | QueryEnded():
                self._tell_asker(event)
            case events.Synced(address) if address is not None:
                self._settle_join(address, "")
            case events.SyncFailed(address, reason):
                self._settle_join(address, reason)
        self._arm(now)

    def _arm(self, now: Instant) -> None:
        due = self._gatherer.due
        if due is not None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - now), self._flush)

    def _flush(self) -> None:
        self._timer = None
        now = Instant(time.monotonic())
        for event in self._gatherer.take(now):
            self._deliver(event)
        self._arm(now)

    def _deliver(self, event: StreamEvent) -> None:
        match event:
            case MembersEvent(change):
                log.info("event", text=f"Received event: {change.value}")
            case UserEventHeard():
                log.info("event", text=f"Received event: user-event: {event.name}")
            case QueryHeard():
                log.info("event", text=f"Received event: query: {event.name}")
        for subscriber in tuple(self._subscribers):
            if any(one.passes(event) for one in subscriber.filters):
                subscriber.on_event(event)

    def subscribe(
        self, filters: tuple[EventFilter, ...], on_event: Callable[[StreamEvent], None]
    ) -> Callable[[], None]:
        """Hand over every event that passes one of the filters, from now on; call what is returned to stop."""
        subscriber = _Subscriber(filters, on_event)
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber) if subscriber in self._subscribers else None

    def follow_log(self, level: str, on_line: Callable[[str], None]) -> Callable[[], None]:
        """Hand over the last lines of the log, and then each new one."""
        return self._log.follow(_LOG_NUMBERS[level], on_line)

    # --- what may be asked

    def members(self) -> tuple[SerfMember, ...]:
        return self._runner.do(lambda serf, _: serf.serf_members())

    def coordinate(self, name: str) -> Coordinate | None:
        return self._runner.do(lambda serf, _: serf.coordinate(name))

    def user_event(self, name: str, payload: bytes, *, coalesce: bool) -> None:
        """Tell everybody something.

        Raises:
            Refused: it is too long.
        """
        log.debug("user_event", text=f"Requesting user event send: {name}. Coalesced: {str(coalesce).lower()}.")
        self._runner.do(lambda serf, now: serf.user_event(name, payload, now, coalesce=coalesce))

    def force_leave(self, name: str, *, prune: bool) -> None:
        log.info("force_leave", text=f"Force leaving node: {name}")
        self._runner.do(lambda serf, now: serf.force_leave(name, now, prune=prune))

    def change_tags(self, tags: dict[str, str], delete: list[str]) -> None:
        """Delete tags of this node, then set others.

        Raises:
            Refused: they do not fit; nothing is changed.
        """
        self._membership.change_operator_tags(tags, delete)

    async def leave(self) -> None:
        """Leave the cluster, and come back when that has been told."""
        self._leave()
        await self._has_left.wait()

    def query(self, request: QueryRequest, on_event: Callable[[QueryEvent], None]) -> None:
        """Ask; acks, answers and the end go to `on_event`.

        Raises:
            Refused: it is too long, not allowed, or one too many.
        """
        # Answers come by the network, this node's own included, so none has come when this returns.
        id, _ = self._runner.do(lambda serf, now: serf.query(request, now))
        self._queries[id] = on_event

    def respond(self, key: int, payload: bytes) -> None:
        """Answer a query that was heard.

        Raises:
            Refused: it was answered, its time is up, or the answer is too long.
        """
        self._runner.do(lambda serf, now: serf.respond(key, payload, now))

    def _tell_asker(self, event: QueryEvent) -> None:
        if event.query in self._queries:
            asker = self._queries[event.query]
            if isinstance(event, QueryEnded):
                del self._queries[event.query]
            asker(event)

    # --- joining

    async def join(self, addresses: list[str], *, replay: bool) -> tuple[int, str]:
        """Join through each address; return how many answered, and Serf's words about those that did not."""
        log.info("joining", text=f"joining: [{' '.join(addresses)}] replay: {str(replay).lower()}")
        wanted: dict[HostPort, str] = {}
        words: list[str] = []
        for text in addresses:
            try:
                for address in await _resolve(text, self._join_port):
                    wanted[address] = text
            except (PeerError, OSError, TimeoutError) as error:
                reason = getattr(error, "strerror", None) or str(error) or "no answer"
                words.append(f"Failed to resolve {text}: {reason}")
        wait = _JoinWait(set(wanted))
        if wanted:
            self._joins.append(wait)
            try:
                self._runner.do(lambda serf, now: serf.join(list(wanted), now, replay=replay))
                await wait.done.wait()
            finally:
                self._joins.remove(wait)
        words += [
            f"Failed to join {address.host}: {_go_words(address, reason)}" for address, reason in wait.errors.items()
        ]
        if not words:
            return wait.count, ""
        head = f"{len(words)} error{'s' if len(words) > 1 else ''} occurred:\n"
        text = head + "".join(f"\t* {line}\n" for line in words) + "\n"
        log.warning("join_failed", text=f"error joining: {text}")
        return wait.count, text

    def _settle_join(self, address: HostPort, error: str) -> None:
        for wait in self._joins:
            if address in wait.addresses:
                wait.addresses.discard(address)
                if error:
                    wait.errors[address] = error
                else:
                    wait.count += 1
                if not wait.addresses:
                    wait.done.set()

    # --- keys

    async def change_keys(self, verb: str, key: str) -> KeyReport:
        """Ask all members to change or to list their keys, and wait for what they say."""
        log.info("keys", text=f"Initiating key {_KEY_WORDS[verb]}")
        lists = verb == "list-keys"
        try:
            raw = b"" if lists else _read_key(key)
        except Refused as error:
            return KeyReport(str(error))
        alive = sum(member.status.name == "ALIVE" for member in self.members())
        tally, ended = KeyTally(alive, lists), asyncio.Event()

        def take(event: QueryEvent) -> None:
            if isinstance(event, QueryAnswered):
                tally.add(event.sender, event.payload)
            if isinstance(event, QueryEnded) or len(tally.answers) == alive:
                ended.set()

        try:
            id, _ = self._runner.do(lambda serf, now: serf.key_query(verb, raw, now))
        except Refused as error:
            return KeyReport(str(error))
        self._queries[id] = take
        await ended.wait()
        return tally.report()

    # --- numbers

    def stats(self) -> dict[str, dict[str, str]]:
        """Return what `serf info` shows."""
        counts = self._runner.do(lambda serf, _: serf.counts())
        keyring = self._runner.do(lambda serf, _: serf.keyring)
        return {
            "agent": {"name": self._membership.name},
            "event_handlers": self._handlers(),
            "runtime": {
                "os": platform.system().lower(),
                "arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
                "version": f"python{platform.python_version()}",
                "max_procs": str(os.cpu_count() or 1),
                "goroutines": str(len(asyncio.all_tasks()) + threading.active_count()),
                "cpu_count": str(os.cpu_count() or 1),
            },
            "serf": {name: str(count) for name, count in counts.items()}
            | {"encrypted": str(keyring is not None).lower()},
            "tags": self._runner.do(lambda serf, _: serf.tags),
        }


_KEY_WORDS = {"install-key": "installation", "use-key": "change", "remove-key": "removal", "list-keys": "listing"}


def _read_key(text: str) -> bytes:
    """Return a key from base64.

    Raises:
        Refused: it is none; the text is Go's.
    """
    for number, letter in enumerate(text.rstrip("\n")):
        if not (letter.isascii() and (letter.isalnum() or letter in "+/=")):
            raise Refused(f"illegal base64 data at input byte {number}")
    try:
        key = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as error:
        raise Refused(f"illegal base64 data at input byte {max(0, len(text) - 1)}") from error
    if len(key) not in KEY_SIZES:
        raise Refused("key size must be 16, 24 or 32 bytes")
    return key


def _go_words(address: HostPort, reason: str) -> str:
    """Return why an address could not be joined, as Go would have said where it is the network's fault."""
    if reason.startswith("no answer within"):
        return f"dial tcp {address}: i/o timeout"
    is_dialling = reason in ("connection refused", "no route to host", "network is unreachable")
    return f"dial tcp {address}: connect: {reason}" if is_dialling else reason


def _describe(event: MemberChanged) -> str:
    """Return a change of a member in Serf's own words."""
    kind = "".join(word.capitalize() for word in event.change.value.split("-"))
    address = "" if event.change.value == "member-update" else f" {event.member.state.address.host}"
    by = f" (by {event.by})" if event.by and event.change in OWN_CHANGES else ""
    return f"Event{kind}: {event.member.name}{address}{by}"


async def _resolve(text: str, port: int) -> list[HostPort]:
    """Return the addresses of one join address: `host`, `host:port`, `[v6]:port`, or the same after `name/`.

    Raises:
        PeerError: it is none of these.
        OSError: its name does not resolve.
    """
    endpoint: Endpoint = parse_endpoint(text.rpartition("/")[2], default_port=port)
    try:
        return [HostPort.of(parse_ip(endpoint.host), endpoint.port)]
    except PeerError:
        async with asyncio.timeout(_RESOLVE_DEADLINE):
            infos = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=1)
        return [HostPort(str(info[4][0]).partition("%")[0], endpoint.port) for info in infos]


class LogTail(logging.Handler):
    """Keeps the last lines of the log, and hands new ones to followers, as `serf monitor` shows them."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[tuple[int, str]] = deque(maxlen=_LOG_LINES)
        self._followers: list[tuple[int, Callable[[str], None]]] = []

    def attach(self) -> None:
        logging.getLogger("rumor").addHandler(self)

    def detach(self) -> None:
        logging.getLogger("rumor").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        line = serf_line(record)
        self._lines.append((record.levelno, line))
        for level, on_line in tuple(self._followers):
            if record.levelno >= level:
                on_line(line)

    def follow(self, level: int, on_line: Callable[[str], None]) -> Callable[[], None]:
        for number, line in self._lines:
            if number >= level:
                on_line(line)
        follower = (level, on_line)
        self._followers.append(follower)
        return lambda: self._followers.remove(follower) if follower in self._followers else None
