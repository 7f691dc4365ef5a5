"""HAProxy as a sensor: what two looks at it say of a server that gossip may not know yet."""

from collections.abc import Sequence
from dataclasses import dataclass

from rumor.model import Rotation, ServerObservation
from rumor.names import MemberName, ServiceName


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something that HAProxy met at a server."""

    service: ServiceName
    server: MemberName
    kind: str
    """`check_failed`, `check_passed` or `connection_failed`."""
    text: str
    raises_doubt: bool
    """Whether gossip should look at the member before its turn."""


def sightings(before: Sequence[ServerObservation], after: Sequence[ServerObservation]) -> tuple[Sighting, ...]:
    """Return what is new at servers that were there before, in order of services and servers.

    Counters that went down belong to a worker that a reload replaced, and say nothing.
    """
    known = {(entry.service, entry.server): entry for entry in before}
    found = []
    for entry in after:
        old = known.get((entry.service, entry.server))
        if old is None or old.address != entry.address:
            continue
        name = f"{entry.server} of {entry.service}"
        failures = entry.connect_errors - old.connect_errors
        if entry.is_up is False and old.is_up is not False:
            text = f"HAProxy's check of {name} fails: {entry.check or entry.status}"
            found.append(Sighting(entry.service, entry.server, "check_failed", text, True))
        elif failures > 0:
            words = "a request" if failures == 1 else f"{failures} requests"
            text = f"HAProxy could not connect {words} to {name}"
            found.append(Sighting(entry.service, entry.server, "connection_failed", text, True))
        elif entry.is_up and old.is_up is False and Rotation.MAINT not in (entry.rotation, old.rotation):
            text = f"HAProxy's check of {name} passes again"
            found.append(Sighting(entry.service, entry.server, "check_passed", text, False))
    return tuple(found)
