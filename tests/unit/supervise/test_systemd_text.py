"""Programs as systemd units: order, words, variables, hardening."""

from dataclasses import replace
from pathlib import Path

import pytest

from rumor.model import Seconds
from rumor.supervise.base import AGENTS, APPS, HAPROXY, Program
from rumor.supervise.systemd_text import TARGET, Host, render_environment, render_units

HOST = Host(252, Path("/var/lib/rumor"), Path("/etc/rumor/environment"))


def program(name: str, group: str, priority: int) -> Program:
    place = Path("/var/lib/rumor/web-1")
    return Program(name, group, ("/usr/bin/serve",), place, place / "log", place / "exits", "web-1", priority=priority)


AGENT, PROXY, APP = program("agent", AGENTS, 900), program("haproxy", HAPROXY, 700), program("web-app", APPS, 500)


def lines(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_what_stops_first_starts_last() -> None:
    units = render_units([AGENT, PROXY, APP], HOST)
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
    units = render_units([replace(APP, command=("/usr/bin/serve", word))], HOST)
    assert lines(units["rumor-web-app.service"], "ExecStart") == [f"/usr/bin/serve {written}"]


def test_variables_are_in_a_file_of_their_own_and_secrets_of_the_agent_are_taken_away() -> None:
    app = replace(APP, environment={"TOKEN": 'se"cret'}, forgets=("RUMOR_KEY",))
    text = render_units([app], HOST)["rumor-web-app.service"]
    assert "cret" not in text
    assert lines(text, "EnvironmentFile") == ["/etc/rumor/environment/web-app.env"]
    assert lines(text, "UnsetEnvironment") == ["RUMOR_KEY"]
    assert render_environment(app) == 'TOKEN="se\\"cret"\n'


def test_pauses_grow_where_systemd_can() -> None:
    app = replace(APP, longest_pause=Seconds(30.0))
    old, new = (render_units([app], replace(HOST, systemd=version))["rumor-web-app.service"] for version in (252, 254))
    assert lines(old, "RestartSec") == lines(new, "RestartSec") == ["1"]
    assert lines(old, "RestartMaxDelaySec") == []
    assert lines(new, "RestartMaxDelaySec") == ["30"]
    assert lines(new, "StartLimitIntervalSec") == ["0"]


def test_only_haproxy_may_bind_low_ports_and_only_where_it_must() -> None:
    closed, open_ = (render_units([AGENT, PROXY], replace(HOST, binds_low_ports=low)) for low in (False, True))
    assert lines(closed["rumor-haproxy.service"], "CapabilityBoundingSet") == [""]
    assert lines(open_["rumor-haproxy.service"], "AmbientCapabilities") == ["CAP_NET_BIND_SERVICE"]
    assert lines(open_["rumor-agent.service"], "CapabilityBoundingSet") == [""]


def test_an_agent_may_write_where_its_templates_go() -> None:
    units = render_units([AGENT, PROXY], replace(HOST, writable=(Path("/etc/nginx/conf.d"),)))
    assert lines(units["rumor-agent.service"], "ReadWritePaths") == ["/var/lib/rumor /etc/nginx/conf.d"]
    assert lines(units["rumor-haproxy.service"], "ReadWritePaths") == ["/var/lib/rumor"]
