"""`rumor deploy` and `rumor restart --rolling`: new instances before old ones go."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

import click

from rumor.config import parse_duration
from rumor.deploy.engine import Engine, InRotation, Say, Spec
from rumor.deploy.report import Report
from rumor.errors import RumorError
from rumor.model import Seconds
from rumor.names import parse_service_name

Story = Callable[[Engine, InRotation, Say], Awaitable[Report]]

_timeout = click.option(
    "--timeout", default="60s", show_default=True, metavar="TIME",
    help="How long an instance may take until it is in rotation.",
)  # fmt: skip
_project = click.option(
    "--project", envvar="COMPOSE_PROJECT_NAME", default="", metavar="NAME",
    help="Only containers of this compose project.",
)  # fmt: skip
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; progress goes to stderr.")


@click.command()
@click.argument("service")
@click.option("--image", default="", metavar="IMAGE", help="The image of the new containers.")
@click.option("--command", default="", metavar="COMMAND", help="The command of the new instances.")
@_timeout
@_project
@_json
def deploy(service: str, image: str, command: str, timeout: str, project: str, as_json: bool) -> int:
    """Replace all instances of SERVICE by new ones, without losing a request.

    As many new ones as there are old are started and waited for; then the old ones drain and go. If the new do not
    become ready in time they are removed again, the old ones stay, and the status is 1.
    """
    from rumor.deploy.stories import deploy as story

    if not image and not command:
        raise click.UsageError("what is new? say --image IMAGE, --command COMMAND, or both")
    name, spec, patience = parse_service_name(service), Spec(command, image), _patience(timeout)
    return _tell(
        lambda engine, rotation, say: story(engine, rotation, name, spec, patience=patience, say=say), project, as_json
    )


@click.command()
@click.argument("service")
@click.option("--rolling", is_flag=True, help="One after the other, each waited for.")
@click.option(
    "--max-unavailable", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N",
    help="How many may be out at once.",
)  # fmt: skip
@_timeout
@_project
@_json
def restart(service: str, rolling: bool, max_unavailable: int, timeout: str, project: str, as_json: bool) -> int:
    """Restart all instances of SERVICE in turn: each drains, and must be in rotation again before the next.

    The first that does not come back in time ends it, with status 1.
    """
    from rumor.deploy.stories import restart_rolling as story

    if not rolling:
        raise click.UsageError("all at once would leave nobody to answer: say --rolling")
    name, patience = parse_service_name(service), _patience(timeout)
    return _tell(
        lambda engine, rotation, say: story(
            engine, rotation, name, max_unavailable=max_unavailable, patience=patience, say=say
        ),
        project,
        as_json,
    )


def _patience(text: str) -> Seconds:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"--timeout wants {error}") from error


def _tell(story: Story, project: str, as_json: bool) -> int:
    try:
        from rumor.deploy.docker import DockerEngine
    except ModuleNotFoundError as error:
        raise RumorError("containers are asked through aiodocker: pip install 'rumor[docker]'") from error

    async def run() -> Report:
        async with DockerEngine.open(project=project) as engine:
            return await story(engine, engine.in_rotation, _say)

    report = asyncio.run(run())
    if as_json:
        print(json.dumps(report.as_json()))
    elif report.ok:
        print(f"{report.service}: done, {len(report.steps)} steps")
    else:
        words = "".join(f"\n  {step.instance}: {step.words.strip()}" for step in report.steps if step.words)
        print(f"{report.service}: {report.reason}{words}", file=sys.stderr)
    return 0 if report.ok else 1


def _say(text: str) -> None:
    print(f"rumor: {text}", file=sys.stderr, flush=True)
