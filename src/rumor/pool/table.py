"""Members and observations -> the table, and from one table to the next the changes and their cause."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rumor.model import (
    AppState,
    Cause,
    Evidence,
    Instant,
    Member,
    MemberStatus,
    Offer,
    OperatorWord,
    Rotation,
    Seconds,
    Server,
    ServerObservation,
    Service,
    Table,
    WallTime,
)
from rumor.names import HostPort, MemberName, ServiceName
from rumor.offers import read_offers
from rumor.pool.evidence import Candidate, haproxy_evidence, operator_evidence, weigh
from rumor.pool.split import split

NO_WORDS: Mapping[tuple[ServiceName, MemberName], OperatorWord] = {}
BLIND_GRACE = Seconds(30.0)
_PRESENT = frozenset({MemberStatus.ALIVE, MemberStatus.SUSPECT, MemberStatus.LEAVING})
_REASONS_LIMIT = 5
_DONE = {Rotation.READY: "ready", Rotation.DRAIN: "drained", Rotation.MAINT: "in maintenance"}


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How one service's servers are found among the members, and how few may be left."""

    floor: int = 0
    role: str = ""
    """Members whose tag `role` is this offer the service, too, at `port`; empty for none."""
    port: int = 0
    split: Mapping[str, int] = field(default_factory=dict)
    """Which share of the requests each version gets; empty to go by the weights alone."""


@dataclass(frozen=True, slots=True)
class Blindness:
    """Since when the balancer cannot see the members, None while it can."""

    since: Instant | None = None

    def is_over_grace(self, now: Instant) -> bool:
        return self.since is not None and now - self.since >= BLIND_GRACE


@dataclass(frozen=True, slots=True)
class Refused:
    """An offer that was not taken: whose, and why."""

    member: MemberName
    reason: str


@dataclass(frozen=True, slots=True)
class ServerChange:
    """What became of one server between two tables; None where it was not or is no more."""

    service: ServiceName
    server: MemberName
    before: Server | None
    after: Server | None
    gone: str = "its member is gone"
    """Why it is no more, in words."""

    @property
    def word(self) -> str:
        """The new state in one word, as the journal and the log name it."""
        return self.after.rotation.value if self.after is not None else "removed"

    @property
    def done(self) -> str:
        """What was done to the server, as a past participle for sentences."""
        if self.after is None:
            return "removed"
        if self._is_weighted:
            return f"weighted {self.after.weight}"
        if self.before is not None and self.before.rotation is self.after.rotation:
            if self.before.address != self.after.address:
                return f"moved to {self.after.address}"
            return "made a backup" if self.after.is_backup else "no backup any more"
        return _DONE[self.after.rotation]

    @property
    def reason(self) -> str:
        """The evidence that decided, in words."""
        if self.after is None:
            return self.gone
        return decisive_for_weight(self.after) if self._is_weighted else decisive(self.after)

    @property
    def _is_weighted(self) -> bool:
        """The weight is all that changed."""
        before, after = self.before, self.after
        if before is None or after is None or before.weight == after.weight:
            return False
        return before.rotation is after.rotation and before.address == after.address


def build_table(
    members: Sequence[Member],
    settings: Mapping[ServiceName, PoolSettings],
    observations: Sequence[ServerObservation],
    *,
    blindness: Blindness,
    now: Instant,
    words: Mapping[tuple[ServiceName, MemberName], OperatorWord] = NO_WORDS,
) -> tuple[Table, tuple[Refused, ...]]:
    """Return the desired routing, and the offers that were refused.

    While the balancer is blind the servers that HAProxy runs stay as they are: not seeing a member is no evidence
    against it. After the grace those that HAProxy's own check finds down go.

    Args:
        members: everybody whom the sources see; an offer of a member that left counts for nothing.
        settings: the services that are served here; an offer of any other is refused.
        observations: every server that the running HAProxy has, empty if it does not run.
        blindness: since when nobody can be seen, if so.
        now: the clock by which `blindness` is dated.
        words: what people have said of servers, whether they are there or not.
    """
    running = {(entry.service, entry.server): entry for entry in observations}
    candidates: dict[ServiceName, list[Candidate]] = defaultdict(list)
    taken: dict[tuple[ServiceName, HostPort], MemberName] = {}
    refused: list[Refused] = []
    # Those who failed come last: whoever is there now has the better claim to an address.
    for member in sorted(members, key=lambda member: (member.status is MemberStatus.FAILED, member.name)):
        if member.status is MemberStatus.LEFT:
            continue
        offers, bad = _offers(member, settings)
        refused += [Refused(member.name, reason) for reason in bad]
        for offer in offers:
            address = HostPort(member.address.host, offer.port)
            owner = taken.setdefault((offer.service, address), member.name)
            if owner != member.name:
                if member.status is not MemberStatus.FAILED:
                    refused.append(Refused(member.name, f"{owner} already offers {offer.service} at {address}"))
                continue
            observation = running.get((offer.service, member.name))
            if observation is not None and observation.address != address:
                observation = None
            candidates[offer.service].append(
                Candidate(member, offer, address, observation, words.get((offer.service, member.name)))
            )
    services = []
    for name in sorted(settings):
        servers = weigh(candidates[name], floor=settings[name].floor)
        if blindness.since is not None:
            servers = _keep_running(servers, observations, name, words, drop_down=blindness.is_over_grace(now))
        servers = split(servers, settings[name].split)
        services.append(Service(name, servers))
    return Table(tuple(services)), tuple(refused)


