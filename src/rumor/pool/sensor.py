"""HAProxy as a sensor: what its log, and two looks at it, say of a server that gossip may not know yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rumor.model import CheckResult, Rotation, ServerObservation
from rumor.names import MemberName, ServiceName

Doubts = Mapping[tuple[ServiceName, MemberName], bool]
"""The servers whose last check failed, as HAProxy's log says, and whether they have fallen by that."""


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


def hear(results: Sequence[CheckResult], doubts: Doubts) -> tuple[tuple[Sighting, ...], Doubts]:
    """Return what is new in results that HAProxy logged, and what is doubted after them.

    The first failure counts, long before the server falls by it, and then its return; not each failure between.
    """
    found, after = list[Sighting](), dict(doubts)
    for result in results:
        key, name = (result.service, result.server), f"{result.server} of {result.service}"
        if not result.passed:
            if key not in after:
                text = f"HAProxy's check of {name} fails: {result.reason}"
                found.append(Sighting(result.service, result.server, "check_failed", text, True))
            after[key] = not result.is_up
        elif result.is_up and after.pop(key, None) is not None:
            text = f"HAProxy's check of {name} passes again"
            found.append(Sighting(result.service, result.server, "check_passed", text, False))
    return tuple(found), after


def unheard(seen: Sequence[Sighting], heard: Sequence[Sighting], doubts: Doubts) -> tuple[Sighting, ...]:
    """Return what two looks saw and the log has not told already."""
    told = {(entry.service, entry.server, entry.kind) for entry in heard}
    return tuple(
        entry
        for entry in seen
        if (entry.service, entry.server, entry.kind) not in told
        and not (entry.kind == "check_failed" and doubts.get((entry.service, entry.server)))
    )
