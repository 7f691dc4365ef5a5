"""Be a container's first process: lay its programs out for s6, and become s6-svscan."""

import getpass
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from rumor.agent.first_config import write_first_config
from rumor.config import Config
from rumor.errors import ConfigError
from rumor.host.plan import BALANCER, Node, Tools, make_programs
from rumor.places import places
from rumor.render.publish import find_haproxy
from rumor.supervise.base import Program
from rumor.supervise.inventory import Inventory
from rumor.supervise.s6 import write_scan_directory


def tools_of(parts: tuple[str, ...], environ: Mapping[str, str]) -> Tools:
    """Return what there is here.

    Raises:
        ConfigError: a balancer is to be played, and there is no HAProxy.
    """
    haproxy = find_haproxy(environ).path if BALANCER in parts else None
    is_root = os.geteuid() == 0
    return Tools(sys.executable, haproxy, lambda name: shutil.which(name, path=environ.get("PATH")), _user(), is_root)


def plan_again(config: Config, inventory: Inventory, environ: Mapping[str, str]) -> tuple[Program, ...]:
    """Return the programs that a scan directory's node is to run by the present configuration.

    Raises:
        ConfigError: something is missing in the image or in what it was told.
    """
    node = node_of(inventory)
    return make_programs(config, node, tools_of(node.parts, environ))


def node_of(inventory: Inventory) -> Node:
    origin = inventory.origin
    file = Path(origin["file"]) if origin["file"] else None
    return Node(
        origin["node"], tuple(origin["parts"]), file, Path(origin["data"]), tuple(origin["settings"]),
        Path(origin["app_directory"]),
    )  # fmt: skip


def origin_of(node: Node) -> dict[str, object]:
    """Return what `node_of` makes the node from again."""
    return {
        "file": str(node.file) if node.file else "",
        "node": node.name,
        "parts": list(node.parts),
        "data": str(node.data),
        "settings": list(node.settings),
        "app_directory": str(node.app_directory or places(node.data, node.name).directory),
    }


async def prepare(config: Config, node: Node, scan_directory: Path, environ: Mapping[str, str]) -> None:
    """Write the scan directory, and where this node is a balancer HAProxy's first configuration.

    Raises:
        ConfigError: something is missing in the image or in what it was told.
        Refused: HAProxy would not load its configuration.
    """
    place = places(node.data, node.name)
    place.make()
    for directory in (place.logs, place.exits):
        directory.mkdir(exist_ok=True)
    tools = tools_of(node.parts, environ)
    programs = make_programs(config, node, tools)
    if tools.haproxy is not None and not place.haproxy_config.exists():
        # One that an earlier run of this container has left is newer than any we could write.
        await write_first_config(config, place, tools.haproxy)
    shutil.rmtree(scan_directory, ignore_errors=True)
    try:
        write_scan_directory(Inventory(programs, origin_of(node)), scan_directory)
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


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a number that no name belongs to.
        return str(os.geteuid())
