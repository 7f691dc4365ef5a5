"""Weigh what speaks for and against each server of one service.

Two witnesses decide at once: a suspect whose HAProxy check fails as well is shut off, cookies included. One witness
costs a drain, which is cheap and reversible: the node's own word (starting, draining, down) or gossip's suspicion. Two
rules keep a balancer that cannot see from emptying a pool: panic (most servers would be out by gossip's word alone)
and the floor (fewer than N would be left); neither holds back a leave or a drain that the node itself, or a person,
asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rumor.model import (
    AppState,
    Evidence,
    Member,
    MemberStatus,
    Offer,
    OperatorWord,
    Rotation,
    Server,
    ServerObservation,
)
from rumor.names import HostPort

_ACCUSED = frozenset({MemberStatus.SUSPECT, MemberStatus.FAILED})


@dataclass(frozen=True, slots=True)
class Candidate:
    """One member's offer of the service, and how the running HAProxy sees that server if it has it."""

    member: Member
    offer: Offer
    address: HostPort
    observation: ServerObservation | None
    word: OperatorWord | None = None

    @property
    def is_leaving(self) -> bool:
        """The node itself wants no more requests, or a person wants it so."""
        is_drained = self.word is not None and self.word.drains
        return is_drained or self.offer.state is AppState.DRAINING or self.member.status is MemberStatus.LEAVING

    @property
    def is_accused(self) -> bool:
        return self.member.status in _ACCUSED

    @property
    def is_shut_off(self) -> bool:
        """HAProxy's check fails, or HAProxy holds it in maintenance, where it checks nothing."""
        entry = self.observation
        return entry is not None and (entry.is_up is False or entry.rotation is Rotation.MAINT)

    @property
    def is_out_by_gossip(self) -> bool:
        """Gossip alone speaks against it: the node says ready, and HAProxy finds nothing wrong.

        A failed member needs HAProxy's word that its server is up. Without it there are two witnesses, or there is
        no server at all, and so no ground for panic.
        """
        if self.offer.state is not AppState.READY or self.is_shut_off or self.is_leaving:
            return False
        if self.member.status is MemberStatus.FAILED:
            return self.observation is not None and self.observation.is_up is True
        return self.member.status is MemberStatus.SUSPECT


def weigh(candidates: Sequence[Candidate], *, floor: int) -> tuple[Server, ...]:
    """Return the servers of one service with what should be done with each, in order of their names.

    A member that failed is not in the result, unless panic or the floor keeps it.

    Args:
        candidates: one for each member that offers the service; their names differ.
        floor: so many servers stay in rotation, if suspicion or checks are all that speaks against them.
    """
    judged = [(candidate, _judge(candidate)) for candidate in sorted(candidates, key=lambda entry: entry.member.name)]
    out = sum(candidate.is_out_by_gossip for candidate, _ in judged)
    ready = sum(server.rotation is Rotation.READY and not candidate.is_shut_off for candidate, server in judged)
    # Servers that are out for another reason count on neither side: panic is about those that could serve.
    panic = out > ready
    if panic:
        judged = [
            (candidate, _restored(server, "panic", "most servers would be out by gossip's word alone: ignored"))
            if candidate.is_out_by_gossip
            else (candidate, server)
            for candidate, server in judged
        ]
    return _keep_floor(judged, floor)


def _judge(candidate: Candidate) -> Server:
    word = candidate.word
    return Server(
        name=candidate.member.name,
        address=candidate.address,
        weight=candidate.offer.weight if word is None or word.weight is None else word.weight,
        rotation=_rotation(candidate),
        version=candidate.offer.version,
        evidence=_evidence(candidate),
        is_backup=candidate.offer.is_backup,
    )


def _rotation(candidate: Candidate) -> Rotation:
    if candidate.is_accused and candidate.is_shut_off:
        # Until the member refutes: in maintenance no check can tell that it is back.
        return Rotation.MAINT
    if candidate.is_leaving:
        return _end_of_drain(candidate.observation)
    if candidate.is_accused or candidate.offer.state is not AppState.READY:
        return Rotation.DRAIN
    return Rotation.READY


def _end_of_drain(observation: ServerObservation | None) -> Rotation:
    """Drain until no session is left, then shut the door for sticky clients, too."""
    if observation is None:
        return Rotation.DRAIN
    if observation.rotation is Rotation.DRAIN and observation.sessions == 0:
        return Rotation.MAINT
    return Rotation.MAINT if observation.rotation is Rotation.MAINT else Rotation.DRAIN


def _keep_floor(judged: Sequence[tuple[Candidate, Server]], floor: int) -> tuple[Server, ...]:
    """Restore servers up to the floor, the least accused first, and leave out who failed."""
    missing = floor - sum(server.rotation is Rotation.READY for _, server in judged)
    out = [entry for entry in judged if entry[1].rotation is not Rotation.READY and _may_be_restored(entry[0])]
    out.sort(key=lambda entry: (not entry[0].is_out_by_gossip, entry[0].is_accused, entry[1].name))
    restored = {server.name for _, server in out[: max(0, missing)]}
    kept: list[Server] = []
    for candidate, server in judged:
        if server.name in restored:
            kept.append(_restored(server, "floor", f"fewer than {floor} servers would be in rotation"))
        elif candidate.member.status is not MemberStatus.FAILED or server.rotation is Rotation.READY:
            kept.append(server)
    return tuple(kept)


def _may_be_restored(candidate: Candidate) -> bool:
    """Only suspicion or a check speaks against it; HAProxy's own check still keeps requests from a dead one."""
    if candidate.is_leaving or candidate.offer.state is AppState.STARTING:
        return False
    return candidate.member.status is not MemberStatus.FAILED or candidate.is_out_by_gossip


def _restored(server: Server, source: str, says: str) -> Server:
    return replace(server, rotation=Rotation.READY, evidence=(*server.evidence, Evidence(source, says)))


def _evidence(candidate: Candidate) -> tuple[Evidence, ...]:
    member, offer = candidate.member, candidate.offer
    evidence = [
        Evidence("gossip", member.status.value, member.status_by, member.status_since),
        Evidence("app", offer.state.value, member.name),
    ]
    if candidate.observation is not None:
        evidence.append(haproxy_evidence(candidate.observation))
    return (*evidence, *operator_evidence(candidate.word))


def operator_evidence(word: OperatorWord | None) -> tuple[Evidence, ...]:
    if word is None:
        return ()
    drain = (Evidence("operator", "drain", word.by, word.at),) if word.drains else ()
    if word.weight is None:
        return drain
    return (*drain, Evidence("operator", f"weight {word.weight}", word.weight_by, word.weight_at))


def haproxy_evidence(observation: ServerObservation) -> Evidence:
    """Return HAProxy's own words about a server: its status and the last result of its check."""
    return Evidence("haproxy", f"{observation.status} {observation.check}".strip())
