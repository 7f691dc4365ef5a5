"""What HAProxy meets is told once, whether its log or its statistics said it first."""

from dataclasses import replace

from rumor.agent.sensing import Sensing
from rumor.model import CheckResult, Rotation, Server, ServerObservation, Service, Table
from rumor.names import HostPort, MemberName, ServiceName

WEB, ONE, THERE = ServiceName("web"), MemberName("web-1"), HostPort("10.0.0.1", 3000)
TABLE = Table((Service(WEB, (Server(ONE, THERE, 100, Rotation.READY),)),))
WELL = ServerObservation(WEB, ONE, THERE, Rotation.READY, True, "L7OK", "UP", 100, 0)
SICK = replace(WELL, is_up=False, check="L4CON", status="DOWN")
FAILED_ONCE = CheckResult(WEB, ONE, passed=False, is_up=True, reason="Layer7 timeout")
FELL = CheckResult(WEB, ONE, passed=False, is_up=False, reason="Layer4 connection problem")
PASSED_ONCE = CheckResult(WEB, ONE, passed=True, is_up=False, reason="Layer7 check passed")
ROSE = CheckResult(WEB, ONE, passed=True, is_up=True, reason="Layer7 check passed")


def kinds(sensing: Sensing, before: ServerObservation, after: ServerObservation) -> list[str]:
    return [sighting.kind for sighting in sensing.look(TABLE, [before], [after])]


def test_one_failed_check_is_reason_enough_to_look() -> None:
    sensing = Sensing()
    sensing.take(FAILED_ONCE)
    (found,) = sensing.look(TABLE, [WELL], [WELL])
    assert found.raises_doubt
    assert found.text == "HAProxy's check of web-1 of web fails: Layer7 timeout"
    sensing.take(FAILED_ONCE)
    assert kinds(sensing, WELL, WELL) == [], "the next failure is no news"
    assert kinds(sensing, WELL, SICK) == ["check_failed"], "but the fall is"


def test_a_fall_is_told_once() -> None:
    sensing = Sensing()
    sensing.take(FELL)
    assert kinds(sensing, WELL, SICK) == ["check_failed"]
    sensing.take(PASSED_ONCE)
    assert kinds(sensing, SICK, SICK) == []
    sensing.take(ROSE)
    assert kinds(sensing, SICK, WELL) == ["check_passed"]


def test_a_fall_between_two_looks_is_not_missed() -> None:
    sensing = Sensing()
    sensing.take(FELL)
    sensing.take(ROSE)
    assert kinds(sensing, WELL, WELL) == ["check_failed", "check_passed"]


def test_the_first_check_of_a_server_that_is_well_is_no_news() -> None:
    sensing = Sensing()
    sensing.take(ROSE)
    assert kinds(sensing, WELL, WELL) == []


def test_where_nothing_is_logged_the_statistics_tell() -> None:
    sensing = Sensing()
    assert kinds(sensing, WELL, SICK) == ["check_failed"]
    assert kinds(sensing, SICK, WELL) == ["check_passed"]


def test_servers_that_are_not_ours_are_nothing_to_us() -> None:
    sensing = Sensing()
    for number in range(5000):
        sensing.take(replace(FELL, server=MemberName(f"other-{number}")))
    assert kinds(sensing, WELL, WELL) == []
