"""Log lines: one event, one line."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from rumor import log


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, rumor = logging.getLogger(), logging.getLogger("rumor")
    before = (list(root.handlers), root.level, rumor.level)
    yield
    root.handlers[:], root.level, rumor.level = before


def test_facts_follow_the_event_and_cannot_start_a_new_line() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    log.get_logger("pool").bind(node="lb").info("server_drained", server="web-3\nforged", by="")
    assert stream.getvalue().endswith('info    pool server_drained node=lb server="web-3\\nforged" by=""\n')
    assert stream.getvalue().count("\n") == 1


def test_json_lines_keep_numbers() -> None:
    stream = io.StringIO()
    log.configure(format="json", stream=stream)
    log.get_logger("pool").warning("slow", took=1.5)
    entry = json.loads(stream.getvalue())
    assert (entry["event"], entry["level"], entry["part"], entry["took"]) == ("slow", "warning", "pool", 1.5)


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    log.configure(level="warning", stream=stream)
    log.get_logger("pool").info("quiet")
    log.get_logger("pool").debug("quieter")
    assert stream.getvalue() == ""


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="debug, info, warning, error"):
        log.configure(level="loud")
