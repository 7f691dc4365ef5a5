"""How programs ended: the line in the file, and supervisord's log."""

from dataclasses import replace
from pathlib import Path

import pytest

from rumor.model import Seconds, WallTime
from rumor.supervise.exit_files import last_lines, read_exit, write_exit
from rumor.supervise.exits import LIMIT, Exit, format_exit, parse_exit
from rumor.supervise.supervisord_log import LoggedEnd, read_ends

END = Exit(WallTime(1_795_800_000.0), 7, None, 3, Seconds(4.0), Path("/var/lib/a b/log"))


@pytest.mark.parametrize("end", [END, replace(END, status=None, signal=9), replace(END, status=0, failures=1)])
def test_a_line_is_read_back(end: Exit) -> None:
    assert parse_exit(format_exit(end)) == end


@pytest.mark.parametrize(
    "text", ["", "now 7 0 1 1 /log", "1 7 0 1 1", "1 7 0 1 1 /log\nmore", "1 7 0 1 1 /" + "x" * LIMIT, "-1 7 0 1 1 /l"]
)
def test_what_is_no_such_line_says_nothing(text: str) -> None:
    assert parse_exit(text) is None


def test_an_end_says_how_in_words() -> None:
    assert str(replace(END, failures=1)) == "ended with status 7"
    assert str(END) == "ended with status 7, 3 times in a row"
    assert str(replace(END, status=None, signal=9, failures=1)) == "ended by SIGKILL"
    assert str(replace(END, status=None, signal=99, failures=1)) == "ended by signal 99"


def test_files_are_replaced_and_a_missing_one_is_no_end(tmp_path: Path) -> None:
    assert read_exit(tmp_path / "exits", "web-app") is None
    for status in (1, 2):
        write_exit(tmp_path / "exits", "web-app", replace(END, status=status))
    assert read_exit(tmp_path / "exits", "web-app") == replace(END, status=2)
    assert [path.name for path in (tmp_path / "exits").iterdir()] == ["web-app"]


def test_last_words_are_printable_and_bounded(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_bytes(b"first\n\n\x1b[31mred\x07\n" + b"x" * 1000 + b"\n\xff\n")
    assert last_lines(log, 3) == ("?[31mred?", "x" * 300, "\ufffd")
    assert last_lines(tmp_path / "none", 3) == ()
    (tmp_path / "s6").mkdir()
    (tmp_path / "s6" / "current").write_text("one\ntwo\n")
    assert last_lines(tmp_path / "s6", 1) == ("two",)


def test_supervisords_log_says_which_program_ended_and_how() -> None:
    lines = [
        "2026-11-27 17:00:00,123 INFO spawned: 'web-1-app' with pid 7",
        "2026-11-27 17:00:01,123 WARN exited: web-1-app (exit status 7; not expected)",
        "2026-11-27 17:00:02,123 WARN exited: web-2-app (terminated by SIGKILL; not expected)",
        "2026-11-27 17:00:03,123 WARN exited: web-2-app (terminated by SIGSEGV (core dumped); not expected)",
        "2026-11-27 17:00:04,123 INFO exited: cron (exit status 0; expected)",
        "2026-11-27 17:00:05,123 INFO stopped: web-1-app (terminated by SIGTERM)",
    ]
    assert list(read_ends(lines)) == [
        LoggedEnd("web-1-app", 7, None), LoggedEnd("web-2-app", None, 9), LoggedEnd("web-2-app", None, 11),
        LoggedEnd("cron", 0, None),
    ]  # fmt: skip
