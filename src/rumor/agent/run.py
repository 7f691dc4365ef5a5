"""The composition root: build the parts this node plays, introduce them to one another, run them, stop in order.

The only place that handles signals. SIGTERM and SIGINT mean: drain, leave, end with status 0, unless Serf's own
settings say otherwise; a second one means now. SIGHUP reads rumor.toml and the template again.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rumor import __version__
from rumor.agent.addresses import advertised_address, gossip_address
from rumor.agent.balancer_queries import ask_balancers, hear_question, tell_ended
from rumor.agent.cluster import Cluster
from rumor.agent.drain import BALANCER_TAG, DRAIN_QUERY, RUMOR_TAG, Question
from rumor.agent.endings import ENDED_QUERY, ending_of, format_ending, parse_ending
from rumor.agent.handlers import Ended, HandlerRunner, parse_handler
from rumor.agent.keyring_file import read_keyring, write_keyring
from rumor.agent.membership import Membership, MembershipSettings
from rumor.agent.offering import Offering
from rumor.agent.peers import PEERS_TAG
from rumor.agent.programs import Programs
from rumor.agent.settings import BALANCER, offer_settings, offered_services
from rumor.agent.view import AgentView
from rumor.config import Config, SerfConfig
from rumor.errors import ConfigError, PeerError, RumorError, Unreachable
from rumor.journal import Journal
from rumor.log import get_logger
from rumor.model import Cause, Offer, Record, Seconds, WallTime
from rumor.names import MemberName, ServiceName, parse_member_name
from rumor.places import Places, places
from rumor.serf.events import Change, KeyringChanged, MemberChanged, NameLost, QueryHeard
from rumor.serf.rpc_server import RpcServer, RpcSettings
from rumor.serf.stream import OWN_CHANGES, StreamEvent, kind_of, parse_filters
from rumor.supervise.exits import Exit
from rumor.supervise.notify import notify_ready
from rumor.swim import events
from rumor.swim.messages import VERSIONS
from rumor.swim.presets import PRESETS, Timings
from rumor.swim.sealing import Keyring
from rumor.swim.wire import Wire
from rumor.web.api import Api
from rumor.web.unix_server import UnixServer

if TYPE_CHECKING:
    from rumor.agent.balancing import Balancing
    from rumor.agent.templates import Templates
    from rumor.render.file import Picture

log = get_logger("agent")

_LEAVE_SLACK = Seconds(1.0)


async def run_agent(
    config: Config,
    parts: Sequence[str],
    *,
    node: str,
    data: Path,
    environ: Mapping[str, str],
    load_config: Callable[[], Config],
    on_started: Callable[[str], None] = lambda address: None,
) -> int:
    """Play some parts of the cluster on this node until told to stop; return the exit status.

    Args:
        config: what the file, the environment and the flags say.
        parts: `balancer` and names of services; with none the node is a plain member of the cluster, as serf's agent.
        node: this member's name.
        data: the data directory; the node keeps its things in a directory of its own name in it.
        environ: for finding HAProxy.
        load_config: reads the configuration again, for SIGHUP.
        on_started: called with the address of gossip when all sockets are open.

    Raises:
        ConfigError: something about this node is wrong: its name, its addresses, a part, a file.
    """
    stop = Stop()
    stop.heed_signals(config.serf)
    name = _member_name(node)
    place = places(data, name)
    place.make()
    with _only_one(place):
        journal = await Journal.open(place.journal)
        try:
            agent = Agent(config, tuple(parts), name, place, journal, environ, load_config, on_started)
            await agent.run(stop)
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            await journal.close()
    return stop.status


class Stop:
    """Whether, and how, the agent is to end."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.leaves = True
        self.status = 0

    def heed_signals(self, serf: SerfConfig) -> None:
        loop = asyncio.get_running_loop()
        leaves = {signal.SIGTERM: serf.leave_on_terminate, signal.SIGINT: not serf.skip_leave_on_interrupt}
        for number, is_graceful in leaves.items():
            loop.add_signal_handler(number, lambda leave=is_graceful: self.request(leaves=leave))  # type: ignore[misc]

    def request(self, *, leaves: bool = True) -> None:
        """Ask for the end, once; without leaving it counts as a failure, as in Serf."""
        if not self.requested.is_set():
            self.leaves, self.status = leaves, 0 if leaves else 1
            self.requested.set()


