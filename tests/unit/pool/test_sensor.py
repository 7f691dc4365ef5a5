"""What HAProxy meets at a server becomes a reason to look; what a reload resets does not."""

from dataclasses import replace

import pytest

from rumor.model import Rotation, ServerObservation
from rumor.names import HostPort, MemberName, ServiceName
from rumor.pool.sensor import sightings

WELL = ServerObservation(
    ServiceName("web"), MemberName("web-1"), HostPort("10.0.0.1", 3000), Rotation.READY, True, "L7OK", "UP", 100, 0,
    connect_errors=3,
)  # fmt: skip
SICK = replace(WELL, is_up=False, check="L4CON", status="DOWN")


@pytest.mark.parametrize(
    ("before", "after", "kind", "text", "doubt"),
    [
        (WELL, SICK, "check_failed", "HAProxy's check of web-1 of web fails: L4CON", True),
        (WELL, replace(WELL, connect_errors=4), "connection_failed",
         "HAProxy could not connect a request to web-1 of web", True),
        (WELL, replace(WELL, connect_errors=9), "connection_failed",
         "HAProxy could not connect 6 requests to web-1 of web", True),
        (SICK, WELL, "check_passed", "HAProxy's check of web-1 of web passes again", False),
    ],
)  # fmt: skip
def test_what_is_new_is_seen(
    before: ServerObservation, after: ServerObservation, kind: str, text: str, doubt: bool
) -> None:
    (found,) = sightings([before], [after])
    assert (found.kind, found.text, found.raises_doubt) == (kind, text, doubt)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (WELL, WELL),
        (SICK, SICK),
        (WELL, replace(WELL, connect_errors=0)),
        (WELL, replace(WELL, address=HostPort("10.0.0.2", 3000), connect_errors=9)),
        (replace(WELL, is_up=None, rotation=Rotation.MAINT), WELL),
    ],
)
def test_what_is_not_new_is_not(before: ServerObservation, after: ServerObservation) -> None:
    assert sightings([before], [after]) == ()


def test_a_server_that_was_not_there_says_nothing_yet() -> None:
    assert sightings([], [SICK]) == ()
