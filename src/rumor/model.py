"""The frozen nouns that every stage shares: members on the left, HAProxy on the right, values in between.

Nothing here acts, and nothing here knows JSON, TOML, SQL or the wire: `views.py`, `config/`, `journal.py` and
`swim/codec.py` translate at their walls.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NewType

from rumor.names import HostPort, MemberName, ServiceName

Seconds = NewType("Seconds", float)
"""A length of time."""
Instant = NewType("Instant", float)
"""A point on a monotonic clock, in seconds; only differences mean anything."""
WallTime = NewType("WallTime", float)
"""A point in calendar time, in seconds since 1970 UTC; for people and the journal, never for deadlines."""


class MemberStatus(Enum):
    """A member as gossip sees it."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    LEAVING = "leaving"
    LEFT = "left"
    FAILED = "failed"


class AppState(Enum):
    """What a node says of its own app, in its service tag."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DOWN = "down"


class Rotation(Enum):
    """What a balancer wants HAProxy to do with a server."""

    READY = "ready"
    DRAIN = "drain"
    """No new sessions; running ones, and clients whose cookie names the server, go on."""
    MAINT = "maint"
    """Nothing at all, cookies included."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node that runs an agent, as gossip sees it."""

    name: MemberName
    address: HostPort
    tags: Mapping[str, str]
    status: MemberStatus
    incarnation: int = 0
    status_by: str = ""
    """Who raised the present status: the accuser of a suspect; empty where nobody but the member itself did."""
    status_since: WallTime = WallTime(0.0)
    vsn: bytes = b""
    """The six version bytes its node says: memberlist's min, max and current, then Serf's; empty where unknown."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One service that one member offers, parsed from its tag `service:NAME`."""

    service: ServiceName
    port: int
    state: AppState = AppState.READY
    weight: int = 100
    version: str = ""
    is_backup: bool = False
    """Serves only when no other server is left."""


@dataclass(frozen=True, slots=True)
class OperatorWord:
    """What a person has said of one server; it holds until a person takes it back."""

    drains: bool = False
    weight: int | None = None
    """Instead of the weight that the node says; None for the node's."""
    by: str = ""
    """Who drained it, and `at` when; the weight has stamps of its own."""
    at: WallTime = WallTime(0.0)
    weight_by: str = ""
    weight_at: WallTime = WallTime(0.0)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Whatever speaks for or against a server, in the words `rumor table` and `rumor why` print."""

    source: str
    """`gossip`, `app` (the node's own check), `haproxy` (HAProxy's check), `operator`, `panic`, `floor` or `blind`."""
    says: str
    by: str = ""
    at: WallTime = WallTime(0.0)


@dataclass(frozen=True, slots=True)
class Server:
    """One node's instance of a service, with what the balancer wants done with it and why."""

    name: MemberName
    address: HostPort
    weight: int
    rotation: Rotation
    version: str = ""
    evidence: tuple[Evidence, ...] = ()
    is_backup: bool = False
    """Serves only when no other server is left."""


@dataclass(frozen=True, slots=True)
class Service:
    """An application that nodes offer, and its servers in order of their names."""

    name: ServiceName
    servers: tuple[Server, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """The desired routing: all services in order of their names. Equal tables give equal revisions."""

    services: tuple[Service, ...] = ()

    def service(self, name: ServiceName) -> Service | None:
        return next((service for service in self.services if service.name == name), None)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something changed, in one sentence, and whom it is about; kept with every revision."""

    kind: str
    """snake_case, one word for the kind of change: `server_ready`, `server_removed`, `start`, `sighup`, …"""
    text: str
    subject: str = ""
    at: WallTime = WallTime(0.0)


@dataclass(frozen=True, slots=True)
class Revision:
    """One rendered configuration. `id` is the SHA-256 of `text` without the line that carries the id."""

    id: str
    text: str
    table: Table
    cause: Cause = field(compare=False)


class Outcome(Enum):
    """What became of a revision."""

    PENDING = "pending"
    APPLIED = "applied"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class StoredRevision:
    """A revision as the journal keeps it: text, cause and outcome, without the table."""

    id: str
    text: str
    cause: Cause
    outcome: Outcome
    words: str = ""
    """What the check or HAProxy said of it."""
    how: str = ""
    """`runtime` or `reload`; empty as long as it was not applied."""
    settled_at: WallTime | None = None
    """When the outcome was known."""


@dataclass(frozen=True, slots=True)
class Record:
    """Something that happened, kept for later: a state change, an apply, a refusal, with its cause."""

    at: WallTime
    kind: str
    subject: str
    """Whom it is about: a member, a server, a service; empty for the node itself."""
    text: str
    cause: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerObservation:
    """A server as the running HAProxy sees it: a sensor's reading, not a wish."""

    service: ServiceName
    server: MemberName
    address: HostPort | None
    rotation: Rotation
    is_up: bool | None
    """HAProxy's own check: True passed, False failed, None no result yet or no check."""
    check: str
    """HAProxy's words for the check: `L7OK`, `L4CON`, `INI`, …; empty without one."""
    status: str
    """The status column of `show stat`: `UP`, `DOWN 1/2`, `DRAIN`, `MAINT`, …"""
    weight: int
    sessions: int
    """Requests and tunnels that are running now, on the server or bound to it in its queue."""
    sessions_total: int = 0
    connect_errors: int = 0
    response_errors: int = 0
    limit: int = 0
    """How many requests at once it is given (`maxconn`); 0 for any number."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """HAProxy's check of a server came out otherwise than the one before it; it says so the moment it knows."""

    service: ServiceName
    server: MemberName
    passed: bool
    is_up: bool
    """What HAProxy holds of the server after it: one failed check is not yet its fall."""
    reason: str
    """HAProxy's own words, printable ASCII: `Layer4 connection problem, info: "Connection refused"`."""
