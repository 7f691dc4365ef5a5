"""What comes of waiting for programs; what people do with them is in tests/integration/test_supervision.py."""

import asyncio
from collections.abc import Sequence

import pytest

from rumor.errors import Unreachable
from rumor.model import Seconds
from rumor.supervise.base import ENDED, Program, ProgramState, ProgramStatus
from rumor.supervise.operating import wait_for


class Told:
    """A supervisor that says what it was told to, or nothing."""

    def __init__(self, *states: ProgramStatus, answers: bool = True) -> None:
        self._states = states
        self._answers = answers

    async def states(self) -> tuple[ProgramStatus, ...]:
        if not self._answers:
            await asyncio.Event().wait()
        return self._states

    async def programs(self) -> tuple[Program, ...]:
        return ()

    async def start(self, names: Sequence[str]) -> None: ...
    async def stop(self, names: Sequence[str]) -> None: ...
    async def add(self, programs: Sequence[Program]) -> None: ...
    async def remove(self, names: Sequence[str]) -> None: ...
    async def shut_down(self) -> None: ...


async def test_those_that_are_not_as_wanted_are_returned_when_the_time_is_over() -> None:
    stopped, running = (
        ProgramStatus(name, state, None) for name, state in (("a", ProgramState.STOPPED), ("b", ProgramState.RUNNING))
    )
    assert await wait_for(Told(stopped, running), ["a"], ENDED, Seconds(0.01)) == ()
    assert await wait_for(Told(stopped, running), ["a", "b"], ENDED, Seconds(0.01)) == (running,)


async def test_no_answer_is_not_taken_for_a_good_one() -> None:
    with pytest.raises(Unreachable, match="nobody said what a did"):
        await wait_for(Told(answers=False), ["a"], ENDED, Seconds(0.01))
