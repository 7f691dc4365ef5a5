"""Running + wanted -> what to do next: steps for the Runtime API, or a reload.

Level-triggered: each call looks at what runs now and says what may be done now; what must wait (a drain, a first
check) is met again by the next call. So a plan interrupted after any step, or undone by somebody else, still ends
right. Facts: reference/haproxy.md, section 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, TypeGuard

from rumor.haproxy.config_text import ConfigText, ServerKey, ServerLine
from rumor.haproxy.idle import Idle, passed_over
from rumor.haproxy.replies import Frontend
from rumor.haproxy.steps import (
    AddServer,
    DrainServer,
    EnableCheck,
    EnableFrontend,
    FrontendStep,
    LimitFrontend,
    LimitServer,
    MaintServer,
    MoveServer,
    ProbeServer,
    ReadyServer,
    RemoveServer,
    RequeueServer,
    ServerStep,
    Step,
    WeightServer,
)
from rumor.model import Instant, Revision, Rotation, Seconds, ServerObservation
from rumor.names import ServiceName

_POLL = Seconds(0.1)
_REMOVAL_POLL = Seconds(0.1)
_UNPROVED = Seconds(5.0)
_LONGEST_HOLD = Seconds(5.0)
_LISTENING = frozenset({"OPEN", "FULL"})


# What brings servers in goes before what takes servers out; probes wait for others, so they come last.
_ORDER = {
    kind: place
    for place, kind in enumerate(
        (
            EnableFrontend, LimitFrontend, AddServer, ReadyServer, MoveServer, EnableCheck, LimitServer, WeightServer,
            RequeueServer, DrainServer, MaintServer, RemoveServer, ProbeServer,
        )
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again."""

    steps: tuple[Step, ...] = ()
    reload_reason: str = ""
    """Why the Runtime API is not enough; empty where it is."""
    wake_in: Seconds | None = None
    """When something that waits may be ready; None if nothing waits."""
    precedes_reload: bool = False
    """These steps only bring servers in that a reload must find; the revision does not run yet when they are done."""
    unable: tuple[tuple[Step, str], ...] = ()
    """Steps left out since HAProxy refuses them and a reload does not help, with its words."""


@dataclass(slots=True)
class Memory:
    """What a sequence of plans must remember; owned by the applier, and no loss when it is gone."""

    deadlines: dict[ServerKey, Instant] = field(default_factory=dict)
    """Until when a server that must go, or move, may take its time."""
    unproved: dict[ServerKey, Instant] = field(default_factory=dict)
    """Servers back from maintenance or just moved: until then HAProxy's word of their checks may be older than that."""
    refused: dict[Step, str] = field(default_factory=dict)
    """Steps that HAProxy would not take at run time, with its words: a reload is to bring what they would."""
    tried: dict[Step, str] = field(default_factory=dict)
    """Steps for which there was a reload; one that is still needed after it is beyond us, and no cause of another."""
    holds: dict[ServiceName, Instant] = field(default_factory=dict)
    """Until when the last servers of a service stay, because those that are to follow them are not well yet."""
    idle: dict[ServerKey, Idle] = field(default_factory=dict)
    """Servers in rotation that have no request."""

    def note_reload(self, *, is_new_base: bool) -> None:
        """Take it that HAProxy has just loaded what is wanted; with a new base it may take what it refused before."""
        self.tried = {} if is_new_base else self.tried | self.refused
        self.refused = {}


class _Wanted(NamedTuple):
    line: ServerLine
    default_keywords: str
    weight: int
    rotation: Rotation

    @property
    def has_check(self) -> bool:
        return "check" in self._words

    @property
    def is_backup(self) -> bool:
        return "backup" in self._words

    @property
    def _words(self) -> list[str]:
        return f"{self.default_keywords} {self.line.keywords}".split()

    def is_met_by(self, entry: ServerObservation) -> bool:
        """Say whether there is nothing to do; quick, since of thousands of servers nearly all are so."""
        return (
            entry.rotation is self.rotation
            and entry.weight == self.weight
            and entry.address == self.line.address
            and self.limit in (None, entry.limit)
            and not (entry.status == "no check" and self.has_check)
        )

    @property
    def limit(self) -> int | None:
        """How many requests at once it is given, 0 for any number; None where only HAProxy knows."""
        return _limit(self.default_keywords, self.line.keywords)


