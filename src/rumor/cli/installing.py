"""`rumor install --systemd`: the units of this host."""

import asyncio
import os
import socket
from pathlib import Path

import click

from rumor.cli.options import file_of, file_option, format_option, overrides_of, say, set_option


@click.command()
@click.argument("parts", nargs=-1, metavar="[PART...]")
@click.option("--systemd", is_flag=True, required=True, help="As systemd units: the one way there is.")
@click.option("--apply", "applies", is_flag=True, help="Write them and start them; needs root.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and change nothing.")
@file_option
@click.option(
    "--data",
    envvar="RUMOR_DATA",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    default="/var/lib/rumor",
    show_default=True,
    help="The data directory.",
)
@click.option("--node", envvar="RUMOR_NODE", metavar="NAME", help="This member's name (default: the host's name).")
@set_option
@format_option
def install(
    parts: tuple[str, ...],
    systemd: bool,
    applies: bool,
    dry_run: bool,
    file: Path | None,
    data: Path,
    node: str | None,
    settings: tuple[str, ...],
    form: str,
) -> int:
    """Install this node's agent, and its app or HAProxy, as systemd units under one target, rumor.target.

    PARTs are `balancer` and names of services; without any the environment says it, RUMOR_ROLE (or ROLE). The units
    run as the user `rumor`, stop in their order (the agent drains and leaves first), and are restarted for ever.
    """
    from rumor.cli import output
    from rumor.config import load
    from rumor.host.install import apply_installation, plan_installation, require_systemd
    from rumor.host.plan import Node, parts_of
    from rumor.names import parse_member_name

    if applies == dry_run:
        raise click.UsageError("say either --dry-run, to look, or --apply, to do it")
    path = file_of(file)
    config = load(path, environ=os.environ, overrides=overrides_of(settings))
    name = parse_member_name(node or socket.gethostname().partition(".")[0])
    played = parts_of(parts, os.environ, config.services)
    plan = Node(name, played, path.absolute() if path else None, data.absolute(), settings, Path("/"))
    require_systemd(os.environ)
    installation = plan_installation(config, plan, os.environ)
    if applies:
        asyncio.run(apply_installation(config, installation, say=say))
    value = {
        "applied": applies,
        "files": [
            {"path": str(one.path), "mode": f"{one.mode:04o}", "text": "" if one.is_secret else one.text}
            for one in installation.files
        ],
        "commands": [list(command) for command in installation.commands],
    }
    output.show(value, form, output.installed)
    return 0
