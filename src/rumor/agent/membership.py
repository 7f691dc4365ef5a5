"""This node's place in the cluster: its tags out, everybody's state in.

Owns the gossip runner, the joiner and the snapshot file, and turns Serf's events into what the rest of the agent wants
to know: something changed, and here is the picture. Nothing here knows HAProxy.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

from rumor.agent.drain import BALANCER_TAG
from rumor.errors import ConfigError, Refused
from rumor.joiner import RETRY_INTERVAL, Joiner
from rumor.log import get_logger
from rumor.model import Cause, Instant, Member, Seconds, WallTime
from rumor.names import Endpoint, HostPort, MemberName
from rumor.serf.events import Change, KeyringChanged, MemberChanged, NameLost, SerfMember, Warned
from rumor.serf.layer import Clocks, Serf, SerfSettings
from rumor.serf.snapshot import Snapshot as SnapshotFile
from rumor.sources.base import Snapshot
from rumor.sources.gossip import build
from rumor.swim import events
from rumor.swim.messages import VERSIONS
from rumor.swim.node import NodeSettings, Statistics
from rumor.swim.presets import Timings
from rumor.swim.runner import GossipRunner
from rumor.swim.wire import PLAIN, Wire

log = get_logger("gossip")

_REFUSALS_INTERVAL = 10.0
_REFUSAL_KINDS_LIMIT = 16


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """Where this node gossips, under which name, and whom it looks for."""

    name: MemberName
    bind: HostPort
    advertise: HostPort
    timings: Timings
    join: tuple[Endpoint, ...]
    snapshot: Path | None
    """Where to remember the others; None to forget them."""
    wire: Wire = PLAIN
    rejoin_after_leave: bool = False
    replays: bool = False
    """Whether joining asks for the user events of the past, too."""
    votes_on_name: bool = True
    has_coordinates: bool = True
    event_limit: int = 512
    retry_interval: Seconds = RETRY_INTERVAL
    retry_max: int = 0
    versions: bytes = VERSIONS


class Membership:
    """One member's life in the cluster: join, tell its tags, watch the others, leave."""

    def __init__(
        self,
        settings: MembershipSettings,
        tags: dict[str, str],
        *,
        on_change: Callable[[Cause], None],
        on_event: Callable[[events.Event], None] = lambda event: None,
        on_given_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the member; nothing is sent before `start`.

        Args:
            settings: name, addresses, timings, whom to join.
            tags: what the member says of itself from its first packet on.
            on_change: called after each event that may change the picture, with what happened.
            on_event: called with every event of Serf and the core, after this class has taken it.
            on_given_up: called when nobody has answered to as many tries as the settings allow.

        Raises:
            ConfigError: the tags do not fit into Serf's 512 bytes.
        """
        self._settings = settings
        self._own_tags = dict(tags)
        self._operator_tags: dict[str, str] = {}
        self._hidden_tags: set[str] = set()
        self._on_change = on_change
        self._on_event = on_event
        self._has_synced = False
        self._has_left = asyncio.Event()
        self._snapshot: SnapshotFile | None = None
        remembered: Clocks | None = None
        previous: tuple[HostPort, ...] = ()
        if settings.snapshot is not None:
            self._snapshot = SnapshotFile(settings.snapshot, rejoin_after_leave=settings.rejoin_after_leave)
            clocks = self._snapshot.remembered.clocks
            remembered = Clocks(*(clocks.get(kind, 0) for kind in _CLOCKS))
            previous = tuple(self._snapshot.remembered.alive.values())
        # A node that nobody told of others, and that remembers none, is not blind when it sees none.
        self._expects_others = bool(settings.join or previous)
        serf = Serf(
            SerfSettings(
                NodeSettings(
                    settings.name, settings.advertise, settings.timings, versions=settings.versions, wire=settings.wire
                ),
                self._own_tags,
                event_limit=settings.event_limit,
                replays=settings.replays,
                votes_on_name=settings.votes_on_name,
                has_coordinates=settings.has_coordinates,
            ),
            random=SystemRandom(),
            now=Instant(time.monotonic()),
            remembered=remembered,
        )
        self.runner = GossipRunner(serf, settings.bind, tcp_timeout=settings.timings.tcp_timeout, on_event=self._notice)
        self._joiner = Joiner(
            self.runner, settings.join, previous,
            own_name=settings.name, own=settings.advertise, retry_interval=settings.retry_interval,
            retry_max=settings.retry_max, on_given_up=on_given_up,
        )  # fmt: skip

    async def start(self) -> None:
        """Bind the sockets.

        Raises:
            ConfigError: the address is taken or not this machine's.
        """
        await self.runner.start()

    async def run(self) -> None:
        """Gossip, and look for others as long as nobody else is there, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.runner.run(), name="gossip")
                tasks.create_task(self._joiner.run(), name="joiner")
                tasks.create_task(self._report_refusals(), name="refusals")
        finally:
            await self.runner.aclose()
            if self._snapshot is not None:
                self._snapshot.close()

    @property
    def name(self) -> str:
        return self._settings.name

    def change_operator_tags(self, tags: Mapping[str, str], delete: Iterable[str]) -> None:
        """Delete tags, then set others, on top of what this node says of itself; they stay through its changes.

        Raises:
            Refused: they do not fit into Serf's 512 bytes; nothing is changed.
        """
        gone = set(delete)
        operator = {tag: value for tag, value in self._operator_tags.items() if tag not in gone} | dict(tags)
        hidden = (self._hidden_tags | gone) - set(tags)
        self._publish(self._own_tags, operator, hidden)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Replace this member's tags: balancers are told at once, the others hear of it by gossip.

        Raises:
            Refused: the tags do not fit into Serf's 512 bytes; the old ones stay.
        """
        if tags != self._own_tags:
            self._publish(dict(tags), self._operator_tags, self._hidden_tags)

    def _publish(self, own: dict[str, str], operator: dict[str, str], hidden: set[str]) -> None:
        """Say of this node what it finds itself, and what an operator added or took away."""
        tags = {tag: value for tag, value in own.items() if tag not in hidden} | operator
        try:
            self.runner.do(lambda serf, now: serf.set_tags(tags, now))
        except ConfigError as error:
            raise Refused("Encoded length of tags exceeds limit of 512 bytes") from error
        self._own_tags, self._operator_tags, self._hidden_tags = own, operator, hidden
        self.tell_balancers()

    def probe_soon(self, member: MemberName) -> None:
        """Probe a member before its turn: somebody else has reason to doubt it."""
        self.runner.do(lambda serf, now: serf.probe_soon(member, now))

    def meet(self, address: HostPort) -> None:
        """Join an address that has been found, unless it is a member already."""
        self._joiner.add(address)

    def tell_balancers(self) -> None:
        """Say again, straight to every balancer, what this member says of itself."""
        balancers = [member.name for member in self.members() if BALANCER_TAG in member.tags]
        self.runner.do(lambda serf, now: serf.announce(balancers, now))

    async def leave(self, *, deadline: Seconds) -> None:
        """Tell the others that this node leaves on purpose; at most `deadline` seconds."""
        if self._snapshot is not None:
            self._snapshot.note_leave()
        self.runner.leave()
        self.tell_balancers()
        try:
            async with asyncio.timeout(deadline):
                await self._has_left.wait()
        except TimeoutError:
            log.warning("leave_unconfirmed", after=f"{deadline}s")

    def picture(self) -> Snapshot:
        """Return all members as they are known now, this one included."""
        return build(
            self.runner.do(lambda serf, _: serf.serf_members()),
            is_blind=self._expects_others and not self._has_synced,
            now=Instant(time.monotonic()),
            wall=WallTime(time.time()),
        )

    def members(self) -> tuple[Member, ...]:
        return self.picture().members

    @property
    def has_synced(self) -> bool:
        """Whether one push/pull with another member has succeeded since the start."""
        return self._has_synced

    @property
    def statistics(self) -> Statistics:
        return self.runner.statistics()

    def _notice(self, event: events.Event) -> None:
        self._note_clocks()
        match event:
            case MemberChanged(change, member, by):
                self._notice_change(change, member, by)
            case events.Refuted():
                # Balancers must not depend on gossip's luck to learn that this node is back.
                self.tell_balancers()
            case events.Synced(address):
                self._joiner.note(event)
                if not self._has_synced:
                    self._has_synced = True
                    through = f"through {address}" if address else "met by another member"
                    self._tell("joined", self._settings.name, f"joined the cluster, {through}")
            case events.SyncFailed():
                self._joiner.note(event)
            case events.NameConflict(name, ours, theirs):
                self._tell("name_conflict", name, f"{theirs} claims the name {name}, which belongs to {ours}")
            case NameLost(votes, answers):
                self._tell("name_lost", self._settings.name, f"only {votes} of {answers} members know this node")
            case events.Resumed(gap):
                self._tell("resumed", self._settings.name, f"this node stood still for {gap:.1f} s")
            case events.LeaveDone():
                self._has_left.set()
            case KeyringChanged():
                self._tell("keyring_changed", self._settings.name, "the keys of this node's gossip changed")
            case Warned(text):
                log.debug("serf", text=text)
        self._on_event(event)

    def _notice_change(self, change: Change, member: SerfMember, by: str) -> None:
        name = member.name
        if name == self._settings.name:
            return
        if self._snapshot is not None and change is Change.JOIN:
            self._snapshot.note_alive(name, member.state.address)
        if self._snapshot is not None and change in (Change.FAILED, Change.LEAVE, Change.REAP):
            self._snapshot.note_gone(name)
        kind, text = _WORDS[change]
        self._tell(kind, name, text.format(name=name, by=by))

    async def _report_refusals(self) -> None:
        """Log what the wall has turned away, as counts and now and then: whoever sends it must not fill the log."""
        told: Counter[str] = Counter()
        while True:
            await asyncio.sleep(_REFUSALS_INTERVAL)
            counted = Counter(self.statistics.refused) + Counter(self.runner.faults)
            news = {_fact(kind): count for kind, count in (counted - told).items()}
            told = counted
            if news:
                log.warning("network_refusals", **dict(sorted(news.items())[:_REFUSAL_KINDS_LIMIT]))

    def _note_clocks(self) -> None:
        if self._snapshot is not None:
            clocks = self.runner.do(lambda serf, _: serf.clocks)
            for kind, time_next in zip(_CLOCKS, (clocks.member, clocks.event, clocks.query), strict=True):
                self._snapshot.note_clock(kind, time_next - 1)

    def _tell(self, kind: str, subject: str, text: str) -> None:
        log.info(kind, member=subject, text=text)
        self._on_change(Cause(kind, text, subject, WallTime(time.time())))


def _fact(kind: str) -> str:
    return "_".join(kind.split())


_CLOCKS = ("clock", "event-clock", "query-clock")
_WORDS = {
    Change.JOIN: ("member_joined", "{name} joined"),
    Change.UPDATE: ("member_updated", "{name} changed its tags"),
    Change.SUSPECT: ("member_suspected", "{name} is suspect, accused by {by}"),
    Change.REFUTED: ("member_refuted", "{name} refuted the suspicion"),
    Change.FAILED: ("member_failed", "{name} failed, says {by}"),
    Change.LEAVE: ("member_left", "{name} left"),
    Change.REAP: ("member_reaped", "{name} is forgotten"),
}
