"""The loop around one app's checks, with an app that says what the test wants."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from rumor.checks.loop import AppChecker
from rumor.checks.outcome import CheckSettings, Outcome
from rumor.model import AppState, Seconds
from rumor.names import HostPort

ADDRESS = HostPort("127.0.0.1", 3000)
SETTINGS = CheckSettings(interval=Seconds(0.001), rise=2, fall=2)


class ScriptedApp:
    """Answers its checks from a list, and then says no more."""

    def __init__(self, script: Sequence[bool | Exception]) -> None:
        self.script = list(script)
        self.is_done = asyncio.Event()
        self.changes: list[tuple[AppState, str]] = []
        self.checker = AppChecker(SETTINGS, ADDRESS, on_change=self._note, check=self._check)

    async def _check(self, settings: CheckSettings, address: HostPort) -> Outcome:
        if not self.script:
            self.is_done.set()
            await asyncio.Event().wait()
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Outcome(answer, "L7OK 200" if answer else "L7STS 500", Seconds(0.0))

    def _note(self, state: AppState, outcome: Outcome) -> None:
        self.changes.append((state, outcome.detail))


@asynccontextmanager
async def running(checker: AppChecker) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(10):
        task = tasks.create_task(checker.run())
        yield
        task.cancel()


async def play(*script: bool | Exception) -> ScriptedApp:
    app = ScriptedApp(script)
    async with running(app.checker):
        await app.is_done.wait()
    return app


async def test_each_change_is_told_once_with_what_brought_it() -> None:
    app = await play(False, True, True, False, True, False, False, False, True, True)
    assert app.changes == [
        (AppState.READY, "L7OK 200"),
        (AppState.DOWN, "L7STS 500"),
        (AppState.READY, "L7OK 200"),
    ]
    assert app.checker.state is AppState.READY


async def test_first_outcome_is_set_by_a_bad_one_too() -> None:
    app = ScriptedApp([False])
    assert not app.checker.first_outcome.is_set()
    async with running(app.checker):
        await app.checker.first_outcome.wait()
        assert app.checker.state is AppState.STARTING
        assert app.checker.last_outcome is not None
        assert app.checker.last_outcome.detail == "L7STS 500"


async def test_state_is_known_when_the_first_outcome_is() -> None:
    app = ScriptedApp([True])
    async with running(app.checker):
        await app.checker.first_outcome.wait()
        assert app.changes == [(AppState.READY, "L7OK 200")]


async def test_check_that_crashes_is_logged_and_checking_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    app = await play(RuntimeError("a bug of ours"), True)
    assert app.changes == [(AppState.READY, "L7OK 200")]
    assert "check_crashed" in caplog.text
