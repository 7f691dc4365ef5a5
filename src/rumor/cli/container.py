"""`rumor supervise`: what the images start."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import click

from rumor import log
from rumor.cli.options import data_of, data_option, file_of, file_option, logging_options, overrides_of, set_option


@click.command()
@click.argument("parts", nargs=-1, metavar="[PART...]")
@file_option
@data_option
@click.option("--node", envvar="RUMOR_NODE", metavar="NAME", help="This member's name (default: the host's name).")
@click.option(
    "--scan-directory", envvar="RUMOR_SCAN_DIRECTORY", default="/run/rumor/service", show_default=True,
    type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where s6 finds the programs.",
)  # fmt: skip
@click.option("--only-prepare", is_flag=True, help="Lay the programs out and end: another becomes s6-svscan.")
@set_option
@logging_options
def supervise(
    parts: tuple[str, ...],
    file: Path | None,
    data: Path | None,
    node: str | None,
    scan_directory: Path,
    only_prepare: bool,
    settings: tuple[str, ...],
    log_level: str,
    log_format: log.LogFormat,
) -> None:
    """Run this node's agent, and its app or HAProxy, under s6: what a container starts.

    PARTs are `balancer` and names of services; without any the environment says it, RUMOR_ROLE (or ROLE). On SIGTERM
    the agent drains and leaves, then the others stop, and all ends with status 0.
    """
    from rumor.config import load
    from rumor.errors import ConfigError, PeerError
    from rumor.host.plan import Node, parts_of
    from rumor.host.run import become_s6, prepare
    from rumor.names import parse_member_name

    # As a container's first process it would not even hear that it is to stop: there is nothing to stop yet. Until here
    # it has not; the images begin with a shell that has.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    log.configure(level=log_level, format=log_format)
    path = file_of(file)
    config = load(path, environ=os.environ, overrides=overrides_of(settings))
    try:
        name = parse_member_name(node or socket.gethostname().partition(".")[0])
    except PeerError as error:
        raise ConfigError(f"{error}: set RUMOR_NODE, or give the host another name") from error
    played = parts_of(parts, os.environ, config.services)
    # An app runs where its image says, or where it was started: WORKDIR.
    for warning in config.warnings:
        log.get_logger("config").warning("not_acted_on", text=warning)
    plan = Node(name, played, path.absolute() if path else None, data_of(data, path), settings, Path.cwd())
    asyncio.run(prepare(config, plan, scan_directory.absolute(), os.environ))
    if not only_prepare:
        become_s6(scan_directory.absolute())
