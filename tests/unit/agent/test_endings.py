"""How a program's end is told: to the node's own journal, and to balancers."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from rumor.agent.endings import ending_of, format_ending, parse_ending
from rumor.agent.programs import Programs
from rumor.errors import PeerError
from rumor.model import Seconds, WallTime
from rumor.supervise.exit_files import write_exit
from rumor.supervise.exits import Exit

END = Exit(WallTime(1_795_800_000.0), 7, None, 3, Seconds(4.0), Path("/nowhere"))


def test_an_end_is_told_in_printable_words_within_a_packet() -> None:
    ending = ending_of("web-app", END, "no such table: \x1b[31m" + "\u00e9" * 500)
    assert parse_ending(format_ending(ending)) == ending
    assert ending.how == "ended with status 7, 3 times in a row"
    assert ending.words.startswith("no such table: ?[31m???")
    assert len(format_ending(ending)) <= 400


@pytest.mark.parametrize(
    "payload",
    [b"", b"web-app", b"web-app\nhow", b"web-app\n\n", b"/etc\nhow\nwords", b"web-app\nhow\nwords\nmore",
     b"web-app\nhow\n\x1b[31m", b"web-app\n" + b"x" * 81 + b"\n", b"a" * 401, b"\xff\nhow\n"],
)  # fmt: skip
def test_what_is_of_another_form_is_refused(payload: bytes) -> None:
    with pytest.raises(PeerError):
        parse_ending(payload)


async def test_each_end_is_told_once_also_by_the_next_agent(tmp_path: Path) -> None:
    told: list[tuple[str, int | None]] = []

    async def watch(until: int) -> None:
        programs = Programs(tmp_path, tell=lambda program, end, lines: told.append((program, end.status)))
        task = asyncio.create_task(programs.run())
        async with asyncio.timeout(5):
            while len(told) < until:  # noqa: ASYNC110 - what is waited for is told by a call
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    write_exit(tmp_path, "web-app", END)
    await watch(1)
    write_exit(tmp_path, "worker", replace(END, status=1))
    await watch(2)
    assert told == [("web-app", 7), ("worker", 1)]
