"""What an agent shows, as JSON-able values: the shapes of docs/json.md, and the Protocol an agent satisfies.

Pure translation: nothing is fetched, measured or decided here. Times are ISO 8601 UTC with milliseconds, or null where
there is none. Lists keep the order of what is passed in, except that newest comes first in history and journal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol

from rumor.model import (
    Evidence,
    Member,
    MemberStatus,
    Offer,
    Record,
    Rotation,
    Seconds,
    Server,
    ServerObservation,
    StoredRevision,
    Table,
    WallTime,
)
from rumor.names import MemberName, ServiceName

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class GossipStatus:
    """How this node's own gossip does."""

    health_score: int
    """Lifeguard's awareness: 0 is well, each point stretches this node's timeouts."""
    has_synced: bool
    """Whether one push/pull with another member has succeeded since the start."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """Packets, bytes, refusals, probes, … by their snake_case names; they only grow."""


@dataclass(frozen=True, slots=True)
class HaproxyStatus:
    """The HAProxy that this node steers."""

    master_pid: int | None
    worker_pid: int | None
    version: str
    revision: str
    """The id of the revision that runs; empty where HAProxy does not say."""
    is_converged: bool
    """Whether what runs was equal to what is wanted when it was last read back."""
    is_in_control: bool
    """Whether HAProxy answered the last time it was asked."""


@dataclass(frozen=True, slots=True)
class Status:
    """One node, as `/v1/status` and `/ready` show it."""

    node: MemberName
    parts: tuple[str, ...]
    version: str
    pid: int
    started_at: WallTime
    uptime: Seconds
    not_ready: str = ""
    """Why this node is not ready, in one sentence (starting, draining, …); empty if it is."""
    gossip: GossipStatus | None = None
    haproxy: HaproxyStatus | None = None
    services: tuple[Offer, ...] = ()
    journal_write_errors: int = 0
    problems: tuple[str, ...] = ()
    """What an operator should look at, in sentences."""
    notices: tuple[str, ...] = ()
    """What holds because somebody wanted it so, and should not be forgotten. Shown without a token, as problems are."""


@dataclass(frozen=True, slots=True)
class TableView:
    """The wanted table and, beside it, what HAProxy says of the same servers."""

    table: Table
    revision: str
    """The id of the revision that was rendered from this table; empty before the first."""
    observations: tuple[ServerObservation, ...] = ()
    routes: Mapping[ServiceName, tuple[str, ...]] = field(default_factory=dict)
    """Where each service is found, in words: `*/`, `shop.example/cart`."""
    set_aside: Mapping[ServiceName, str] = field(default_factory=dict)
    """Services that an older part of the configuration serves, and what speaks against the new one."""
    pinned: tuple[str, str, WallTime] | None = None
    """The revision an operator went back to, who did, and when."""


@dataclass(frozen=True, slots=True)
class TemplateView:
    """A file that this node renders."""

    name: str
    destination: str
    written_at: WallTime | None
    error: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One number for monitoring; `name` is without the leading `rumor_` and without `_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


class History(Protocol):
    """The journal, as far as it is shown."""

    async def revision(self, prefix: str) -> StoredRevision | None: ...
    async def revisions(self, limit: int = 50) -> tuple[StoredRevision, ...]: ...
    async def records(self, *, subject: str | None = None, limit: int = 200) -> tuple[Record, ...]: ...


class View(Protocol):
    """What the API wants to see of an agent; each call returns the present picture, without waiting."""

    def members(self) -> Sequence[Member]: ...
    def table(self) -> TableView | None:
        """Return the table, or None on a node that steers no HAProxy."""

    def templates(self) -> Sequence[TemplateView]: ...
    def status(self) -> Status: ...
    def samples(self) -> Sequence[Sample]:
        """Return the numbers that only the parts themselves know (applies, reloads, …)."""

    async def operate(self, word: str, target: str, *, weight: int | None, by: str) -> Sequence[tuple[str, str]] | None:
        """Take a person's word about servers; return them as (service, server), None on a node that steers no HAProxy.

        Raises:
            Refused: there is no such server, or no such weight.
        """

    async def roll_back(self, prefix: str, by: str) -> str | None:
        """Go back to an older configuration; return its id, None on a node that steers no HAProxy.

        Raises:
            Refused: there is none, or HAProxy speaks against it today.
            Unreachable: the journal cannot be read.
        """

    async def release(self, by: str) -> str | None:
        """Let the present configuration come again; return the id of the one that was pinned, None as above.

        Raises:
            Refused: none is.
        """

    @property
    def history(self) -> History: ...
    async def reload(self) -> str:
        """Read rumor.toml and the template again, as SIGHUP does; return what came of it in one sentence.

        Raises:
            RumorError: the files are wrong; everything stays as it was.
        """


def iso(at: WallTime | None) -> str | None:
    """Return `2026-11-23T04:15:43.120Z`; None for no time at all (None or the epoch)."""
    if not at:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def members_json(members: Sequence[Member]) -> Json:
    """Return what `serf members -format json` shows, and more: incarnation, status_by, since."""
    return {"members": [_member(member) for member in members]}


def _member(member: Member) -> Json:
    # Serf prints the last three of the version bytes; where they are unknown it prints zeros.
    lowest, highest, current = member.vsn[3:6] if len(member.vsn) == 6 else (0, 0, 0)
    return {
        "name": member.name,
        "addr": str(member.address),
        "port": member.address.port,
        "tags": dict(sorted(member.tags.items())),
        "status": member.status.value,
        "protocol": {"max": highest, "min": lowest, "version": current},
        "incarnation": member.incarnation,
        "status_by": member.status_by,
        "since": iso(member.status_since),
    }


def table_json(view: TableView) -> Json:
    observed = {(entry.service, entry.server): entry for entry in view.observations}
    return {
        "revision": view.revision,
        "pinned": _pinned(view),
        "services": [
            {
                "name": service.name,
                "set_aside": view.set_aside.get(service.name, ""),
                "routes": list(view.routes.get(service.name, ())),
                "servers": [_server(server, observed.get((service.name, server.name))) for server in service.servers],
            }
            for service in view.table.services
        ],
    }


def templates_json(templates: Sequence[TemplateView]) -> Json:
    return {
        "templates": [
            {"name": one.name, "destination": one.destination, "written_at": iso(one.written_at), "error": one.error}
            for one in templates
        ]
    }


def _pinned(view: TableView | None) -> Json | None:
    if view is None or view.pinned is None:
        return None
    revision, by, at = view.pinned
    return {"revision": revision, "by": by, "at": iso(at)}


def _server(server: Server, observation: ServerObservation | None) -> Json:
    return {
        "name": server.name,
        "address": str(server.address),
        "state": server.rotation.value,
        "weight": server.weight,
        "version": server.version,
        "evidence": [_evidence(evidence) for evidence in server.evidence],
        "haproxy": None if observation is None else _observation(observation),
    }


def _evidence(evidence: Evidence) -> Json:
    return {"source": evidence.source, "says": evidence.says, "by": evidence.by, "at": iso(evidence.at)}


def _observation(observation: ServerObservation) -> Json:
    return {
        "status": observation.status,
        "check": observation.check,
        "is_up": observation.is_up,
        "sessions": observation.sessions,
        "sessions_total": observation.sessions_total,
    }


def status_json(status: Status, members: Sequence[Member]) -> Json:
    haproxy, gossip = status.haproxy, status.gossip
    return {
        "node": status.node,
        "parts": list(status.parts),
        "version": status.version,
        "pid": status.pid,
        "started_at": iso(status.started_at),
        "uptime": round(status.uptime, 3),
        "ready": not status.not_ready,
        "reason": status.not_ready,
        "gossip": None
        if gossip is None
        else {
            "members": len(members),
            "statuses": {name.value: sum(member.status is name for member in members) for name in MemberStatus},
            "health_score": gossip.health_score,
            "has_synced": gossip.has_synced,
            "counters": dict(sorted(gossip.counters.items())),
        },
        "haproxy": None
        if haproxy is None
        else {
            "master_pid": haproxy.master_pid,
            "worker_pid": haproxy.worker_pid,
            "version": haproxy.version,
            "revision": haproxy.revision,
            "converged": haproxy.is_converged,
            "is_in_control": haproxy.is_in_control,
        },
        "services": [_offer(offer) for offer in status.services],
        "journal": {"write_errors": status.journal_write_errors},
    }


def _offer(offer: Offer) -> Json:
    return {
        "name": offer.service,
        "port": offer.port,
        "state": offer.state.value,
        "weight": offer.weight,
        "version": offer.version,
    }


def health_json(status: Status) -> Json:
    return {"status": "ok", "problems": list(status.problems), "notices": list(status.notices)}


def ready_json(status: Status) -> Json:
    return {"ready": not status.not_ready, "reason": status.not_ready}


def history_json(revisions: Sequence[StoredRevision], view: TableView | None = None) -> Json:
    return {"pinned": _pinned(view), "revisions": [_revision(revision) for revision in revisions]}


def revision_json(revision: StoredRevision) -> Json:
    return {**_revision(revision), "text": revision.text}


def _revision(revision: StoredRevision) -> Json:
    cause = revision.cause
    return {
        "id": revision.id,
        "at": iso(cause.at),
        "kind": cause.kind,
        "subject": cause.subject,
        "cause": cause.text,
        "outcome": revision.outcome.value,
        "words": revision.words,
        "how": revision.how,
        "settled_at": iso(revision.settled_at),
    }


def journal_json(records: Sequence[Record]) -> Json:
    return {"records": [_record(record) for record in records]}


def _record(record: Record) -> Json:
    return {
        "at": iso(record.at),
        "kind": record.kind,
        "subject": record.subject,
        "text": record.text,
        "cause": record.cause,
        "facts": dict(sorted(record.facts.items())),
    }


def all_samples(view: View) -> list[Sample]:
    """Return every number for monitoring: what follows from members, table and status, then the parts' own."""
    status, members, shown = view.status(), view.members(), view.table()
    samples = [
        Sample("build_info", "gauge", "Version of rumor and node.", 1, _labels(node=status.node, v=status.version)),
        Sample("uptime_seconds", "gauge", "Seconds since the agent started.", status.uptime),
        Sample("ready", "gauge", "1 if the node is ready, else 0.", float(not status.not_ready)),
        Sample(
            "journal_write_errors",
            "counter",
            "Journal entries lost since the file could not be written.",
            status.journal_write_errors,
        ),
    ]
    samples += [
        Sample(
            "members",
            "gauge",
            "Members by status, as this node sees them.",
            sum(member.status is value for member in members),
            _labels(status=value.value),
        )
        for value in MemberStatus
    ]
    if (gossip := status.gossip) is not None:
        samples.append(Sample("gossip_health_score", "gauge", "Lifeguard's awareness; 0 is well.", gossip.health_score))
        samples += [
            Sample(f"gossip_{name}", "counter", f"Gossip: {name.replace('_', ' ')}.", value)
            for name, value in sorted(gossip.counters.items())
        ]
    if (haproxy := status.haproxy) is not None:
        samples += [
            Sample("haproxy_converged", "gauge", "1 if what runs is what is wanted.", float(haproxy.is_converged)),
            Sample("haproxy_in_control", "gauge", "1 if HAProxy answers this agent.", float(haproxy.is_in_control)),
        ]
    if shown is not None:
        samples += _table_samples(shown)
    return [*samples, *view.samples()]


def _table_samples(shown: TableView) -> list[Sample]:
    samples = [
        Sample(
            "config_pinned",
            "gauge",
            "1 while a rollback holds the configuration, else 0.",
            float(shown.pinned is not None),
        )
    ]
    samples += [
        Sample(
            "servers",
            "gauge",
            "Servers by service and wanted state.",
            sum(server.rotation is rotation for server in service.servers),
            _labels(service=service.name, state=rotation.value),
        )
        for service in shown.table.services
        for rotation in Rotation
    ]
    samples += [
        Sample(
            "server_sessions",
            "gauge",
            "Requests running on a server now, as HAProxy counts them.",
            entry.sessions,
            _labels(service=entry.service, server=entry.server),
        )
        for entry in shown.observations
    ]
    return samples


def _labels(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(labels.items())
