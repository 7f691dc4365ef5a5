"""What systemd says, read strictly."""

import pytest

from rumor.errors import Refused
from rumor.supervise.base import ProgramState
from rumor.supervise.systemd_words import PROPERTIES, parse_asked, parse_end, parse_units, state_of

RUNS = {
    "Restart": "always",
    "MainPID": "4211",
    "NRestarts": "2",
    "ExecMainStartTimestampMonotonic": "1000000",
    "ExecMainExitTimestampMonotonic": "3500000",
    "Result": "success",
    "Id": "rumor-web-app.service",
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "StateChangeTimestampMonotonic": "7000000",
}


def block(**changes: str) -> str:
    return "".join(f"{key}={value}\n" for key, value in {**RUNS, **changes}.items())


def test_units_are_read_as_systemctl_shows_them() -> None:
    never = block(Id="rumor-agent.service", MainPID="0", StateChangeTimestampMonotonic="0", ActiveState="inactive")
    units = parse_units(f"{block()}\n{never}")
    assert list(units) == ["rumor-web-app.service", "rumor-agent.service"]
    unit = units["rumor-web-app.service"]
    assert (unit.pid, unit.restarts, unit.changed, unit.ran) == (4211, 2, 7.0, 2.5)
    assert (units["rumor-agent.service"].pid, units["rumor-agent.service"].changed) == (None, None)
    assert set(PROPERTIES.split(",")) == set(RUNS)


@pytest.mark.parametrize(
    "text",
    [
        block().replace("MainPID=4211\n", ""),
        block(MainPID="-1"),
        block(MainPID="4211 "),
        block(NRestarts="\u0663"),
        block(StateChangeTimestampMonotonic="[not set]"),
        block() + "Environment=TOKEN=secret\n",
        block() + "Id=rumor-agent.service\n",
        "Failed to connect to bus",
    ],
)
def test_an_answer_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="systemctl show says"):
        parse_units(text)


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({}, ProgramState.RUNNING, ""),
        ({"ActiveState": "reloading"}, ProgramState.RUNNING, ""),
        ({"ActiveState": "activating", "SubState": "start"}, ProgramState.STARTING, ""),
        ({"ActiveState": "activating", "SubState": "auto-restart"}, ProgramState.BACKOFF, ""),
        ({"ActiveState": "activating", "SubState": "auto-restart-queued"}, ProgramState.BACKOFF, ""),
        ({"ActiveState": "deactivating", "SubState": "stop-sigterm"}, ProgramState.STOPPING, ""),
        ({"ActiveState": "inactive", "SubState": "dead"}, ProgramState.STOPPED, ""),
        ({"ActiveState": "failed", "Result": "timeout"}, ProgramState.STOPPED, ""),
        ({"ActiveState": "failed", "Result": "start-limit-hit"}, ProgramState.FATAL, "given rumor-web-app.service up"),
        ({"ActiveState": "failed", "Result": "signal", "Restart": "no"}, ProgramState.FATAL, "up: signal"),
        ({"ActiveState": "inactive", "LoadState": "not-found"}, ProgramState.FATAL, "not loaded"),
        ({"ActiveState": "inactive", "LoadState": "masked"}, ProgramState.FATAL, "masked"),
        ({"ActiveState": "maintenance"}, ProgramState.FATAL, "given"),
    ],
)
def test_a_state_in_rumors_words(changes: dict[str, str], state: ProgramState, words: str) -> None:
    (unit,) = parse_units(block(**changes)).values()
    assert state_of(unit)[0] is state
    assert words in state_of(unit)[1]


def test_who_asked_is_told_by_the_jobs() -> None:
    jobs = "17 rumor-web-app.service stop running\n18 rumor-agent.service start waiting\n"
    assert parse_asked(jobs, "rumor-web-app.service")
    assert not parse_asked(jobs, "rumor-agent.service"), "a start that has not succeeded asks for no end"
    assert parse_asked("9 rumor-agent.service restart running", "rumor-agent.service")
    assert not parse_asked("No jobs running.\n", "rumor-agent.service")


@pytest.mark.parametrize(
    ("code", "status", "end"),
    [
        ("exited", "7", (7, None)),
        ("killed", "KILL", (None, 9)),
        ("dumped", "SEGV", (None, 11)),
        ("killed", "RTMIN+3", (None, 37)),
        ("killed", "NONSENSE", (None, 0)),
        ("exited", "7 7", None),
        ("", "", None),
    ],
)
def test_an_end_as_systemd_tells_it(code: str, status: str, end: tuple[int | None, int | None] | None) -> None:
    assert parse_end({"EXIT_CODE": code, "EXIT_STATUS": status}) == end