@lru_cache(maxsize=256)
def _limit(*keywords: str) -> int | None:
    # Thousands of servers are looked at each second, and most have the same words.
    words = " ".join(keywords).split()
    given = [after for word, after in pairwise(words) if word == "maxconn"]
    if "minconn" in words:
        # HAProxy makes a limit of the two.
        return None
    if not given:
        return 0
    return int(given[-1]) if given[-1].isascii() and given[-1].isdigit() else None


@dataclass(slots=True)
class _Draft:
    """A plan in the making."""

    steps: list[tuple[Step, Seconds | None]] = field(default_factory=list)
    """And when what a step has led to is to be seen."""
    waits: list[Seconds] = field(default_factory=list)

    def then(self, step: Step, *, look_again_in: Seconds | None = None) -> None:
        self.steps.append((step, look_again_in))


def plan(
    revision: Revision,
    config: ConfigText,
    running: tuple[ServerObservation, ...],
    running_config: ConfigText | None,
    memory: Memory,
    drains: Mapping[ServiceName, Seconds],
    now: Instant,
    *,
    frontends: Mapping[str, Frontend] | None = None,
    can_reload: bool = True,
) -> Plan:
    """Decide the next steps from what runs to what is wanted.

    Args:
        revision: what is wanted, and `config`, its text taken apart.
        running: every server HAProxy has now.
        running_config: the text of the revision that runs, None if it is unknown.
        memory: changed by this call.
        drains: how long a server of each service may drain before its sessions are cut.
        now: the time of the observation.
        frontends: every frontend HAProxy has now; None if nobody has looked.
        can_reload: whether a reload could bring what HAProxy refuses at run time; if not, all else goes on.
    """
    wanted = _wanted_servers(revision, config)
    present = {(entry.service, entry.server): entry for entry in running}
    if config.fixed:
        present = {key: entry for key, entry in present.items() if not config.is_fixed(key)}
    _forget(memory, present, now)
    reason = _reload_reason(config, running_config, present)
    if running_config is None:
        return Plan(reload_reason=reason)
    draft = _Draft()
    _let_listen(config, frontends, draft)
    differing = {key for key, entry in present.items() if key not in wanted or not wanted[key].is_met_by(entry)}
    for key in memory.deadlines.keys() - differing:
        del memory.deadlines[key]
    for key in sorted(differing | (wanted.keys() - present.keys())):
        server, entry = wanted.get(key), present.get(key)
        if server is not None and entry is None:
            draft.then(_add(server), look_again_in=Seconds(0.0))
            if server.rotation is Rotation.READY:
                draft.then(ProbeServer(key, server.line.address, ReadyServer(key)))
        elif entry is not None and server is None:
            _remove(entry, key, _deadline(key, memory, drains, now), now, draft)
        elif entry is not None and server is not None:
            if entry.address != server.line.address:
                _move(server, entry, _deadline(key, memory, drains, now), now, memory, draft)
            else:
                memory.deadlines.pop(key, None)
                _turn(server, entry, now, memory, draft)
            if entry.weight != server.weight:
                draft.then(WeightServer(key, server.weight))
            if server.limit is not None and entry.limit != server.limit:
                draft.then(LimitServer(key, server.limit))
            if entry.status == "no check" and server.has_check:
                draft.then(EnableCheck(key))
    for key in sorted(_passed_over(config, wanted, present, memory, now)):
        draft.then(RequeueServer(key, wanted[key].weight))
    _forget_refused(memory, draft)
    beyond = memory.tried if can_reload else memory.tried | memory.refused
    possible = [(step, look) for step, look in draft.steps if not beyond or _deed(step) not in beyond]
    draft.waits += [look for _, look in possible if look is not None]
    steps = sorted((step for step, _ in possible), key=lambda step: _ORDER[type(step)])
    unable = tuple((step, words) for step, words in beyond.items())
    reason = reason or next((_refused(step, words) for step, words in memory.refused.items() if can_reload), "")
    held = _services_to_hold(wanted, present, memory, drains, now)
    if reason:
        refused = {step.key for step in memory.refused if not isinstance(step, FrontendStep)}
        steps = [step for step in steps if _brings_in(step) and step.key[0] in held and step.key not in refused]
        if not steps:
            return Plan(reload_reason=reason, unable=unable)
        return Plan(tuple(steps), wake_in=_POLL, precedes_reload=True, unable=unable)
    if held:
        for step in steps:
            if _takes_out(step) and step.key[0] in held:
                # Its drain begins when it may go.
                memory.deadlines.pop(step.key, None)
        steps = [step for step in steps if not _takes_out(step) or step.key[0] not in held]
        draft.waits.append(_POLL)
    return Plan(tuple(steps), wake_in=min(draft.waits, default=None), unable=unable)


