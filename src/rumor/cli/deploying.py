"""`rumor deploy` and what `rumor restart --rolling` does: new instances before old ones go."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from rumor.cli.options import data_of, data_option, file_of, options, say
from rumor.config import parse_duration
from rumor.deploy.engine import Engine, InRotation, Say, Spec
from rumor.deploy.report import Report
from rumor.errors import RumorError
from rumor.model import Seconds
from rumor.names import ServiceName, parse_service_name

if TYPE_CHECKING:
    from rumor.deploy.docker import DockerEngine
    from rumor.deploy.local import LocalEngine

Story = Callable[[Engine, InRotation, Say], Awaitable[Report]]
Result = TypeVar("Result")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

deploy_options = options(
    click.option(
        "--timeout", default="60s", show_default=True, metavar="TIME",
        help="How long an instance may take until it is in rotation.",
    ),
    click.option(
        "--project", envvar="COMPOSE_PROJECT_NAME", default="", metavar="NAME",
        help="Only containers of this compose project.",
    ),
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; progress goes to stderr."),
)  # fmt: skip


@click.command()
@click.argument("service")
@click.option("--image", default="", metavar="IMAGE", help="The image of the new containers.")
@click.option("--command", default="", metavar="COMMAND", help="The command of the new instances.")
@click.option("--force", is_flag=True, help="Begin also where an instance is not in rotation.")
@deploy_options
@data_option
def deploy(
    service: str,
    image: str,
    command: str,
    force: bool,
    timeout: str,
    project: str,
    as_json: bool,
    data: Path | None,
) -> int:
    """Replace all instances of SERVICE by new ones, without losing a request.

    As many new ones as there are old are started and waited for; then the old ones drain and go. If the new do not
    become ready in time they are removed again, the old ones stay, and the status is 1.
    """
    from rumor.deploy.stories import deploy as story

    if not image and not command:
        raise click.UsageError("what is new? say --image IMAGE, --command COMMAND, or both")
    name, spec, patience = parse_service_name(service), Spec(command, image), patience_of(timeout)
    return _tell(
        name,
        lambda engine, rotation, say: story(engine, rotation, name, spec, patience=patience, say=say, force=force),
        project,
        as_json,
        data,
    )


def roll(service: str, max_unavailable: int, timeout: str, project: str, as_json: bool, data: Path | None) -> int:
    """Restart all instances of a service in turn; return the exit status."""
    from rumor.deploy.stories import restart_rolling as story

    name, patience = parse_service_name(service), patience_of(timeout)
    return _tell(
        name,
        lambda engine, rotation, say: story(
            engine, rotation, name, max_unavailable=max_unavailable, patience=patience, say=say
        ),
        project,
        as_json,
        data,
    )


def patience_of(text: str) -> Seconds:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"--timeout wants {error}") from error


def _tell(service: ServiceName, story: Story, project: str, as_json: bool, data: Path | None) -> int:
    async def run() -> Report:
        async with _engine(project, data) as engine:
            elsewhere = await engine.elsewhere(service)
            if elsewhere:
                say(f"not of this Docker engine, and left as they are: {', '.join(elsewhere)}")
            return replace(await story(engine, engine.in_rotation, say), elsewhere=elsewhere)

    try:
        report = asyncio.run(interruptible(run()))
    except Interrupted as error:
        return _show(Report(service, False, str(error)), as_json, 128 + error.number)
    except RumorError as error:
        # One object also where nothing came of it; how to say it to people is `main`'s business.
        if not as_json:
            raise
        return _show(Report(service, False, str(error)), as_json, error.exit_status)
    return _show(report, as_json, 0 if report.ok else 1)


def _show(report: Report, as_json: bool, status: int) -> int:
    if as_json:
        print(json.dumps(report.as_json()))
    elif report.ok:
        rest = f"; not touched: {', '.join(report.elsewhere)}" if report.elsewhere else ""
        print(f"{report.service}: done, {len(report.steps)} steps{rest}")
    else:
        words = "".join(f"\n  {step.instance}: {step.words.strip()}" for step in report.steps if step.words)
        print(f"{report.service}: {report.reason}{words}", file=sys.stderr)
    return status


class Interrupted(Exception):
    """A signal ended it; what had been begun is finished or put back."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"interrupted by {number.name}")
        self.number = number


async def interruptible(work: Coroutine[None, None, Result]) -> Result:
    """Do something that a signal cancels, so that it can put things right; a second signal ends the process at once.

    Raises:
        Interrupted: by a signal.
    """
    loop, task, heard = asyncio.get_running_loop(), asyncio.ensure_future(work), list[signal.Signals]()

    def hear(number: signal.Signals) -> None:
        heard.append(number)
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
        say(f"{number.name}: finishing or putting back what was begun; once more leaves it as it is")
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, hear, number)
    try:
        return await task
    except asyncio.CancelledError:
        if heard:
            raise Interrupted(heard[0]) from None
        raise
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _engine(project: str, data: Path | None) -> AsyncIterator["DockerEngine | LocalEngine"]:
    """Yield what runs the instances: the cluster of `rumor up` in this directory, else Docker."""
    from rumor.deploy.local import LocalEngine

    local = LocalEngine(data_of(data, file_of(None)), os.environ)
    if not project and await local.is_alive():
        yield local
        return
    try:
        from rumor.deploy.docker import DockerEngine
    except ModuleNotFoundError as error:
        raise RumorError("containers are asked through aiodocker: pip install 'rumor[docker]'") from error
    async with DockerEngine.open(project=project, say=say) as docker:
        yield docker
