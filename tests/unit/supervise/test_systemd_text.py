"""Programs as systemd units: order, words, variables, hardening."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rumor.model import Seconds
from rumor.supervise.base import AGENTS, APPS, HAPROXY, Program
from rumor.supervise.systemd_text import TARGET, render_files, render_pause


def program(name: str, group: str, priority: int) -> Program:
    place = Path("/var/lib/rumor/web-1")
    return Program(name, group, ("/usr/bin/serve",), place, place / "log", place / "exits", "web-1", priority=priority)


AGENT, PROXY, APP = program("agent", AGENTS, 900), program("haproxy", HAPROXY, 700), program("web-app", APPS, 500)


def render(*programs: Program) -> dict[str, str]:
    """Return the texts of all files by their names."""
    return {path.name: text for path, (text, _) in render_files(programs, "/opt/rumor/bin/python").items()}


def lines(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_what_stops_first_starts_last() -> None:
    units = render(AGENT, PROXY, APP)
    assert lines(units["rumor-agent.service"], "After") == [
        "network-online.target rumor-haproxy.service rumor-web-app.service"
    ]
    assert lines(units["rumor-haproxy.service"], "After") == ["network-online.target rumor-web-app.service"]
    assert lines(units["rumor-web-app.service"], "After") == ["network-online.target"]
    assert all(lines(text, "PartOf") == [TARGET] for name, text in units.items() if name != TARGET)
    assert lines(units[TARGET], "Wants") == ["rumor-agent.service rumor-haproxy.service rumor-web-app.service"]


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("plain", "plain"),
        ("two words", '"two words"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("100%", "100%%"),
        ("$HOME", "$$HOME"),
        ("back\\slash", '"back\\\\slash"'),
        ("", '""'),
        ("a\nRestart=no", '"a\\x0aRestart=no"'),
        ("a;b", '"a;b"'),
        ("#no", '"#no"'),
    ],
)
def test_a_word_of_a_command_stays_one_word(word: str, written: str) -> None:
    units = render(replace(APP, command=("/usr/bin/serve", word)))
    assert lines(units["rumor-web-app.service"], "ExecStart") == [f"/usr/bin/serve {written}"]


def test_variables_are_in_a_file_of_their_own_and_secrets_of_the_agent_are_taken_away() -> None:
    app = replace(APP, environment={"TOKEN": 'se"cret'}, forgets=("RUMOR_KEY",))
    files = render_files([app], "python")
    text = render(app)["rumor-web-app.service"]
    assert "cret" not in text
    assert lines(text, "EnvironmentFile") == ["/etc/rumor/environment/web-app.env"]
    assert lines(text, "UnsetEnvironment") == ["RUMOR_KEY"]
    assert files[Path("/etc/rumor/environment/web-app.env")] == ('TOKEN="se\\"cret"\n', 0o600)


@pytest.mark.parametrize(
    ("changed", "private"),
    [
        ({}, "yes"),
        ({"command": ("/tmp/clone/.venv/bin/python", "app.py")}, "no"),
        ({"command": ("/usr/bin/python3", "/var/tmp/app.py")}, "no"),
        ({"directory": Path("/tmp/clone")}, "no"),
        ({"command": ("/tmpfs/serve",)}, "yes"),
    ],
)
def test_a_program_has_a_tmp_of_its_own_unless_it_lies_there(changed: dict[str, Any], private: str) -> None:
    assert lines(render(replace(APP, **changed))["rumor-web-app.service"], "PrivateTmp") == [private]


def test_each_end_is_noted_and_the_first_pause_is_short() -> None:
    text = render(replace(APP, longest_pause=Seconds(16.0)))["rumor-web-app.service"]
    place = "/var/lib/rumor/web-1"
    assert lines(text, "ExecStopPost") == [
        f"-+/opt/rumor/bin/python -I -m rumor.supervise.systemd_end web-app {place}/exits {place}/log 16"
    ]
    assert lines(text, "RestartSec") == ["1"]
    assert lines(text, "StartLimitIntervalSec") == ["0"]
    assert lines(render_pause(8.0), "RestartSec") == ["8"]


def test_what_does_not_start_by_itself_is_not_wanted_by_the_target() -> None:
    assert lines(render(AGENT, replace(APP, autostart=False))[TARGET], "Wants") == ["rumor-agent.service"]


def test_only_what_must_may_bind_low_ports() -> None:
    closed, open_ = (render(AGENT, replace(PROXY, binds_low_ports=low)) for low in (False, True))
    assert lines(closed["rumor-haproxy.service"], "CapabilityBoundingSet") == [""]
    assert lines(open_["rumor-haproxy.service"], "AmbientCapabilities") == ["CAP_NET_BIND_SERVICE"]
    assert lines(open_["rumor-agent.service"], "CapabilityBoundingSet") == [""]


def test_a_program_of_ours_writes_its_own_directories_and_reads_homes_only_where_it_must() -> None:
    agent = replace(AGENT, writes=(Path("/var/lib/rumor"), Path("/etc/nginx/conf.d")))
    units = render(agent, replace(APP, reads_homes=True))
    assert lines(units["rumor-agent.service"], "ReadWritePaths") == ["/var/lib/rumor /etc/nginx/conf.d"]
    assert lines(units["rumor-agent.service"], "ProtectHome") == ["yes"]
    assert lines(units["rumor-web-app.service"], "ProtectHome") == ["read-only"]
