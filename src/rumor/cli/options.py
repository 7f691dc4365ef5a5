"""What several commands share: options, which files are meant, and the agent to ask."""

import os
import socket
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rumor import log
from rumor.errors import Refused, RumorError

if TYPE_CHECKING:
    from rumor.api_client import AgentApi

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_FILE = "rumor.toml"
DEFAULT_DATA = ".rumor"


def options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


data_option = click.option(
    "--data", envvar="RUMOR_DATA", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="The data directory (default: .rumor beside rumor.toml).",
)  # fmt: skip
file_option = click.option(
    "--file", envvar="RUMOR_FILE", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="The cluster's rumor.toml (default: ./rumor.toml).",
)  # fmt: skip
set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Set one key of rumor.toml, such as service.web.port=3001.",
)  # fmt: skip
format_option = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True, help="What to print."
)
asking = options(
    data_option,
    click.option(
        "--node", envvar="RUMOR_NODE", metavar="NAME", help="Which node's agent to ask (default: the balancer's)."
    ),
    click.option("--api", envvar="RUMOR_API", metavar="URL", help="Ask an agent over TCP, http://HOST:PORT."),
    click.option("--token", envvar="RUMOR_TOKEN", metavar="TOKEN", help="The token of that API."),
    format_option,
)
logging_options = options(
    click.option(
        "--log-level", envvar="RUMOR_LOG_LEVEL", type=click.Choice(log.LEVELS), default="info", show_default=True,
        help="The least important lines to print.",
    ),
    click.option(
        "--log-format", envvar="RUMOR_LOG_FORMAT", type=click.Choice(["text", "json"]), default="text",
        show_default=True, help="How lines look.",
    ),
)  # fmt: skip


def say(text: str) -> None:
    """Tell what is being done, on stderr."""
    # Whoever read this may have gone, a terminal that hung up: no reason to leave things half done.
    with suppress(OSError):
        print(f"rumor: {text}", file=sys.stderr, flush=True)


def file_of(file: Path | None) -> Path | None:
    """Return the rumor.toml to read: the one that was named, else the one that is here, else None."""
    if file is not None:
        return file
    named = os.environ.get("RUMOR_FILE")
    if named:
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None


def overrides_of(settings: tuple[str, ...]) -> dict[tuple[str, ...], object]:
    """Return what `--set` says, by keys."""
    overrides: dict[tuple[str, ...], object] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise click.UsageError(f"--set wants KEY=VALUE, and this is {setting!r}")
        try:
            value: object = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        overrides[tuple(key.strip().split("."))] = value
    return overrides


def data_of(data: Path | None, file: Path | None) -> Path:
    if data is not None:
        return data.absolute()
    return (file.parent if file is not None else Path()).absolute() / DEFAULT_DATA


def agent_api(data: Path | None, node: str | None, api: str | None, token: str | None) -> "AgentApi":
    from rumor.api_client import AgentApi
    from rumor.places import places

    if api:
        return AgentApi(url=api, token=token or "")
    directory = data_of(data, file_of(None))
    if node is None and not places(directory, "balancer").agent_socket.exists():
        # No balancer here: this host's own node is meant, or the only one that lives in this directory. A container
        # made anew may find the directory of the one before it, socket and all.
        found = [
            path.name for path in sorted(directory.glob("*")) if places(directory, path.name).agent_socket.exists()
        ]
        own = socket.gethostname().partition(".")[0]
        node = own if own in found else found[0] if len(found) == 1 else None
    client = AgentApi(socket_path=places(directory, node or "balancer").agent_socket)
    if not places(directory, node or "balancer").agent_socket.exists():
        raise RumorError(
            f"no agent of {node or 'a balancer'} runs in {directory}: "
            "start `rumor up` or `rumor agent`, or say --data or --api"
        )
    return client


RUNNING, WANTED = "running", "wanted"
"""Words for revisions: no id begins with either."""
_HISTORY = 1_000


def revision_of(client: "AgentApi", named: str) -> dict[str, Any]:
    """Return a revision by the beginning of its id, or by `running` or `wanted`."""
    if named == WANTED:
        wanted = _wanted(client)
        if not wanted:
            raise RumorError("no revision has passed its check yet: see `rumor config history`")
        return client.get(f"/v1/config/revisions/{wanted}")
    if named == RUNNING:
        return _running_revision(client)
    if not named.isalnum():
        raise click.UsageError(f"{named!r} is no revision: take the beginning of an id from `rumor config history`")
    return client.get(f"/v1/config/revisions/{named}")


def revisions_to_compare(client: "AgentApi", old: str | None, new: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two revisions; what is not named is what an operator most likely means.

    That is: where another than the one that runs is wanted, from the one that runs to that one, else to the one that
    runs from the one that ran before it.
    """
    if old is not None:
        return revision_of(client, old), revision_of(client, new or RUNNING)
    running = _running_revision(client)
    if _wanted(client) not in ("", running["id"]):
        return running, revision_of(client, WANTED)
    ids = [
        entry["id"]
        for entry in client.get(f"/v1/config/history?limit={_HISTORY}")["revisions"]
        if entry["outcome"] != "refused"
    ]
    since = ids[ids.index(running["id"]) :] if running["id"] in ids else ids
    before = next((one for one in since if one != running["id"]), None)
    if before is None:
        raise RumorError("there is no revision before the one that runs: see `rumor config history`")
    return revision_of(client, before), running


def _running_revision(client: "AgentApi") -> dict[str, Any]:
    haproxy = client.get("/v1/status")["haproxy"]
    if haproxy is None:
        raise RumorError("this node steers no HAProxy: ask a balancer")
    if not haproxy["revision"]:
        raise RumorError("HAProxy does not say what it runs; `rumor config show wanted` has what it should run")
    running = haproxy["revision"]
    try:
        found = client.get(f"/v1/config/revisions/{running}")
    except Refused as error:
        raise RumorError(
            f"HAProxy runs revision {running[:12]}, which the journal does not know: "
            "`rumor config show wanted` has what it should run"
        ) from error
    return found


def _wanted(client: "AgentApi") -> str:
    wanted: str = client.get("/v1/table")["revision"]
    return wanted
