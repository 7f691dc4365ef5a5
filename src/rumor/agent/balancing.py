"""The balancer's loop: members in, a running HAProxy brought to what they say out.

One task owns the table, the wanted revision and the applier. Each cycle looks (HAProxy, gossip), decides in one
synchronous stretch (table, revision) and acts (check, apply, journal, answer draining nodes). It is woken by a change
of the members and, at the latest, each second, so that what runs is read back and repaired even when nothing happens.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rumor.agent import apply_words
from rumor.agent.debounce import Debounce
from rumor.agent.drain import ANSWER_AFTER, Holding, Question
from rumor.agent.operator_words import OperatorWords, ServerName, find_servers
from rumor.agent.peers import peers_of
from rumor.agent.pin import Pinned
from rumor.agent.revisions import Revisions, Surroundings
from rumor.agent.sensing import Sensing
from rumor.errors import Refused, RumorError, Unreachable
from rumor.haproxy.apply import Applier, ApplyReport, RefusedStep
from rumor.haproxy.certificates import Certificates
from rumor.haproxy.observe import Observed
from rumor.journal import Journal
from rumor.log import get_logger
from rumor.model import (
    Cause,
    CheckResult,
    Instant,
    Member,
    Outcome,
    Record,
    Revision,
    Rotation,
    Seconds,
    ServerObservation,
    Table,
    WallTime,
)
from rumor.names import HostPort, MemberName, ServiceName
from rumor.pool.damping import Standings, damp, watch
from rumor.pool.sensor import Sighting
from rumor.pool.table import Blindness, PoolSettings, ServerChange, build_table, changes, closed_doors, explain
from rumor.render.settings import RenderSettings
from rumor.sources.base import Snapshot

log = get_logger("balancer")

_RECONCILE_INTERVAL = 1.0
_FRESH = 0.5
"""A look at HAProxy is as good as new for so long."""
_DRAIN_POLL = 0.1
_ASKED_LIMIT = 256
_FIRST_PICTURE_WAIT = 2.0
_SHORTEST_PAUSE = 0.02
_REPORTED_LIMIT = 1024
_FIRST_RETRY_PAUSE = 2.0
_LONGEST_RETRY_PAUSE = 30.0
"""A configuration, or a part of it, that was refused gets another try so often: a file may be back, a port free."""
_SETTLING_PATIENCE = 3.0
"""Whoever reads rumor.toml again is told whether HAProxy has taken it, if that shows by then."""


Reasons = tuple[tuple[str, str], ...]
"""Names of certificates, each with what is wrong with it."""


@dataclass(frozen=True, slots=True)
class BalancingSettings:
    """What a balancer is told by its configuration; replaced as a whole when rumor.toml is read again."""

    render: RenderSettings
    pool: Mapping[ServiceName, PoolSettings]
    certificates: Path | None = None
    """The operator's directory of certificates; None where nobody is served by TLS."""
    peers: HostPort | None = None
    """Where this balancer shares its stick tables, as others reach it; None where it does not."""

    @property
    def drains(self) -> dict[ServiceName, Seconds]:
        """How long a server of each service may drain before its sessions are cut."""
        return {backend.service: backend.drain for backend in self.render.backends}

    @property
    def routes(self) -> dict[ServiceName, tuple[str, ...]]:
        return {backend.service: tuple(map(str, backend.routes)) for backend in self.render.backends}


@dataclass(slots=True)
class Counters:
    """What the loop has done since the agent started."""

    cycles: int = 0
    applies: dict[str, int] = field(default_factory=lambda: {"runtime": 0, "reload": 0})
    repairs: int = 0
    offers_refused: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """A draining node's question that waits for its answer."""

    question: Question
    answer: Callable[[Sequence[Holding]], None]
    answer_by: float