def _deed(step: Step) -> Step:
    """Return what a step is to do to HAProxy."""
    return step.then if isinstance(step, ProbeServer) else step


def _refused(step: Step, words: str) -> str:
    if isinstance(step, FrontendStep):
        deed = "enable" if isinstance(step, EnableFrontend) else "limit"
        return f"HAProxy would not {deed} frontend {step.name} at run time: {words}"
    return f"HAProxy would not change server {step.key[0]}/{step.key[1]} at run time: {words}"


def _passed_over(
    config: ConfigText,
    wanted: Mapping[ServerKey, _Wanted],
    present: Mapping[ServerKey, ServerObservation],
    memory: Memory,
    now: Instant,
) -> frozenset[ServerKey]:
    in_rotation = [
        entry
        for key, entry in present.items()
        if key[0] in config.least_loaded
        and (server := wanted.get(key)) is not None
        and not server.is_backup
        and server.rotation is entry.rotation is Rotation.READY
        and entry.is_up is not False
        and entry.weight == server.weight > 0
    ]
    return passed_over(in_rotation, memory.idle, now)


def _services_to_hold(
    wanted: Mapping[ServerKey, _Wanted],
    present: Mapping[ServerKey, ServerObservation],
    memory: Memory,
    drains: Mapping[ServiceName, Seconds],
    now: Instant,
) -> set[ServiceName]:
    """Return the services that would have nobody in rotation until their new servers have been proved.

    Their old ones stay for so long, though not for ever: a node that is to stop waits for us.
    """
    to_come, staying = set[ServiceName](), set[ServiceName]()
    for key, server in wanted.items():
        if server.rotation is Rotation.READY:
            entry = present.get(key)
            (staying if entry is not None and _serves(entry) else to_come).add(key[0])
    short = to_come - staying
    emptied = {key[0] for key, entry in present.items() if key[0] in short and _serves(entry)} if short else set()
    for service in [service for service in memory.holds if service not in emptied]:
        del memory.holds[service]
    for service in emptied:
        memory.holds.setdefault(service, Instant(now + min(_LONGEST_HOLD, drains.get(service, Seconds(0.0)))))
    return {service for service in emptied if now < memory.holds[service]}


def _serves(entry: ServerObservation) -> bool:
    return entry.rotation is Rotation.READY and entry.is_up is not False


def _brings_in(step: Step) -> TypeGuard[ServerStep]:
    return isinstance(step, AddServer | ReadyServer | EnableCheck | ProbeServer) or (
        isinstance(step, DrainServer) and step.enables_check
    )


def _takes_out(step: Step) -> TypeGuard[ServerStep]:
    return isinstance(step, MaintServer | RemoveServer) or (isinstance(step, DrainServer) and not step.enables_check)


def _wanted_servers(revision: Revision, config: ConfigText) -> dict[ServerKey, _Wanted]:
    """Join a revision's text (keywords) with its table (weight and state); the text alone serves without a table."""
    table = {(service.name, server.name): server for service in revision.table.services for server in service.servers}
    wanted = {}
    for key, line in config.servers.items():
        server = table.get(key)
        weight, rotation = (line.weight, line.rotation) if server is None else (server.weight, server.rotation)
        if not line.says_weight:
            weight = line.weight
        wanted[key] = _Wanted(line, config.default_keywords.get(key[0], ""), weight, rotation)
    return wanted


def _forget(memory: Memory, present: Mapping[ServerKey, ServerObservation], now: Instant) -> None:
    for key in [key for key in memory.deadlines if key not in present]:
        del memory.deadlines[key]
    for key, until in list(memory.unproved.items()):
        if now >= until or key not in present or present[key].rotation is not Rotation.DRAIN:
            del memory.unproved[key]


