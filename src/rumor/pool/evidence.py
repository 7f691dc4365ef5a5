"""Weigh what speaks for and against each server of one service.

The node's own word (its tag) comes first: starting, draining and down keep a server out whatever else is said. Then
gossip: a suspect is drained at once, since a drain costs nothing if the member refutes. Two rules keep a balancer that
cannot see from emptying a pool: panic (most servers would be out by gossip's word alone) and the floor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rumor.model import AppState, Evidence, Member, MemberStatus, Offer, Rotation, Server, ServerObservation
from rumor.names import HostPort, MemberName


@dataclass(frozen=True, slots=True)
class Candidate:
    """One member's offer of the service, and how the running HAProxy sees that server if it has it."""

    member: Member
    offer: Offer
    address: HostPort
    observation: ServerObservation | None


@dataclass(frozen=True, slots=True)
class _Judged:
    server: Server
    is_out_by_gossip: bool
    """Only gossip speaks against it: the node itself says ready, and HAProxy's check does not fail."""


def weigh(candidates: Sequence[Candidate], *, floor: int) -> tuple[Server, ...]:
    """Return the servers of one service with what should be done with each, in order of their names.

    A member that failed is not in the result, unless panic keeps it.
    """
    judged = [_judge(candidate) for candidate in candidates]
    out = sum(entry.is_out_by_gossip for entry in judged)
    in_rotation = sum(entry.server.rotation is Rotation.READY for entry in judged)
    panic = out > in_rotation
    servers: list[Server] = []
    for candidate, entry in zip(candidates, judged, strict=True):
        if entry.is_out_by_gossip and panic:
            servers.append(
                _restored(entry.server, "panic", "most servers would be out by gossip's word alone: ignored")
            )
        elif candidate.member.status is not MemberStatus.FAILED:
            servers.append(entry.server)
    return _with_floor(servers, {entry.server.name: entry for entry in judged}, floor)


def _judge(candidate: Candidate) -> _Judged:
    member, offer, observation = candidate.member, candidate.offer, candidate.observation
    rotation = _rotation(member.status, offer.state, observation)
    server = Server(
        name=member.name,
        address=candidate.address,
        weight=offer.weight,
        rotation=rotation,
        version=offer.version,
        evidence=_evidence(candidate),
    )
    return _Judged(server, offer.state is AppState.READY and _is_out_by_gossip(candidate))


def _rotation(status: MemberStatus, state: AppState, observation: ServerObservation | None) -> Rotation:
    if state is AppState.DRAINING or status is MemberStatus.LEAVING:
        return _end_of_drain(observation)
    if state is not AppState.READY:
        return Rotation.DRAIN
    if status in (MemberStatus.SUSPECT, MemberStatus.FAILED):
        # HAProxy checks nothing in maintenance, so a server that went there stays until its member refutes.
        if observation is not None and (observation.is_up is False or observation.rotation is Rotation.MAINT):
            return Rotation.MAINT
        return Rotation.DRAIN
    return Rotation.READY


def _end_of_drain(observation: ServerObservation | None) -> Rotation:
    """Drain until no session is left, then shut the door for sticky clients, too."""
    if observation is None or observation.rotation is Rotation.READY or observation.sessions > 0:
        held = observation is not None and observation.rotation is Rotation.MAINT
        return Rotation.MAINT if held else Rotation.DRAIN
    return Rotation.MAINT


def _is_out_by_gossip(candidate: Candidate) -> bool:
    """Gossip alone speaks against it: HAProxy finds a suspect not down, or a failed member's server still up.

    A failed member whose server HAProxy does not have, or finds down, is gone by two witnesses and no ground for panic.
    """
    observation = candidate.observation
    if candidate.member.status is MemberStatus.SUSPECT:
        return observation is None or (observation.is_up is not False and observation.rotation is not Rotation.MAINT)
    return candidate.member.status is MemberStatus.FAILED and observation is not None and observation.is_up is True


def _restored(server: Server, source: str, says: str) -> Server:
    return replace(server, rotation=Rotation.READY, evidence=(*server.evidence, Evidence(source, says)))


def _with_floor(servers: list[Server], judged: Mapping[MemberName, _Judged], floor: int) -> tuple[Server, ...]:
    missing = floor - sum(server.rotation is Rotation.READY for server in servers)
    kept: list[Server] = []
    for server in sorted(servers, key=lambda server: server.name):
        if missing > 0 and server.rotation is not Rotation.READY and judged[server.name].is_out_by_gossip:
            missing -= 1
            kept.append(_restored(server, "floor", f"fewer than {floor} servers would be in rotation"))
        else:
            kept.append(server)
    return tuple(kept)


def _evidence(candidate: Candidate) -> tuple[Evidence, ...]:
    member, offer, observation = candidate.member, candidate.offer, candidate.observation
    evidence = [
        Evidence("gossip", member.status.value, member.status_by, member.status_since),
        Evidence("app", offer.state.value, member.name),
    ]
    if observation is not None:
        says = f"{observation.status} {observation.check}".strip()
        evidence.append(Evidence("haproxy", says))
    return tuple(evidence)