class Balancing:
    """Owns the table and the revision that HAProxy should run."""

    def __init__(
        self,
        settings: BalancingSettings,
        *,
        applier: Applier,
        journal: Journal,
        picture: Callable[[], Snapshot],
        probe_member: Callable[[MemberName], None],
        words: OperatorWords,
        revisions: Revisions,
        certificates: Certificates,
        node: MemberName,
    ) -> None:
        """Prepare; nothing is asked of HAProxy before `run`.

        Args:
            settings: what to render, and how to find servers among members.
            applier: the one writer to HAProxy.
            journal: where revisions and state changes are kept with their causes.
            picture: what gossip sees now.
            probe_member: lets gossip look at a member before its turn: HAProxy doubts it.
            words: what people have said of servers.
            revisions: makes a revision of a table.
            certificates: brings certificates to HAProxy.
            node: this member's name.
        """
        self._settings = settings
        self._applier = applier
        self._journal = journal
        self._picture = picture
        self._asked: list[_Asked] = []
        self._probe_member = probe_member
        self._words = words
        self._revisions = revisions
        self._certificates = certificates
        self._node = node
        self._table = Table()
        self._standings: Standings = {}
        self._debounce = Debounce()
        self._sensing = Sensing()
        self._sensing.on_heard = self.wake
        self._retry_at, self._retry_pause = 0.0, _FIRST_RETRY_PAUSE
        self._settling: list[asyncio.Future[str]] = []
        """Who waits to hear whether HAProxy takes the newest revision."""
        self._refused_certificates: Reasons = ()
        self._unloaded_certificates: Reasons = ()
        self._applied: Revision | None = None
        """The last revision whose outcome is journalled."""
        self._observed: Observed | None = None
        self._processes: tuple[int, int | None] | None = None
        """Master and worker at the last look."""
        self._is_converged = False
        self._refused = ""
        """Why the present configuration as a whole is not what serves; empty if it is."""
        self._unable: tuple[RefusedStep, ...] = ()
        self._unwritten = ""
        self._started = Instant(time.monotonic())
        self._start = Cause("start", "the agent started", at=WallTime(time.time()))
        self._changed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._reported: set[tuple[str, str]] = set()
        self.counters = Counters()

    # --- what others see

    @property
    def settings(self) -> BalancingSettings:
        return self._settings

    @property
    def table(self) -> Table:
        return self._table

    @property
    def revision(self) -> Revision | None:
        """The revision that is wanted: the newest that passed its check."""
        return self._revisions.newest

    @property
    def pinned(self) -> Pinned | None:
        """The configuration that an operator went back to, if so."""
        return self._revisions.pinned

    @property
    def refusals(self) -> int:
        """Revisions that a check or HAProxy refused."""
        return self._revisions.refusals

    @property
    def set_aside(self) -> Mapping[ServiceName, str]:
        """Services that are served by an older part of the configuration, and what speaks against the new one."""
        everybody = (service.name for service in self._table.services) if self._refused else ()
        return dict.fromkeys(everybody, self._refused) | dict(self._revisions.set_aside)

    @property
    def observed(self) -> Observed | None:
        """The running HAProxy as it was last seen; None if it did not answer."""
        return self._observed

    @property
    def problems(self) -> tuple[str, ...]:
        """What an operator should look at, in sentences; empty if all is well."""
        found = [] if self._observed is not None else [self._applier.silence]
        found += [self._unwritten] if self._unwritten else []
        found += (
            [f"the configuration of before goes on, with today's servers: {self._refused}"] if self._refused else []
        )
        found += [f"service {service} is not served as rumor.toml says: {words}" for service, words in self._bad()]
        found += [f"HAProxy would not {one.step}, nor did a reload bring it: {one.words}" for one in self._unable]
        certificates = (*self._refused_certificates, *self._unloaded_certificates)
        return (*found, *(f"certificate {name} is not used: {reason}" for name, reason in certificates))

    def _bad(self) -> list[tuple[ServiceName, str]]:
        return sorted(self._revisions.set_aside.items())

    @property
    def is_converged(self) -> bool:
        return self._is_converged

    # --- what others ask for

    def wake(self) -> None:
        """Look again soon: the members changed."""
        self._changed.set()

    def hear_drain(self, question: Question, answer: Callable[[Sequence[Holding]], None]) -> None:
        """Take a draining node's question; `answer` is called once nothing of it is held, or soon anyway."""
        if len(self._asked) < _ASKED_LIMIT:
            self._asked.append(_Asked(question, answer, time.monotonic() + ANSWER_AFTER))
            self._changed.set()

    def hear(self, result: CheckResult) -> None:
        """Take what HAProxy logged of a check."""
        self._sensing.take(result)

    async def reconfigure(self, settings: BalancingSettings, cause: Cause) -> str:
        """Take new settings if a revision rendered by them passes its check; say what came of it.

        Raises:
            Refused: the template or HAProxy speaks against it; the old settings and the last good revision stay.
        """
        async with self._turn:
            revision = await self._revisions.offer(self._table, settings.render, cause)
            self._settings = settings
            self._applier.settings = replace(self._applier.settings, drains=settings.drains)
            self._refused = ""
            settled = asyncio.get_running_loop().create_future()
            self._settling.append(settled)
        self._changed.set()
        refused = await self._settle(settled)
        said = [refused or f"revision {revision.id[:12]} is accepted"]
        said += [f"{service} stays as it was: {words}" for service, words in self._bad()]
        if self.pinned is not None:
            said.append(f"the configuration stays pinned to {self.pinned.revision[:12]} until `rumor config release`")
        return "; ".join(said)

    async def _settle(self, settled: asyncio.Future[str]) -> str:
        """Wait a moment for HAProxy's word on the newest revision; empty if it says nothing against it."""
        try:
            async with asyncio.timeout(_SETTLING_PATIENCE):
                return await settled
        except TimeoutError:
            return ""

    def _tell_settled(self, words: str) -> None:
        for settled in self._settling:
            if not settled.done():
                settled.set_result(words)
        self._settling.clear()

    async def roll_back(self, prefix: str, by: str) -> str:
        """Go back to an older configuration, with today's servers, until it is released; return its id.

        Raises:
            Refused: there is none, or HAProxy speaks against it today.
            Unreachable: the journal cannot be read.
        """
        async with self._turn:
            pinned = await self._revisions.roll_back(prefix, self._table, by)
            text = f"{by or 'somebody'} went back to revision {pinned.revision[:12]}"
            await self._revisions.offer(
                self._table, self._settings.render, Cause("rollback", text, at=WallTime(time.time()))
            )
            self._refused = ""
        self._changed.set()
        return pinned.revision

    async def release(self, by: str) -> str:
        """Let the present configuration come again; return the id of the one that was pinned.

        Raises:
            Refused: none is, or the present configuration is refused, which the pin then outlives no more.
        """
        async with self._turn:
            pinned = await self._revisions.release(by)
            text = f"{by or 'somebody'} released the configuration"
            await self._revisions.offer(
                self._table, self._settings.render, Cause("release", text, at=WallTime(time.time()))
            )
            self._refused = ""
        self._changed.set()
        return pinned.revision

    async def operate(self, word: str, target: str, *, weight: int | None = None, by: str = "") -> list[ServerName]:
        """Take a person's word about a server, or about all servers of a node; return which they are.

        Args:
            word: `drain`, `ready` (takes a drain back) or `weight`.
            target: `SERVER`, `SERVICE/SERVER` or a node's name.
            weight: for `weight`; None for the one the node says itself.
            by: who says so.

        Raises:
            Refused: there is no such server, or no such weight.
        """
        async with self._turn:
            servers = find_servers(self._table, self._words.words, target)
            match word:
                case "drain":
                    await asyncio.to_thread(self._words.drain, servers, by)
                case "ready":
                    await asyncio.to_thread(self._words.ready, servers, by)
                case _:
                    await asyncio.to_thread(self._words.weigh, servers, weight, by)
        said = word if word != "weight" else f"weight {'as the node says' if weight is None else weight}"
        for service, server in servers:
            log.info("operator", service=service, server=server, word=said, by=by)
            text = f"{by or 'somebody'} says of {server} of {service}: {said}"
            await self._journal.append(Record(WallTime(time.time()), f"operator_{word}", server, text))
        self._changed.set()
        return servers

    # --- the loop

    async def run(self) -> None:
        """Keep HAProxy at what the members say, until cancelled."""
        await self._wait_first_picture()
        while True:
            self._changed.clear()
            try:
                async with self._turn:
                    pause = await self._cycle()
            except (Refused, Unreachable) as error:
                log.warning("cycle_failed", reason=str(error))
                pause = _RECONCILE_INTERVAL
            except RumorError as error:
                log.error("cycle_failed", exc=error)
                pause = _RECONCILE_INTERVAL
            self.counters.cycles += 1
            await self._rest(pause)

    async def _wait_first_picture(self) -> None:
        """Give a restarted agent a moment to meet the others before it speaks to HAProxy."""
        deadline = time.monotonic() + _FIRST_PICTURE_WAIT
        while self._picture().is_blind and (left := deadline - time.monotonic()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def _rest(self, pause: float) -> None:
        try:
            async with asyncio.timeout(pause):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._debounce.pause(Instant(time.monotonic())))

    async def _cycle(self) -> float:
        """Look, decide, act; return when to look again at the latest, in seconds."""
        before = () if self._observed is None else self._observed.servers
        self._observed = await self._applier.observe()
        looked_at = time.monotonic()
        observations = () if self._observed is None else self._observed.servers
        await self._note_processes(self._observed)
        await self._heed(self._sensing.look(self._table, before, observations))
        snapshot = self._picture()
        now = Instant(time.monotonic())
        if not snapshot.is_blind:
            self._standings = watch(self._standings, snapshot.members, now)
        table, refused = build_table(
            snapshot.members,
            self._settings.pool,
            observations,
            blindness=Blindness(self._started if snapshot.is_blind else None),
            now=now,
            words=self._words.words,
        )
        table = damp(table, self._standings, {name: pool.floor for name, pool in self._settings.pool.items()}, now)
        for refusal in snapshot.refusals:
            await self._report_refusal(refusal.subject, refusal.reason)
        for offer in refused:
            await self._report_refusal(offer.member, offer.reason)
        await self._take(table, snapshot.members, await self._look_around(snapshot))
        revision = self._revisions.newest
        if revision is None:
            return _RECONCILE_INTERVAL
        # What was true of the last revision is not yet of this one.
        self._is_converged = self._is_converged and revision is self._applied
        # Thousands of servers are not read twice within a moment.
        is_fresh = time.monotonic() - looked_at < _FRESH
        report = await self._applier.apply(revision, seen=self._observed if is_fresh else None)
        await self._note_processes(report.observed, have_reloaded=report.how == "reload")
        await self._note_report(revision, report)
        pause = min(self._answer_drains(snapshot, report), _RECONCILE_INTERVAL)
        await self._load_certificates(report)
        return pause

    async def _note_processes(self, observed: Observed | None, *, have_reloaded: bool = False) -> None:
        """Journal that somebody else has started HAProxy anew or reloaded it; what came of that is repaired as ever."""
        if observed is None:
            return
        was, now = self._processes, (observed.processes.master_pid, observed.processes.worker_pid)
        self._processes = now
        if was is None or was == now or (have_reloaded and was[0] == now[0]):
            return
        kind = "haproxy_restarted" if was[0] != now[0] else "haproxy_reloaded"
        text = "HAProxy was started anew" if was[0] != now[0] else "somebody else reloaded HAProxy"
        log.warning(kind, master=now[0], worker=now[1])
        await self._journal.append(Record(WallTime(time.time()), kind, "", f"{text}: worker {now[1]}"))

    async def _heed(self, seen: Sequence[Sighting]) -> None:
        """Let gossip look at once at whom HAProxy doubts, and journal what HAProxy met."""
        for sighting in seen:
            if sighting.raises_doubt:
                self._probe_member(sighting.server)
            log.info(sighting.kind, server=sighting.server, text=sighting.text)
            await self._journal.append(Record(WallTime(time.time()), sighting.kind, sighting.server, sighting.text))

    async def _look_around(self, snapshot: Snapshot) -> Cause | None:
        """Notice new and lost certificates and balancers; return the cause of a new configuration, if there is one."""
        old, now = self._revisions.surroundings, WallTime(time.time())
        names = old.certificates
        tls = self._settings.render.tls
        if tls is not None and self._settings.certificates is not None:
            found = await self._certificates.look(self._settings.certificates, tls.directory)
            names = found.names
            self._refused_certificates = await self._note_certificates(self._refused_certificates, found.refused)
        peers = (
            old.peers
            if snapshot.is_blind and old.peers
            else peers_of(snapshot.members, self._node, self._settings.peers)
        )
        self._revisions.surroundings = Surroundings(names, peers, self._node)
        if names != old.certificates:
            return Cause("certificates", f"the certificates are now {', '.join(names) or 'none'}", at=now)
        if peers != old.peers:
            return Cause("peers", f"the balancers are now {', '.join(name for name, _ in peers)}", at=now)
        return None

    async def _take(self, table: Table, members: Sequence[Member], around: Cause | None) -> None:
        """Make a revision of a changed table, and journal what changed and why."""
        now = WallTime(time.time())
        made = changes(self._table, table, members)
        is_tried = self._revisions.newest is not None or bool(self._refused)
        is_retry = bool(self._revisions.set_aside or self._refused) and time.monotonic() >= self._retry_at
        if not made and around is None and is_tried and not is_retry:
            # The same routing: newer evidence alone makes no revision, nor does offering a broken template again.
            self._table = table
            return
        again = Cause("retry", "what was refused is tried again", at=now) if is_retry else self._start
        cause = explain(made, at=now) if made else around or again
        for change in made:
            log.info(
                "server_changed", service=change.service, server=change.server, to=change.word, cause=change.reason
            )
        await self._journal.append_all([_record(change, now) for change in made])
        self._table = table
        # What has changed may be the cure; if not, it is tried ever more seldom.
        self._retry_pause = min(2 * self._retry_pause, _LONGEST_RETRY_PAUSE) if is_retry else _FIRST_RETRY_PAUSE
        self._retry_at = time.monotonic() + self._retry_pause
        try:
            await self._revisions.offer(table, self._settings.render, cause)
            self._refused = ""
        except Refused:
            await self._go_on_without(table, cause)

    async def _go_on_without(self, table: Table, cause: Cause) -> None:
        """Serve today's servers by what served before: the present configuration was refused as a whole."""
        self._refused = self._revisions.refused.said
        if self._revisions.newest is None:
            older = await self._revisions.fall_back(table, self._settings.render, cause)
            if older is not None:
                self._settings, self._refused = replace(self._settings, render=older), ""
                return
        await self._revisions.carry_on(table, cause)

    async def _load_certificates(self, report: ApplyReport) -> None:
        """Let the running HAProxy have certificates whose contents changed; no reload is needed for that."""
        tls = self._settings.render.tls
        if tls is None or report.observed is None or report.refused:
            return
        process = str(report.observed.processes.worker_pid)
        taken = await self._certificates.load(self._applier.worker, tls.directory, process=process)
        unloaded = self._certificates.unloaded
        self._unloaded_certificates = await self._note_certificates(self._unloaded_certificates, unloaded)
        for name in taken:
            log.info("certificate_loaded", name=name)
            text = f"{name} was replaced on disk, and serves without a reload"
            await self._journal.append(Record(WallTime(time.time()), "certificate_loaded", name, text))

    async def _note_certificates(self, known: Reasons, now: Reasons) -> Reasons:
        """Journal what is newly wrong with certificates; return it all."""
        for name, reason in now:
            if (name, reason) not in known:
                log.error("certificate_refused", name=name, reason=reason)
                await self._journal.append(Record(WallTime(time.time()), "certificate_refused", name, reason))
        return now

    async def _note_report(self, revision: Revision, report: ApplyReport) -> None:
        self._observed = report.observed
        was_converged, self._is_converged = self._is_converged, self._is_converged and report.is_converged
        await self._keep_report(revision, report, was_converged=was_converged)
        # Only now: whoever sees that all is done finds in the journal how.
        self._is_converged = report.is_converged

    async def _keep_report(self, revision: Revision, report: ApplyReport, *, was_converged: bool) -> None:
        await self._note_steps(report)
        if report.refused:
            await self._revisions.refuse(revision, report.refused, report.how)
            self._refused = self._revisions.refused.said
            self._tell_settled(self._refused)
            # It is offered again at once, that what served before goes on with today's servers.
            self._retry_at = 0.0
            self._changed.set()
            return
        if report.observed is not None and report.observed.revision == revision.id:
            self._revisions.accept(revision)
            self._tell_settled("")
        if report.unwritten != self._unwritten:
            self._unwritten = report.unwritten
            kind = "config_not_written" if report.unwritten else "config_written_again"
            log.error(kind, words=report.unwritten)
            text = report.unwritten or "HAProxy's file can be written again"
            await self._journal.append(Record(WallTime(time.time()), kind, "", text))
        if not report.done:
            if report.is_converged and revision is not self._applied:
                # All was as it is wanted already: after a restart of the agent, say.
                await self._journal.set_outcome(revision.id, Outcome.APPLIED, "", report.how)
                self._applied = revision
            return
        self.counters.applies[report.how] = self.counters.applies.get(report.how, 0) + 1
        done, cause = apply_words.in_words(report.done), revision.cause.text
        facts = apply_words.facts(report) | {"cause_kind": revision.cause.kind}
        if was_converged and revision is self._applied:
            # Nothing new was wanted, yet something differed: somebody else was at HAProxy. What made the revision then
            # is not what made this.
            self.counters.repairs += 1
            log.warning("repaired", done=done)
            cause = "HAProxy differed though nothing new was wanted"
            facts["cause_kind"] = "drift"
            subject = "" if " " in facts["servers"] else facts["servers"].rpartition("/")[2]
            await self._journal.append(
                Record(WallTime(time.time()), "drift_repaired", subject, f"{cause}: {done}", facts=facts)
            )
        else:
            log.info("applied", id=revision.id[:12], how=report.how, done=done)
        await self._journal.append(Record(WallTime(time.time()), "applied", "", done, cause, facts))
        if revision is not self._applied:
            await self._journal.set_outcome(revision.id, Outcome.APPLIED, done, report.how)
            self._applied = revision

    async def _note_steps(self, report: ApplyReport) -> None:
        """Journal what HAProxy would not do at run time."""
        now = WallTime(time.time())
        for one in report.refused_steps:
            text = f"HAProxy would not {one.step}; a reload is to bring it"
            await self._journal.append(Record(now, "step_refused", one.subject, text, one.words))
        for one in report.unable:
            if one not in self._unable:
                log.error("step_given_up", step=one.step, words=one.words)
                text = f"HAProxy would not {one.step}, nor did a reload bring it"
                await self._journal.append(Record(now, "step_given_up", one.subject, text, one.words))
        self._unable = report.unable

    def _answer_drains(self, snapshot: Snapshot, report: ApplyReport) -> float:
        """Answer draining members that hold nothing any more, or have waited long enough; return when to look again."""
        if report.observed is None:
            # A HAProxy that cannot be asked may hold anything: nothing is said of it.
            return _RECONCILE_INTERVAL
        closed = frozenset(closed_doors(snapshot.members, report.observed.servers))
        sessions = {(entry.service, entry.server): entry.sessions for entry in report.observed.servers}
        now, waiting = time.monotonic(), list[_Asked]()
        for asked in self._asked:
            keys = [(service, asked.question.member) for service in asked.question.services]
            holdings = [Holding(key[0], key in closed, sessions.get(key, 0)) for key in keys]
            if now >= asked.answer_by or all(holding.is_nothing for holding in holdings):
                asked.answer(holdings)
            else:
                waiting.append(asked)
        self._asked = waiting
        if waiting or _is_draining(self._table, report.observed.servers):
            return _DRAIN_POLL
        if report.wake_in is not None:
            return max(_SHORTEST_PAUSE, report.wake_in)
        return _RECONCILE_INTERVAL

    async def _report_refusal(self, subject: str, reason: str) -> None:
        """Journal what came from the network and was not taken, once for each subject and reason."""
        if (subject, reason) in self._reported:
            return
        if len(self._reported) >= _REPORTED_LIMIT:
            self._reported.clear()
        self._reported.add((subject, reason))
        self.counters.offers_refused += 1
        log.warning("offer_refused", member=subject, reason=reason)
        await self._journal.append(Record(WallTime(time.time()), "offer_refused", subject, reason))


def _record(change: ServerChange, now: WallTime) -> Record:
    text = f"{change.server} of {change.service}: {change.done}"
    facts = {"service": change.service, "weight": str(change.after.weight) if change.after else ""}
    return Record(now, f"server_{change.word}", change.server, text, change.reason, facts)


def _is_draining(table: Table, observations: tuple[ServerObservation, ...]) -> bool:
    """Say whether a server is on its way out, so that the end of its last session is noticed soon."""
    wanted = {(service.name, server.name): server for service in table.services for server in service.servers}
    return any(
        entry.rotation is Rotation.DRAIN
        and (server := wanted.get((entry.service, entry.server))) is not None
        and any(word.source == "app" and word.says == "draining" for word in server.evidence)
        for entry in observations
    )
