"""Running + wanted -> what to do next: steps for the Runtime API, or a reload.

Level-triggered: each call looks at what runs now and says what may be done now; what must wait (a drain, a first
check) is met again by the next call. So a plan interrupted after any step, or undone by somebody else, still ends
right. Facts: reference/haproxy.md, section 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rumor.haproxy.config_text import ConfigText, ServerKey
from rumor.model import Instant, Revision, Rotation, Seconds, ServerObservation
from rumor.names import HostPort, ServiceName

_POLL = Seconds(0.1)
_REMOVAL_POLL = Seconds(0.2)


@dataclass(frozen=True, slots=True)
class WantedServer:
    """One server as the revision and its table want it."""

    key: ServerKey
    address: HostPort
    weight: int
    rotation: Rotation
    keywords: str


@dataclass(frozen=True, slots=True)
class AddServer:
    """Add a server, drained, with its check on."""

    server: WantedServer


@dataclass(frozen=True, slots=True)
class ProbeServer:
    """Ask a drained server ourselves, since HAProxy's first check may be a whole interval away."""

    key: ServerKey
    address: HostPort


@dataclass(frozen=True, slots=True)
class ReadyServer:
    key: ServerKey


@dataclass(frozen=True, slots=True)
class DrainServer:
    key: ServerKey
    from_maint: bool = False


@dataclass(frozen=True, slots=True)
class MaintServer:
    key: ServerKey


@dataclass(frozen=True, slots=True)
class WeightServer:
    key: ServerKey
    weight: int


@dataclass(frozen=True, slots=True)
class RemoveServer:
    """Delete a drained server; `cut_sessions` at the end of its drain time."""

    key: ServerKey
    cut_sessions: bool


Step = AddServer | ProbeServer | ReadyServer | DrainServer | MaintServer | WeightServer | RemoveServer


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again."""

    steps: tuple[Step, ...] = ()
    reload_reason: str = ""
    """Why the Runtime API is not enough; empty where it is."""
    wake_in: Seconds | None = None
    """When something that waits may be ready; None if nothing waits."""
    is_replacing: bool = False
    """A server must go before one of the same name can come: until then the old revision is what runs."""


@dataclass(slots=True)
class Memory:
    """What a sequence of plans must remember; owned by the applier, and no loss when it is gone."""

    removal_deadlines: dict[ServerKey, Instant] = field(default_factory=dict)
    probed: dict[ServerKey, HostPort] = field(default_factory=dict)
    """Servers that answered our own probe while drained."""


def wanted_servers(revision: Revision, config: ConfigText) -> dict[ServerKey, WantedServer]:
    """Join a revision's text (keywords) with its table (weight and state); the text alone serves without a table."""
    table = {(service.name, server.name): server for service in revision.table.services for server in service.servers}
    wanted = {}
    for key, line in config.servers.items():
        server = table.get(key)
        weight, rotation = (line.weight, line.rotation) if server is None else (server.weight, server.rotation)
        wanted[key] = WantedServer(key, line.address, weight, rotation, line.keywords)
    return wanted


def plan(
    revision: Revision,
    config: ConfigText,
    running: tuple[ServerObservation, ...],
    running_config: ConfigText | None,
    memory: Memory,
    drains: Mapping[ServiceName, Seconds],
    now: Instant,
) -> Plan:
    """Decide the next steps from what runs to what is wanted.

    Args:
        revision: what is wanted, and `config`, its text taken apart.
        running: every server HAProxy has now.
        running_config: the text of the revision that runs, None if it is unknown.
        memory: changed by this call.
        drains: how long a server of each service may drain before its sessions are cut.
        now: the time of the observation.
    """
    if running_config is None:
        return Plan(reload_reason="what runs is unknown")
    if running_config.base != config.base:
        return Plan(reload_reason="more than servers differ")
    wanted = wanted_servers(revision, config)
    present = {(entry.service, entry.server): entry for entry in running}
    _forget(memory, present)
    steps: list[Step] = []
    waits: list[Seconds] = []
    is_replacing = False
    for key in sorted(wanted.keys() | present.keys()):
        server, entry = wanted.get(key), present.get(key)
        if entry is None:
            assert server is not None  # noqa: S101 - the key came from one of the two
            steps.append(AddServer(server))
            waits.append(Seconds(0.0))
        elif server is None or _must_be_replaced(server, entry, running_config):
            is_replacing |= server is not None
            _remove(entry, key, memory, drains, now, steps, waits)
        else:
            memory.removal_deadlines.pop(key, None)
            _adjust(server, entry, memory, steps, waits)
    return Plan(tuple(steps), wake_in=min(waits, default=None), is_replacing=is_replacing)


def _forget(memory: Memory, present: Mapping[ServerKey, ServerObservation]) -> None:
    for key in [key for key in memory.removal_deadlines if key not in present]:
        del memory.removal_deadlines[key]
    for key, address in list(memory.probed.items()):
        entry = present.get(key)
        if entry is None or entry.address != address or entry.rotation is not Rotation.DRAIN:
            del memory.probed[key]


def _must_be_replaced(server: WantedServer, entry: ServerObservation, running_config: ConfigText) -> bool:
    line = running_config.servers.get(server.key)
    return entry.address != server.address or (line is not None and line.keywords != server.keywords)


def _remove(
    entry: ServerObservation,
    key: ServerKey,
    memory: Memory,
    drains: Mapping[ServiceName, Seconds],
    now: Instant,
    steps: list[Step],
    waits: list[Seconds],
) -> None:
    deadline = memory.removal_deadlines.setdefault(key, Instant(now + drains.get(entry.service, 0.0)))
    if entry.rotation is Rotation.READY:
        steps.append(DrainServer(key))
        waits.append(Seconds(0.0))
    elif entry.sessions == 0 or now >= deadline:
        steps.append(RemoveServer(key, cut_sessions=entry.sessions > 0))
        waits.append(_REMOVAL_POLL)
    else:
        waits.append(Seconds(min(_REMOVAL_POLL, deadline - now)))


def _adjust(
    server: WantedServer, entry: ServerObservation, memory: Memory, steps: list[Step], waits: list[Seconds]
) -> None:
    key = server.key
    match server.rotation, entry.rotation:
        case Rotation.READY, Rotation.DRAIN:
            # A server that HAProxy holds DOWN gets no request whatever we say; its checks bring it up.
            if entry.is_up or entry.status.startswith("DOWN") or memory.probed.get(key) == entry.address:
                steps.append(ReadyServer(key))
            else:
                steps.append(ProbeServer(key, server.address))
                waits.append(_POLL)
        case ((Rotation.READY | Rotation.DRAIN), Rotation.MAINT):
            steps.append(DrainServer(key, from_maint=True))
            if server.rotation is Rotation.READY:
                waits.append(Seconds(0.0))
        case Rotation.DRAIN, Rotation.READY:
            steps.append(DrainServer(key))
        case Rotation.MAINT, (Rotation.READY | Rotation.DRAIN):
            steps.append(MaintServer(key))
        case _:
            pass
    if entry.weight != server.weight:
        steps.append(WeightServer(key, server.weight))
