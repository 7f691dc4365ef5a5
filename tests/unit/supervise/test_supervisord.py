"""supervisord.conf as supervisord itself reads it."""

import configparser
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from rumor.errors import Bug, Refused
from rumor.model import Seconds
from rumor.supervise.base import Program
from rumor.supervise.supervisord import write_config

AWKWARD = (
    "run",
    "100% sure",
    "a ; b",
    "c # d",
    "; e",
    "it's ;; ok",
    "it's",
    'say "hi"',
    "$HOME",
    "back\\slash",
    "%(here)s",
    "",
)


def program(directory: Path, name: str = "web-1-app") -> Program:
    return Program(
        name, "apps", ("/bin/sleep", "60"), directory, directory / "app.log", directory / "exits", priority=100
    )


def read(text: str, directory: Path) -> ServerOptions:
    path = directory / "supervisord.conf"
    path.write_text(text)
    options = ServerOptions()
    options.realize(["-c", str(path)])
    return options


def test_supervisord_reads_back_what_was_meant(tmp_path: Path) -> None:
    app = replace(
        program(tmp_path),
        command=("/bin/echo", *AWKWARD),
        environment={"TAG": "a,b;c=%d", "EMPTY": ""},
        forgets=("SECRET",),
        stop_wait=Seconds(17.6),
    )
    agent = replace(program(tmp_path, "web-1-agent"), group="agents", priority=900, autostart=False)
    text = write_config([app, agent], run_directory=tmp_path, log=tmp_path / "s.log")
    groups = {group.name: group for group in read(text, tmp_path).process_group_configs}
    assert {name: group.priority for name, group in groups.items()} == {
        "apps.web-1-app": 100,
        "agents.web-1-agent": 900,
    }
    (found,) = groups["apps.web-1-app"].process_configs
    assert shlex.split(found.command) == ["/bin/echo", *AWKWARD]
    assert found.environment == {"TAG": "a,b;c=%d", "EMPTY": "", "SECRET": ""}
    assert (found.stopwaitsecs, found.autostart, found.startretries) == (18, True, 0)
    assert groups["agents.web-1-agent"].process_configs[0].autostart is False


def test_only_its_owner_may_speak_to_supervisord(tmp_path: Path) -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(write_config([program(tmp_path)], run_directory=tmp_path, log=tmp_path / "s.log"))
    assert parser["unix_http_server"]["chmod"] == "0600"
    assert "inet_http_server" not in parser


def test_no_value_may_begin_a_line_of_its_own(tmp_path: Path) -> None:
    evil = replace(program(tmp_path), command=("sh", "-c", "x\nautostart = false"))
    with pytest.raises(Bug, match=r"cannot stand in supervisord\.conf"):
        write_config([evil], run_directory=tmp_path, log=tmp_path / "s.log")


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a # b"])
def test_an_environment_that_supervisord_cannot_carry_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(Refused, match="supervisord cannot carry"):
        write_config(
            [replace(program(tmp_path), environment={"X": value})], run_directory=tmp_path, log=tmp_path / "s.log"
        )


def test_a_directory_that_supervisord_cannot_write_down_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="would be a comment"):
        write_config([program(tmp_path / "a #1")], run_directory=tmp_path, log=tmp_path / "s.log")
