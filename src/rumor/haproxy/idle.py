"""Notice a server that HAProxy has lost from its own order: ready, well, idle, and passed over while others work.

HAProxy 3.2 and 3.4 keep the order of `balance leastconn` without a common lock. Where many requests of one server end
at once (its app was killed, and they were repeated elsewhere) it can be left behind at its old load, and nothing moves
it again: it stands as UP, and gets no request for ever. `leastconn` picks an idle server before any other, so that many
requests to the others alone prove it. Whoever is wrongly suspected loses nothing: it is only put in order anew.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rumor.haproxy.config_text import ServerKey
from rumor.model import Instant, Seconds, ServerObservation
from rumor.names import ServiceName

_PATIENCE = Seconds(2.0)
_LONGEST_PATIENCE = Seconds(300.0)
_BEGUN_EACH = 20
"""How many requests for each of the service's servers prove it; by chance none would be passed over so often."""


@dataclass(frozen=True, slots=True)
class Idle:
    """A server without a request, since when, and what had begun by then."""

    since: Instant
    begun: int
    begun_elsewhere: int
    patience: Seconds = _PATIENCE
    """Longer with each time that it was put in order: where all clients are bound to others by a cookie, none helps."""


def passed_over(
    servers: Iterable[ServerObservation], idle: dict[ServerKey, Idle], now: Instant
) -> frozenset[ServerKey]:
    """Return the servers that HAProxy passes over.

    Args:
        servers: those in rotation, of services that are balanced by `leastconn`.
        idle: changed by this call.
        now: the time of the observation.
    """
    entries = {(entry.service, entry.server): entry for entry in servers}
    for key in idle.keys() - entries.keys():
        del idle[key]
    found: set[ServerKey] = set()
    groups = Counter(service for service, _ in entries)
    begun = Counter[ServiceName]()
    for entry in entries.values():
        begun[entry.service] += entry.sessions_total
    for key, entry in entries.items():
        if entry.sessions:
            idle.pop(key, None)
            continue
        elsewhere = begun[entry.service] - entry.sessions_total
        was = idle.get(key)
        if was is None or was.begun != entry.sessions_total or elsewhere < was.begun_elsewhere:
            idle[key] = Idle(now, entry.sessions_total, elsewhere)
        elif now - was.since >= was.patience and elsewhere - was.begun_elsewhere >= _BEGUN_EACH * groups[entry.service]:
            patience = Seconds(min(2 * was.patience, _LONGEST_PATIENCE))
            idle[key] = replace(was, since=now, begun_elsewhere=elsewhere, patience=patience)
            found.add(key)
    return frozenset(found)