class Agent:
    """One node's parts, under one TaskGroup."""

    def __init__(
        self,
        config: Config,
        parts: tuple[str, ...],
        name: MemberName,
        place: Places,
        journal: Journal,
        environ: Mapping[str, str],
        load_config: Callable[[], Config],
        on_started: Callable[[str], None],
    ) -> None:
        self._on_started = on_started
        self._config = config
        self._parts = parts
        self._name = name
        self._place = place
        self._journal = journal
        self._environ = environ
        self._load_config = load_config
        self._plays_balancer = BALANCER in parts
        self._records: asyncio.Queue[Record] = asyncio.Queue(maxsize=10_000)
        self._advertise = advertised_address(config.cluster)
        services = offered_services(config, parts)
        self._offering = Offering(
            name, tuple(offer_settings(service, self._advertise.host) for service in services), on_change=self._on_offer
        )
        self._membership: Membership | None = None
        self._cluster: Cluster | None = None
        self._handlers: HandlerRunner | None = None
        self._stop_request: Stop | None = None
        self._balancing: Balancing | None = None
        self._templates: Templates | None = None
        self._start_templates: Callable[[], None] = lambda: None

    async def run(self, stop: Stop) -> None:
        """Start, run until `stop`, drain, leave."""
        self._stop_request = stop
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._write_journal(), name="journal"),
                tasks.create_task(self._offering.run(), name="checks"),
                tasks.create_task(Programs(self._place.exits, tell=self._on_ended).run(), name="programs"),
            ]
            await self._offering.wait_first_outcomes()
            membership = self._membership = self._make_membership()
            cluster = self._cluster = self._make_cluster(membership, stop)
            handlers = self._handlers = self._make_handlers(membership, cluster)
            await membership.start()
            background.append(tasks.create_task(handlers.run(), name="handlers"))
            background.append(tasks.create_task(membership.run(), name="membership"))
            if self._config.cluster.discover:
                background.append(tasks.create_task(self._discover(membership), name="discovery"))
            if self._plays_balancer:
                self._balancing = self._make_balancing(membership)
                background.append(tasks.create_task(self._balance(self._balancing), name="balancing"))
            self._start_templates = lambda: self._begin_templates(membership, tasks, background)
            self._start_templates()
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGHUP, lambda: background.append(tasks.create_task(self._hang_up(), name="reload"))
            )
            async with self._serve_api(membership) as unix:
                background.append(tasks.create_task(unix.run(), name="api"))
                log.info(
                    "started", node=self._name, parts=",".join(self._parts), gossip=self._advertise, version=__version__
                )
                self._warn_if_open()
                self._on_started(str(gossip_address(self._config.cluster.bind)))
                notify_ready(self._environ)
                try:
                    failure = await self._join_first(cluster)
                    if not failure:
                        await stop.requested.wait()
                    if stop.leaves and not failure:
                        await self._stop(membership)
                finally:
                    cluster.note_left()
                    cluster.close()
                await handlers.drain()
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
        while not self._records.empty():
            await self._journal.append(self._records.get_nowait())
        log.info("stopped", node=self._name)
        if failure:
            raise Unreachable(failure)

    def _begin_templates(
        self, membership: Membership, tasks: asyncio.TaskGroup, background: list[asyncio.Task[None]]
    ) -> None:
        """Begin to render files, if the configuration wants one of this node and it is not done yet."""
        if self._templates is not None or not self._config.templates:
            return
        # Jinja2 weighs on a node, so only one that has templates loads it.
        from rumor.agent.picture import picture
        from rumor.agent.templates import Templates

        def see() -> "Picture | None":
            snapshot = membership.picture()
            return None if snapshot.is_blind else picture(self._config, self._name, snapshot.members)

        self._templates = Templates(
            lambda: self._config,
            self._parts,
            picture=see,
            journal=self._journal.append,
            owed=self._place.owed_reloads,
        )
        background.append(tasks.create_task(self._templates.run(), name="templates"))

    async def _balance(self, balancing: "Balancing") -> None:
        from rumor.haproxy.log_socket import listen_to_log

        async with listen_to_log(self._place.run_directory / "log.sock", balancing.hear):
            await balancing.run()

    async def _discover(self, membership: Membership) -> None:
        # Zeroconf weighs on a node, so only one that was told to discover loads it.
        try:
            from rumor.agent.discovery import Discovery
        except ModuleNotFoundError as error:
            raise ConfigError("discovery needs zeroconf: pip install 'rumor[discover]'") from error
        discovery = Discovery(self._config.cluster.discover, self._name, self._advertise, on_found=membership.meet)
        await discovery.run()

    async def _stop(self, membership: Membership) -> None:
        log.info("stopping", node=self._name)
        hurry = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, hurry.set)
        patience = asyncio.create_task(hurry.wait(), name="second signal")
        leaving = asyncio.create_task(self._drain_and_leave(membership), name="drain and leave")
        try:
            await asyncio.wait((patience, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done():
                log.warning("hurried", node=self._name)
        finally:
            for task in (patience, leaving):
                task.cancel()
            await asyncio.gather(patience, leaving, return_exceptions=True)

    async def _drain_and_leave(self, membership: Membership) -> None:
        if self._offering.offers():
            ended = await self._offering.drain(membership.members, membership.tell_balancers, self._ask_balancers)
            self._record("drained" if ended.is_clean else "drain_deadline", self._name, ended.text)
        self._record("leave", self._name, "this node leaves")
        await membership.leave(deadline=Seconds(self._timings().leave_timeout + _LEAVE_SLACK))

    # --- building the parts

    def _make_membership(self) -> Membership:
        cluster, serf = self._config.cluster, self._config.serf
        ring = (
            read_keyring(serf.keyring_file) if serf.keyring_file else Keyring((cluster.key,)) if cluster.key else None
        )
        is_plain_member = not self._parts
        return Membership(
            MembershipSettings(
                name=self._name,
                bind=gossip_address(cluster.bind),
                advertise=self._advertise,
                timings=self._timings(),
                join=cluster.join,
                snapshot=serf.snapshot if is_plain_member else serf.snapshot or self._place.snapshot,
                wire=Wire(ring, compresses=cluster.compression),
                rejoin_after_leave=serf.rejoin_after_leave,
                votes_on_name=serf.votes_on_name,
                has_coordinates=serf.has_coordinates,
                event_limit=serf.event_limit,
                versions=bytes((*VERSIONS[:5], serf.protocol)),
                retry_interval=serf.retry_interval,
                retry_max=serf.retry_max,
                replays=serf.replay,
            ),
            self._tags(),
            on_change=self._on_members,
            on_event=self._on_event,
            on_given_up=self._give_up,
        )

    def _timings(self) -> Timings:
        timings, leave_timeout = PRESETS[self._config.cluster.preset or "lan"], self._config.serf.leave_timeout
        return timings if leave_timeout is None else replace(timings, leave_timeout=leave_timeout)

    def _make_cluster(self, membership: Membership, stop: Stop) -> Cluster:
        return Cluster(
            membership,
            leave=stop.request,
            join_port=self._config.cluster.bind.port,
            handlers=lambda: {str(one.filter): one.script for one in self._handlers.handlers} if self._handlers else {},
        )

    def _make_handlers(self, membership: Membership, cluster: Cluster) -> HandlerRunner:
        runner = HandlerRunner(
            [handler for text in self._config.serf.handlers for handler in parse_handler(text)],
            name=self._name,
            tags=lambda: membership.runner.do(lambda serf, _: serf.tags),
            respond=cluster.respond,
            on_failure=self._on_handler_failure,
            deadline=self._config.serf.handler_timeout,
        )
        cluster.start()
        cluster.subscribe(parse_filters("*"), runner.take)
        cluster.subscribe(parse_filters(",".join(sorted(change.value for change in OWN_CHANGES))), runner.take)
        return runner

    async def _join_first(self, cluster: Cluster) -> str:
        """Join before anything else, where the agent is told that it must; return why it could not, empty if it did."""
        addresses = self._config.serf.start_join
        if not addresses:
            return ""
        count, words = await cluster.join(list(addresses), replay=self._config.serf.replay)
        return "" if count else words

    def _make_balancing(self, membership: Membership) -> "Balancing":
        from rumor.agent.balancer_parts import make_balancing

        return make_balancing(
            lambda: self._config, self._place, membership=membership, journal=self._journal, environ=self._environ
        )

    @contextlib.asynccontextmanager
    async def _serve_api(self, membership: Membership) -> AsyncIterator[UnixServer]:
        """Listen on the UNIX socket, and on TCP where the configuration says so."""
        view = AgentView(
            self._name,
            self._parts,
            membership=membership,
            offering=self._offering,
            balancing=self._balancing,
            journal=self._journal,
            templates=lambda: self._templates,
            reload=self.reload,
        )
        render = None
        if self._plays_balancer or self._config.api.bind is not None:
            from rumor.web.metrics import make_renderer

            render = make_renderer()
        api = Api(view, render_metrics=render)
        unix = UnixServer(self._place.agent_socket, api.answer)
        async with contextlib.AsyncExitStack() as stack:
            await unix.start()
            stack.push_async_callback(unix.aclose)
            if self._config.api.bind is not None:
                from rumor.web.app import TcpServer, TcpSettings

                tcp = TcpServer(TcpSettings(self._config.api.bind, self._config.api.token), api.answer)
                await tcp.start()
                stack.push_async_callback(tcp.aclose)
            if self._cluster is not None:
                serf = self._config.serf
                places_of_rpc = [RpcSettings(self._place.rpc_socket)]
                if serf.rpc is not None:
                    places_of_rpc.append(RpcSettings(serf.rpc, serf.rpc_token))
                for settings in places_of_rpc:
                    rpc = RpcServer(settings, self._cluster)
                    await rpc.start()
                    stack.push_async_callback(rpc.aclose)
            yield unix

    # --- what happens

    def _tags(self) -> dict[str, str]:
        tags = dict(self._config.serf.tags)
        if not self._parts:
            return tags
        tags |= {RUMOR_TAG: __version__, **self._offering.tags()}
        if self._plays_balancer:
            binds = self._config.balancer.binds
            tags[BALANCER_TAG] = str(binds[0].port) if binds else ""
            if self._config.balancer.peers is not None:
                tags[PEERS_TAG] = str(self._config.balancer.peers.port)
        return tags

    def _on_offer(self, offer: Offer, reason: str) -> None:
        self._record(f"app_{offer.state.value}", self._name, f"{offer.service} is {offer.state.value}", reason)
        if self._membership is not None:
            self._membership.set_tags(self._tags())
        if self._templates is not None:
            # Of this node's own tags nobody else tells it.
            self._templates.wake()

    def _on_members(self, cause: Cause) -> None:
        self._record(cause.kind, cause.subject, cause.text)
        self._offering.notice_members()
        if self._balancing is not None:
            self._balancing.wake()
        if self._templates is not None:
            self._templates.wake()

    def _on_event(self, event: events.Event) -> None:
        if isinstance(event, QueryHeard) and event.name == DRAIN_QUERY:
            if self._cluster is not None and self._balancing is not None:
                hear_question(self._cluster, event, self._balancing.hear_drain)
            return
        if isinstance(event, QueryHeard) and event.name == ENDED_QUERY:
            self._hear_ended(event)
            return
        if self._cluster is not None:
            self._cluster.notice(event)
        match event:
            case events.LeaveDone():
                if self._cluster is not None:
                    self._cluster.note_left()
            case NameLost() if self._stop_request is not None:
                log.error("name_lost", text=f"another member is called {self._name}: give this node another --node")
                self._stop_request.request(leaves=False)
            case MemberChanged(Change.UPDATE, member) if member.name == self._name:
                self._keep_tags()
            case KeyringChanged(ring) if self._config.serf.keyring_file is not None:
                try:
                    write_keyring(self._config.serf.keyring_file, ring)
                except OSError as error:
                    log.error("keyring_not_written", path=self._config.serf.keyring_file, reason=error.strerror)

    def _give_up(self) -> None:
        log.error("nobody_there", text="maximum retry join attempts made, exiting")
        if self._stop_request is not None:
            self._stop_request.request(leaves=False)

    def _keep_tags(self) -> None:
        """Write changed tags to the file they came from, if there is one."""
        path, membership = self._config.serf.tags_file, self._membership
        if path is None or membership is None:
            return
        tags = membership.runner.do(lambda serf, _: serf.tags)
        try:
            path.write_text(json.dumps(tags, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        except OSError as error:
            log.error("tags_not_written", path=path, reason=error.strerror)

    def _on_handler_failure(self, event: StreamEvent, ended: Ended) -> None:
        how = "took too long and was ended" if ended.status is None else f"ended with status {ended.status}"
        said = ended.output[-500:].decode("utf-8", "replace").strip()
        self._record("handler_failed", self._name, f"{ended.handler.script} for {kind_of(event)}: {how}", said)

    def _ask_balancers(self, balancers: Sequence[MemberName], services: Sequence[ServiceName]) -> None:
        if self._cluster is not None:
            question = Question(self._name, tuple(services))
            ask_balancers(self._cluster, balancers, question, self._offering.hear)

    def _on_ended(self, program: str, end: Exit, lines: tuple[str, ...]) -> None:
        """Journal how a program of this node ended, and tell balancers why a server of theirs fell."""
        ending = ending_of(program, end, lines[-1] if lines else "")
        self._record("program_ended", self._name, f"{program} {ending.how}", " / ".join(lines))
        if self._cluster is None or self._membership is None:
            return
        balancers = [
            one.name for one in self._membership.members() if BALANCER_TAG in one.tags and one.name != self._name
        ]
        if balancers:
            tell_ended(self._cluster, balancers, format_ending(ending))

    def _hear_ended(self, event: QueryHeard) -> None:
        try:
            member, ending = parse_member_name(event.source_node), parse_ending(event.payload)
        except PeerError as error:
            log.debug("ending_refused", sender=event.source_node[:80], reason=str(error))
            return
        if self._plays_balancer and member != self._name:
            self._record("program_ended", member, f"{ending.program} on {member} {ending.how}", ending.words)

    def _record(self, kind: str, subject: str, text: str, cause: str = "") -> None:
        try:
            self._records.put_nowait(Record(WallTime(time.time()), kind, subject, text, cause))
        except asyncio.QueueFull:
            log.error("journal_behind", lost=kind)

    async def _write_journal(self) -> None:
        while True:
            record = await self._records.get()
            await self._journal.append(record)

    # --- reading the configuration again

    async def _hang_up(self) -> None:
        try:
            said = await self.reload()
        except RumorError as error:
            log.error("reload_refused", reason=str(error))
        else:
            log.info("reloaded", text=said)

    async def reload(self) -> str:
        """Read rumor.toml and the template again; return what came of it.

        Raises:
            RumorError: they are wrong; everything stays as it was.
        """
        config = await asyncio.to_thread(self._load_config)
        said = "read again; this node steers no HAProxy, and what it offers changes at its next start"
        if self._balancing is not None:
            from rumor.agent.balancer_parts import settings_of

            settings = await asyncio.to_thread(settings_of, config, self._place)
            cause = Cause("reload", "rumor.toml and the template were read again", at=WallTime(time.time()))
            said = await self._balancing.reconfigure(settings, cause)
        self._config = replace(
            self._config, services=config.services, balancer=config.balancer, templates=config.templates
        )
        self._start_templates()
        if self._templates is not None:
            self._templates.wake()
        return said

    def _warn_if_open(self) -> None:
        if not self._advertise.ip.is_loopback and not self._config.cluster.key and not self._config.serf.keyring_file:
            log.warning(
                "gossip_in_the_clear",
                address=self._advertise,
                text="anyone who reaches this port can join the cluster; keep it on a network you trust",
            )


# --- at the wall


@contextlib.contextmanager
def _only_one(place: Places) -> Iterator[None]:
    """Hold the node's lock: two agents of one name and data directory would write over one another."""
    path = place.directory / "agent.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another agent runs in {place.directory}: stop it, or choose another --node or --data"
            ) from error
        yield
    finally:
        os.close(handle)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first failure of a group: the one that made the rest fall."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _member_name(text: str) -> MemberName:
    try:
        return parse_member_name(text)
    except RumorError as error:
        raise ConfigError(f"--node: {error}") from error