def _offers(member: Member, settings: Mapping[ServiceName, PoolSettings]) -> tuple[list[Offer], list[str]]:
    offers, errors = read_offers(member.tags)
    known = [offer for offer in offers if offer.service in settings]
    refusals = [str(error) for error in errors]
    refusals += [f"service {offer.service} is not in rumor.toml" for offer in offers if offer.service not in settings]
    named = {offer.service for offer in known}
    for service, entry in settings.items():
        if entry.role and member.tags.get("role") == entry.role and service not in named:
            known.append(Offer(service, entry.port, AppState.READY))
    return known, refusals


def _keep_running(
    servers: tuple[Server, ...],
    observations: Sequence[ServerObservation],
    service: ServiceName,
    words: Mapping[tuple[ServiceName, MemberName], OperatorWord],
    *,
    drop_down: bool,
) -> tuple[Server, ...]:
    seen = {server.name for server in servers}
    kept = [
        Server(
            name=entry.server,
            address=entry.address,
            weight=entry.weight if word is None or word.weight is None else word.weight,
            rotation=Rotation.DRAIN if is_drained and entry.rotation is Rotation.READY else entry.rotation,
            evidence=(
                haproxy_evidence(entry),
                *operator_evidence(word),
                Evidence("blind", "runs in HAProxy, and its member is not heard of yet"),
            ),
        )
        for entry, word in ((entry, words.get((entry.service, entry.server))) for entry in observations)
        for is_drained in (word is not None and word.drains,)
        if entry.service == service
        and entry.server not in seen
        and entry.address is not None
        and not (drop_down and entry.is_up is False)
    ]
    return tuple(sorted((*servers, *kept), key=lambda server: server.name))


def decisive(server: Server) -> str:
    """Return the evidence that decided over a server's rotation, in words."""
    for source in ("damping", "panic", "floor", "operator", "blind"):
        for entry in server.evidence:
            # An operator's weight decides nothing about rotation.
            if entry.source == source and (source != "operator" or entry.says == "drain"):
                return f"{source}: {entry.says}"
    by_source = {entry.source: entry for entry in server.evidence}
    app, gossip, haproxy = (by_source.get(source) for source in ("app", "gossip", "haproxy"))
    accusation = ""
    if gossip is not None and gossip.says != MemberStatus.ALIVE.value:
        accusation = _accusation(gossip.says, gossip.by)
    if accusation and server.rotation is Rotation.MAINT and haproxy is not None:
        return f"{accusation}, and HAProxy finds it {haproxy.says}"
    if app is not None and app.says != AppState.READY.value:
        return f"its app is {app.says}"
    return accusation or "alive and ready"


def decisive_for_weight(server: Server) -> str:
    """Return the evidence that decided over a server's weight, in words."""
    for source in ("split", "operator"):
        for entry in server.evidence:
            if entry.source == source and entry.says != "drain":
                return f"{source}: {entry.says}"
    return "its node says so"


def _accusation(status: str, by: str) -> str:
    return f"{status}, accused by {by}" if by else status


def changes(old: Table, new: Table, members: Sequence[Member] = ()) -> tuple[ServerChange, ...]:
    """Return what differs in what HAProxy should do, in order of services and servers.

    Args:
        old: what was wanted before.
        new: what is wanted now; evidence alone is no difference.
        members: those of whom `new` was made; they say why a server is no more.
    """
    gone = {member.name: _why_gone(member) for member in members}
    before = {(service.name, server.name): server for service in old.services for server in service.servers}
    after = {(service.name, server.name): server for service in new.services for server in service.servers}
    return tuple(
        ServerChange(*key, before.get(key), after.get(key), gone.get(key[1], "its member is gone"))
        for key in sorted(before.keys() | after.keys())
        if _routing(before.get(key)) != _routing(after.get(key))
    )


def _why_gone(member: Member) -> str:
    if member.status in _PRESENT:
        return "its member does not offer it any more"
    return _accusation(member.status.value, member.status_by)


def _routing(server: Server | None) -> tuple[HostPort, int, Rotation, bool] | None:
    return None if server is None else (server.address, server.weight, server.rotation, server.is_backup)


def explain(made: Sequence[ServerChange], *, at: WallTime) -> Cause:
    """Say in one sentence why the table changed."""
    if not made:
        return Cause("start", "the first table", at=at)
    first = made[0]
    text = "; ".join(f"{change.server} {change.done}: {change.reason}" for change in made[:_REASONS_LIMIT])
    if len(made) > _REASONS_LIMIT:
        text += f"; and {len(made) - _REASONS_LIMIT} more"
    return Cause(f"server_{first.word}", text, first.server, at)


def closed_doors(
    members: Sequence[Member], observations: Sequence[ServerObservation]
) -> tuple[tuple[ServiceName, MemberName], ...]:
    """Return the servers of draining members where no new session can begin; those that run may yet go on.

    Only in maintenance is the door shut for sticky clients, too; a server HAProxy does not have has none.
    """
    running = {(entry.service, entry.server): entry for entry in observations}
    found = []
    for member in members:
        if member.status not in _PRESENT:
            continue
        for offer in read_offers(member.tags)[0]:
            entry = running.get((offer.service, member.name))
            is_closed = entry is None or entry.rotation is Rotation.MAINT
            if offer.state is AppState.DRAINING and is_closed:
                found.append((offer.service, member.name))
    return tuple(found)
