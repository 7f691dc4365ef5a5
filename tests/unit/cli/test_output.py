"""What is printed is what was said: square brackets are no markup, and nothing steers the terminal."""

from typing import Any

import pytest

from rumor.cli import output

BRACKETS = "[haproxy.cfg:62] [/etc/x.pem] [/] [bold]x[/bold]"


def printed(value: dict[str, Any], draw: output.Draw, capsys: pytest.CaptureFixture[str]) -> str:
    output.show(value, "table", draw)
    return capsys.readouterr().out


def server(**changes: Any) -> dict[str, Any]:
    return {
        "name": "web-1", "address": "[fd00::1]:3000", "state": "ready", "weight": 100, "version": "",
        "evidence": [{"source": "haproxy", "says": "UP [L7OK]", "by": "", "at": None}],
        "haproxy": {"status": "UP", "check": "L7OK", "is_up": True, "sessions": 1, "sessions_total": 2},
    } | changes  # fmt: skip


def test_haproxys_line_numbers_and_paths_stand_under_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    pinned = {"revision": "ab" * 32, "by": f"joe {BRACKETS}", "at": "2026-11-23T04:15:43.120Z"}
    service = {"name": "web", "set_aside": BRACKETS, "routes": ["*/"], "servers": [server()]}
    text = printed({"revision": "", "pinned": pinned, "services": [service]}, output.table, capsys)
    assert text.count(BRACKETS) == 2
    assert "[fd00::1]:3000" in text
    assert "UP [L7OK]" in text


def test_the_history_shows_haproxys_words_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    entry = {
        "id": "ab" * 32, "at": "2026-11-23T04:15:43.120Z", "outcome": "refused", "how": "", "cause": f"c {BRACKETS}",
        "words": f"w {BRACKETS}\nmore",
    }  # fmt: skip
    pinned = {"revision": "ab" * 32, "by": BRACKETS, "at": "2026-11-23T04:15:43.120Z"}
    text = printed({"pinned": pinned, "revisions": [entry]}, output.history, capsys)
    assert text.count(BRACKETS) == 3


def test_an_address_with_brackets_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    member = {"name": "web-1", "addr": "[fd00::1]:7946", "status": "alive", "tags": {"note": BRACKETS}}
    text = printed({"members": [member]}, output.members, capsys)
    assert "[fd00::1]:7946" in text
    assert BRACKETS in text


def test_the_advice_of_the_doctor_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    advice = "pip install 'rumor[haproxy]'"
    value = {"findings": [{"what": "x [/x]", "ok": False, "found": BRACKETS, "advice": advice}]}
    text = printed(value, output.findings, capsys)
    assert advice in text
    assert "x [/x]" in text
    assert BRACKETS in text


def test_a_long_finding_leaves_room_for_its_advice(capsys: pytest.CaptureFixture[str]) -> None:
    found = "service web is not served: [haproxy.cfg:62] : no\nsuch word\n" + "x" * 900
    value = {"findings": [{"what": "agent balancer", "ok": False, "found": found, "advice": "see the journal"}]}
    lines = printed(value, output.findings, capsys).splitlines()
    assert len(lines) == 2
    assert "[haproxy.cfg:62] : no such word xxx" in lines[1]
    assert "x… " in lines[1]
    assert len(lines[1]) < 260


def test_control_characters_are_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    member = {"name": "web-1", "addr": "10.0.0.1:7946", "status": "alive", "tags": {"note": "\x1b[2J"}}
    assert "\x1b" not in printed({"members": [member]}, output.members, capsys)
