"""Turn check results into an app's state by rise and fall, as HAProxy counts them.

The app starts as `starting` and is asked ten times a second, so that one good answer makes it ready at once; from then
on `fall` bad results in a row make it down and `rise` good ones ready again. Pure: no clock, no socket.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum

from rumor.errors import ConfigError
from rumor.model import AppState, Seconds

STARTING_INTERVAL = Seconds(0.1)
STARTING_LIMIT = 300
"""Fruitless checks (30 s) after which an app that does not come up is asked no more often than its interval says."""
STALL = Seconds(1.0)
"""A check that outlives its own timeout by this much was held up by us (a frozen process, a starved machine)."""

_PATH = re.compile(r"/[\x21-\x7e]{0,2000}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{0,260}", re.ASCII)


class CheckKind(Enum):
    """How an app is asked."""

    TCP = "tcp"
    HTTP = "http"


_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&*+.^_`|~-]{1,100}", re.ASCII)
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,200}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """How one app is checked; `path` and `host_header` concern HTTP alone."""

    kind: CheckKind = CheckKind.TCP
    path: str = "/"
    host_header: str = ""
    """What the request's Host says; empty for the address itself."""
    interval: Seconds = Seconds(1.0)
    timeout: Seconds = Seconds(0.5)
    rise: int = 2
    fall: int = 2
    statuses: range = range(200, 400)
    """Which answers are good."""
    headers: tuple[tuple[str, str], ...] = ()
    tls: bool = False
    """Speak TLS; whose certificate it is does not matter for whether the app is well."""
    tls_name: str = ""
    preamble: bytes = b""
    """Sent first: an app behind the PROXY protocol reads nothing before it."""

    def __post_init__(self) -> None:
        """Refuse what could never be asked.

        Raises:
            ConfigError: a path or host that does not fit into a request line, or a number out of range.
        """
        if not _PATH.fullmatch(self.path):
            raise ConfigError(f"check path {self.path[:80]!a} is refused: begin with / and encode spaces as %20")
        if not _HOST.fullmatch(self.host_header):
            raise ConfigError(
                f"check host {self.host_header[:80]!a} is refused: say a host name, with a port or without"
            )
        for name, value in self.headers:
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ConfigError(f"check header {name[:80]!a} is refused: say a name and printable ASCII")
        if self.interval <= 0 or self.timeout <= 0 or self.rise < 1 or self.fall < 1:
            raise ConfigError("a check's interval and timeout must be above 0 s, its rise and fall at least 1")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One check's result in HAProxy's words: `L7OK 200`, `L7STS 503`, `L4CON connection refused`, `L7TOUT`."""

    ok: bool
    detail: str
    took: Seconds


@dataclass(frozen=True, slots=True)
class Health:
    """What the checks so far say about an app."""

    state: AppState = AppState.STARTING
    against: int = 0
    """Results in a row that speak against the present state."""


def observe(health: Health, outcome: Outcome, settings: CheckSettings) -> Health:
    """Count one result.

    A result that says "timed out" long after its time is no evidence: this process stood still, not the app.
    """
    if not outcome.ok and outcome.took > settings.timeout + STALL:
        return health
    if outcome.ok == (health.state is AppState.READY):
        return replace(health, against=0)
    against = health.against + 1
    match health.state:
        case AppState.STARTING:
            # Rise 1: whoever comes up, or comes back to a running app after a crash, is not made to wait.
            return Health(AppState.READY) if outcome.ok else Health(AppState.STARTING, against)
        case AppState.READY:
            return Health(AppState.DOWN) if against >= settings.fall else Health(AppState.READY, against)
        case _:
            return Health(AppState.READY) if against >= settings.rise else Health(health.state, against)


def next_delay(health: Health, settings: CheckSettings) -> Seconds:
    """Return the time from the begin of one check to the begin of the next."""
    if health.state is AppState.STARTING and health.against < STARTING_LIMIT:
        return min(STARTING_INTERVAL, settings.interval)
    return settings.interval
