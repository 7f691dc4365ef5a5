"""HAProxy's word of its servers, from its log and from looks at it, each thing told once."""

from collections import deque
from collections.abc import Callable, Sequence

from rumor.model import CheckResult, ServerObservation, Table
from rumor.pool.sensor import Doubts, Sighting, hear, sightings, unheard

_HEARD_LIMIT = 1024
"""Results between two cycles; what is beyond is lost with the oldest, and seen by the next look."""


class Sensing:
    """Owns what HAProxy logged since the last look, and which servers it doubts."""

    def __init__(self) -> None:
        self._heard: deque[CheckResult] = deque(maxlen=_HEARD_LIMIT)
        self._doubts: Doubts = {}
        self.on_heard: Callable[[], None] = lambda: None
        """Called with each result, that somebody looks soon."""

    def take(self, result: CheckResult) -> None:
        """Take what HAProxy logged; cheap, and never raises."""
        self._heard.append(result)
        self.on_heard()

    def look(
        self, table: Table, before: Sequence[ServerObservation], after: Sequence[ServerObservation]
    ) -> tuple[Sighting, ...]:
        """Return what is new: heard of servers in the table, or seen between two looks."""
        known = {(service.name, server.name) for service in table.services for server in service.servers}
        results = [result for result in self._heard if (result.service, result.server) in known]
        self._heard.clear()
        heard, doubts = hear(results, {key: fell for key, fell in self._doubts.items() if key in known})
        self._doubts = doubts
        return (*heard, *unheard(sightings(before, after), heard, doubts))
