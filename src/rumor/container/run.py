"""Be a container's first process: lay its programs out for s6, and become s6-svscan."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from rumor.agent.first_config import write_first_config
from rumor.config import Config
from rumor.container.plan import BALANCER, Node, Tools, make_programs
from rumor.errors import ConfigError
from rumor.places import places
from rumor.render.publish import find_haproxy
from rumor.supervise.s6 import render_scan_directory, write_scan_directory


async def prepare(config: Config, node: Node, scan_directory: Path, environ: Mapping[str, str]) -> None:
    """Write the scan directory, and where this node is a balancer HAProxy's first configuration.

    Raises:
        ConfigError: something is missing in the image or in what it was told.
        Refused: HAProxy would not load its configuration.
    """
    place = places(node.data, node.name)
    place.make()
    place.logs.mkdir(exist_ok=True)
    haproxy = find_haproxy(environ).path if BALANCER in node.parts else None
    tools = Tools(sys.executable, haproxy, lambda name: shutil.which(name, path=environ.get("PATH")))
    programs = make_programs(config, node, tools)
    if haproxy is not None and not place.haproxy_config.exists():
        # One that an earlier run of this container has left is newer than any we could write.
        await write_first_config(config, place, haproxy)
    shutil.rmtree(scan_directory, ignore_errors=True)
    try:
        write_scan_directory(scan_directory, render_scan_directory(programs, scan_directory))
    except OSError as error:
        hint = "with a read-only root give it --tmpfs /run/rumor:exec,uid=900,gid=900"
        raise ConfigError(f"cannot write {scan_directory}: {error.strerror}; {hint}") from error


def become_s6(scan_directory: Path) -> None:
    """Become s6-svscan; returns never.

    Raises:
        ConfigError: there is no s6 in this image.
    """
    program = shutil.which("s6-svscan")
    if program is None:
        raise ConfigError("there is no s6-svscan on PATH: apt-get install s6")
    os.execv(program, [program, str(scan_directory)])  # noqa: S606 - it becomes the supervisor; no shell is wanted