def _forget_refused(memory: Memory, draft: _Draft) -> None:
    """Forget refusals of what is needed no longer: a reload has brought it, or something else is wanted."""
    if not memory.refused and not memory.tried:
        return
    needed = {_deed(step) for step, _ in draft.steps}
    memory.refused = {step: words for step, words in memory.refused.items() if step in needed}
    memory.tried = {step: words for step, words in memory.tried.items() if step in needed}


def _reload_reason(
    config: ConfigText,
    running_config: ConfigText | None,
    present: Mapping[ServerKey, ServerObservation],
) -> str:
    if running_config is None:
        return "what runs is unknown"
    if running_config.base != config.base:
        return "more than servers differ"
    # Not by replacing servers: such a change comes for all of a service at once, and all of them would drain.
    changed = [
        key
        for key, line in config.servers.items()
        if (old := running_config.servers.get(key, line)) is not line
        and old.keywords != line.keywords
        and key in present
    ]
    if changed:
        service, name = min(changed)
        return f"the settings of server {service}/{name} differ"
    return ""


def _deadline(key: ServerKey, memory: Memory, drains: Mapping[ServiceName, Seconds], now: Instant) -> Instant:
    return memory.deadlines.setdefault(key, Instant(now + drains.get(key[0], 0.0)))


def _let_listen(config: ConfigText, frontends: Mapping[str, Frontend] | None, draft: _Draft) -> None:
    for name, limit in sorted(config.frontends.items() if frontends is not None else ()):
        found = frontends.get(name) if frontends is not None else None
        if found is None or found.status not in _LISTENING:
            draft.then(EnableFrontend(name))
        if found is not None and limit is not None and found.limit != limit:
            draft.then(LimitFrontend(name, limit))


def _add(server: _Wanted) -> AddServer:
    line = server.line
    return AddServer(line.key, line.address, server.weight, line.keywords, server.default_keywords, server.has_check)


def _remove(entry: ServerObservation, key: ServerKey, deadline: Instant, now: Instant, draft: _Draft) -> None:
    if entry.rotation is Rotation.READY:
        draft.then(DrainServer(key), look_again_in=Seconds(0.0))
    elif entry.sessions == 0 or now >= deadline:
        draft.then(RemoveServer(key, cuts_sessions=entry.sessions > 0), look_again_in=_REMOVAL_POLL)
    else:
        draft.waits.append(Seconds(min(_REMOVAL_POLL, deadline - now)))


def _move(
    server: _Wanted, entry: ServerObservation, deadline: Instant, now: Instant, memory: Memory, draft: _Draft
) -> None:
    """Bring a server to its new address, without a gap where both addresses answer for a while."""
    key, address = server.line.key, server.line.address
    if entry.rotation is not Rotation.READY:
        # What HAProxy's check says in the next moment is said of the old address.
        memory.unproved[key] = Instant(now + _UNPROVED)
        draft.then(MoveServer(key, address), look_again_in=Seconds(0.0))
    elif server.rotation is Rotation.READY and now < deadline:
        draft.then(ProbeServer(key, address, MoveServer(key, address)), look_again_in=_POLL)
    else:
        draft.then(DrainServer(key), look_again_in=Seconds(0.0))


def _turn(server: _Wanted, entry: ServerObservation, now: Instant, memory: Memory, draft: _Draft) -> None:
    """Bring a server to its wanted place in the rotation; to ready only by a passed check."""
    key = server.line.key
    match server.rotation, entry.rotation:
        case Rotation.READY, Rotation.DRAIN:
            # A server that HAProxy holds DOWN gets no request whatever we say; its checks bring it up.
            if entry.status.startswith("DOWN") or (entry.is_up and key not in memory.unproved):
                draft.then(ReadyServer(key))
            else:
                draft.then(ProbeServer(key, server.line.address, ReadyServer(key)), look_again_in=_POLL)
        case ((Rotation.READY | Rotation.DRAIN), Rotation.MAINT):
            memory.unproved[key] = Instant(now + _UNPROVED)
            draft.then(DrainServer(key, enables_check=server.has_check), look_again_in=Seconds(0.0))
        case Rotation.DRAIN, Rotation.READY:
            draft.then(DrainServer(key))
        case Rotation.MAINT, (Rotation.READY | Rotation.DRAIN):
            draft.then(MaintServer(key))
        case _:
            pass
