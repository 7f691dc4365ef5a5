"""What `rumor deploy` and `rumor restart --rolling` say where nothing comes of it, and what a signal does."""

import asyncio
import io
import json
import os
import signal
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from rumor.cli import deploying
from rumor.cli.deploying import Interrupted, interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_lets_what_was_begun_be_put_back(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    put_back: list[str] = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            async with asyncio.timeout(10):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)
            put_back.append("all of it")
            raise

    with pytest.raises(Interrupted, match=f"interrupted by {number.name}") as caught:
        asyncio.run(interruptible(work()))
    assert put_back == ["all of it"]
    assert 128 + caught.value.number == 128 + number
    assert number.name in capfd.readouterr().err


def test_without_a_signal_a_result_is_a_result() -> None:
    async def work() -> int:
        return 7

    assert asyncio.run(interruptible(work())) == 7


@pytest.mark.parametrize("command", ["deploy", "restart"])
def test_one_object_is_printed_where_there_is_no_docker(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with redirect_stdout(io.StringIO()) as out:
        if command == "deploy":
            words = ["web", "--image", "shop:2", "--json", "--data", str(tmp_path)]
            status = deploying.deploy.main(words, standalone_mode=False)
        else:
            status = deploying.roll("web", 1, "1s", "", True, tmp_path)
    found = json.loads(out.getvalue())
    assert status == 1
    assert (found["service"], found["ok"], found["steps"], found["elsewhere"]) == ("web", False, [], [])
    assert "Docker does not answer" in found["reason"]
