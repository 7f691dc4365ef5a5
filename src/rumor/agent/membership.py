"""This node's place in the cluster: its tags out, everybody's state in.

Owns the gossip runner, the joiner and the snapshot file, and turns the core's events into what the rest of the agent
wants to know: something changed, and here is the picture. Nothing here knows HAProxy.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

from rumor.agent.drain import BALANCER_TAG, Drained, parse_drained
from rumor.errors import PeerError
from rumor.joiner import Joiner
from rumor.log import get_logger
from rumor.model import Cause, Instant, Member, Seconds, WallTime
from rumor.names import Endpoint, HostPort, MemberName
from rumor.serf.snapshot import Snapshot as SnapshotFile
from rumor.serf.tags import encode_tags
from rumor.sources.base import Snapshot
from rumor.sources.gossip import build
from rumor.swim import events
from rumor.swim.node import Node, NodeSettings, Statistics
from rumor.swim.presets import Timings
from rumor.swim.runner import GossipRunner

log = get_logger("gossip")


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """Where this node gossips, under which name, and whom it looks for."""

    name: MemberName
    bind: HostPort
    advertise: HostPort
    timings: Timings
    join: tuple[Endpoint, ...]
    snapshot: Path


class Membership:
    """One member's life in the cluster: join, tell its tags, watch the others, leave."""

    def __init__(
        self,
        settings: MembershipSettings,
        tags: dict[str, str],
        *,
        on_change: Callable[[Cause], None],
        on_drained: Callable[[MemberName, Drained], None],
    ) -> None:
        """Prepare the member; nothing is sent before `start`.

        Args:
            settings: name, addresses, timings, whom to join.
            tags: what the member says of itself from its first packet on.
            on_change: called after each event that may change the picture, with what happened.
            on_drained: called with a balancer's name and its word about a drain.

        Raises:
            ConfigError: the tags do not fit into Serf's 512 bytes.
        """
        self._settings = settings
        self._tags = dict(tags)
        self._on_change = on_change
        self._on_drained = on_drained
        self._has_synced = False
        self._has_left = asyncio.Event()
        self._snapshot = SnapshotFile(settings.snapshot)
        previous = tuple(self._snapshot.remembered.alive.values())
        # A node that nobody told of others, and that remembers none, is not blind when it sees none.
        self._expects_others = bool(settings.join or previous)
        node = Node(
            NodeSettings(settings.name, settings.advertise, settings.timings, encode_tags(self._tags)),
            random=SystemRandom(),
            now=Instant(time.monotonic()),
        )
        self._runner = GossipRunner(
            node, settings.bind, tcp_timeout=settings.timings.tcp_timeout, on_event=self._notice
        )
        self._joiner = Joiner(self._runner, settings.join, previous, own_name=settings.name, own=settings.advertise)

    async def start(self) -> None:
        """Bind the sockets.

        Raises:
            ConfigError: the address is taken or not this machine's.
        """
        await self._runner.start()

    async def run(self) -> None:
        """Gossip, and look for others as long as nobody else is there, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._runner.run(), name="gossip")
                tasks.create_task(self._joiner.run(), name="joiner")
        finally:
            await self._runner.aclose()
            self._snapshot.close()

    def set_tags(self, tags: dict[str, str]) -> None:
        """Replace this member's tags: balancers are told at once, the others hear of it by gossip.

        Raises:
            ConfigError: the tags do not fit into Serf's 512 bytes; the old ones stay.
        """
        if tags != self._tags:
            meta = encode_tags(tags)
            self._tags = dict(tags)
            self._runner.set_meta(meta)
            self.tell_balancers()

    def tell_balancers(self) -> None:
        """Say again, straight to every balancer, what this member says of itself."""
        self._runner.announce([member.name for member in self.members() if BALANCER_TAG in member.tags])

    def tell_drained(self, member: MemberName, payload: bytes) -> None:
        """Send a balancer's word to one member; a lost packet is made good by the next repetition."""
        self._runner.send_user(member, payload)

    async def leave(self, *, deadline: Seconds) -> None:
        """Tell the others that this node leaves on purpose; at most `deadline` seconds."""
        self._snapshot.note_leave()
        self._runner.leave()
        self.tell_balancers()
        try:
            async with asyncio.timeout(deadline):
                await self._has_left.wait()
        except TimeoutError:
            log.warning("leave_unconfirmed", after=f"{deadline}s")

    def picture(self) -> Snapshot:
        """Return all members as they are known now, this one included."""
        return build(
            self._runner.members(),
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
        return self._runner.statistics()

    def _notice(self, event: events.Event) -> None:
        match event:
            case events.MemberJoined(name):
                self._remember(name, is_alive=True)
                self._tell("member_joined", name, f"{name} joined")
            case events.MemberUpdated(name):
                self._tell("member_updated", name, f"{name} changed its tags")
            case events.MemberSuspected(name, by):
                self._tell("member_suspected", name, f"{name} is suspect, accused by {by}")
            case events.MemberRefuted(name):
                self._tell("member_refuted", name, f"{name} refuted the suspicion")
            case events.Refuted():
                # Balancers must not depend on gossip's luck to learn that this node is back.
                self.tell_balancers()
            case events.MemberFailed(name, by):
                self._remember(name, is_alive=False)
                self._tell("member_failed", name, f"{name} failed, says {by}")
            case events.MemberLeft(name):
                self._remember(name, is_alive=False)
                self._tell("member_left", name, f"{name} left")
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
            case events.Resumed(gap):
                self._tell("resumed", self._settings.name, f"this node stood still for {gap:.1f} s")
            case events.UserMessage(source, payload):
                self._hear(source, payload)
            case events.LeaveDone():
                self._has_left.set()

    def _tell(self, kind: str, subject: str, text: str) -> None:
        log.info(kind, member=subject, text=text)
        self._on_change(Cause(kind, text, subject, WallTime(time.time())))

    def _hear(self, source: HostPort | None, payload: bytes) -> None:
        """Take a balancer's word only from an address that a member gossips from."""
        sender = next((member for member in self.members() if member.address == source), None)
        try:
            word = parse_drained(payload)
        except PeerError as error:
            log.debug("user_message_refused", source=str(source), reason=str(error))
            return
        if sender is not None:
            self._on_drained(sender.name, word)

    def _remember(self, name: str, *, is_alive: bool) -> None:
        if name == self._settings.name:
            return
        if not is_alive:
            self._snapshot.note_gone(name)
            return
        for state in self._runner.members():
            if state.name == name:
                self._snapshot.note_alive(name, state.address)
