"""Install one node under systemd: units, variables, user, data directory. What is to be done is a value first."""

import asyncio
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rumor.agent.first_config import write_first_config
from rumor.atomic_file import write_atomically
from rumor.config import Config
from rumor.errors import ConfigError, Refused
from rumor.host.plan import BALANCER, Node, Tools, make_programs
from rumor.host.run import node_of, origin_of, tools_of
from rumor.places import Places, places, run_directory
from rumor.supervise.base import AGENTS, HAPROXY, Program
from rumor.supervise.inventory import Inventory, changing, format_inventory
from rumor.supervise.systemd_text import (
    ENVIRONMENT,
    INVENTORY,
    TARGET,
    UNITS,
    USER,
    environment_file,
    render_files,
    unit_name,
)

OLDEST_SYSTEMD = 240
"""The first that says of a unit that starts whether its program could be run."""
_DEADLINE = 60.0
_LOW_PORTS = 1024
_HOMES = ("/home", "/root")


@dataclass(frozen=True, slots=True)
class File:
    """One file to be written."""

    path: Path
    text: str
    mode: int
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Installation:
    """What an installation consists of."""

    node: Node
    haproxy: Path | None
    programs: tuple[Program, ...]
    files: tuple[File, ...]
    commands: tuple[tuple[str, ...], ...]
    """What is run when the files are in their places."""


def plan_installation(config: Config, node: Node, environ: Mapping[str, str]) -> Installation:
    """Lay out the units of a node.

    Raises:
        ConfigError: a command cannot be run, or the data directory lies too deep for sockets.
    """
    if run_directory(node.data) != node.data:
        raise ConfigError(f"{node.data} is too long a path for sockets: choose a shorter --data")
    tools = _tools(node, environ)
    programs = _programs(config, node, tools)
    # Variables first: units name their files.
    files = [
        File(path, text, mode, is_secret=path.parent == ENVIRONMENT)
        for path, (text, mode) in sorted(render_files(programs, tools.python).items())
    ]
    files.append(File(INVENTORY, format_inventory(Inventory(programs, origin_of(node))), 0o600, is_secret=True))
    commands = (("systemctl", "daemon-reload"), ("systemctl", "enable", TARGET), ("systemctl", "start", TARGET))
    return Installation(node, tools.haproxy, programs, tuple(files), commands)


def plan_again(config: Config, inventory: Inventory, environ: Mapping[str, str]) -> tuple[Program, ...]:
    """Return the programs that a host's node is to run by the present configuration.

    Raises:
        ConfigError: a command cannot be run.
    """
    node = node_of(inventory)
    return _programs(config, node, _tools(node, environ))


def _tools(node: Node, environ: Mapping[str, str]) -> Tools:
    # systemd starts each program as whom it likes.
    return replace(tools_of(node.parts, environ), own_user=USER, is_root=True)


def _programs(config: Config, node: Node, tools: Tools) -> tuple[Program, ...]:
    """Return a node's programs, and what of the host each needs."""
    templates = tuple(dict.fromkeys(template.destination.parent for template in config.templates))
    binds = [*config.balancer.binds, *(config.balancer.tls.binds if config.balancer.tls else ())]
    writes = {AGENTS: (node.data, *templates), HAPROXY: (node.data,)}
    is_low = any(0 < bind.port < _LOW_PORTS for bind in binds)
    return tuple(
        replace(
            program,
            writes=writes.get(program.group, ()),
            binds_low_ports=is_low and program.group == HAPROXY,
            reads_homes=_reads_homes(program),
        )
        for program in make_programs(config, node, tools)
    )


def _reads_homes(program: Program) -> bool:
    paths = [Path(word) for word in (*program.command, str(program.directory)) if word.startswith("/")]
    # An interpreter's name may lead into a home.
    return any(place.is_relative_to(home) for path in paths for place in (path, path.resolve()) for home in _HOMES)


def require_systemd(environ: Mapping[str, str]) -> None:
    """Look whether this host has a systemd that can do what the units ask.

    Raises:
        ConfigError: it has none, or an old one.
    """
    try:
        done = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, timeout=10, check=False, env=dict(environ)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError("there is no systemd on this host: systemctl cannot be run") from error
    found = re.match(r"systemd (\d+)", done.stdout)
    if found is None:
        raise ConfigError(f"systemctl --version says {done.stdout[:80]!r}, and no version")
    if int(found[1]) < OLDEST_SYSTEMD:
        raise ConfigError(f"this host's systemd is {found[1]}, and {OLDEST_SYSTEMD} is the oldest that will do")


async def apply_installation(config: Config, installation: Installation, *, say: Callable[[str], None]) -> None:
    """Make the user and the directories, write the files, start the target.

    Raises:
        ConfigError: this is not root, or something cannot be written.
        Refused: a command failed; its words are in the text.
    """
    if os.geteuid() != 0:
        raise ConfigError("only root can install units: sudo rumor install --systemd --apply, or look with --dry-run")
    closed = _closed_to_others(Path(installation.programs[0].command[0]))
    if closed is not None:
        raise ConfigError(
            f"the user {USER} cannot enter {closed}: install rumor where all can read it, as in /opt/rumor"
        )
    node = installation.node
    place = places(node.data, node.name)
    await asyncio.to_thread(_make_user, node.data, say)
    await asyncio.to_thread(_make_directories, place)
    if BALANCER in node.parts and installation.haproxy is not None and not place.haproxy_config.exists():
        await write_first_config(config, place, installation.haproxy)
    INVENTORY.parent.mkdir(parents=True, exist_ok=True)
    # Whatever root's umask: all may know that something is installed, root alone what.
    INVENTORY.parent.chmod(0o755)
    async with changing(INVENTORY):
        await asyncio.to_thread(_write_and_start, installation, place, say)


def _make_user(home: Path, say: Callable[[str], None]) -> None:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        say(f"making the user {USER}")
        _run("useradd", "--system", "--home-dir", str(home), "--shell", "/usr/sbin/nologin", "--user-group", USER)


def _make_directories(place: Places) -> None:
    # Not as an agent would: what is there belongs to the user of an earlier installation.
    for directory in (place.directory, place.logs, place.exits):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _write_and_start(installation: Installation, place: Places, say: Callable[[str], None]) -> None:
    owner = pwd.getpwnam(USER)
    for path in (installation.node.data, place.directory, *place.directory.rglob("*")):
        os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    wanted = {file.path for file in installation.files}
    for stale in sorted(set(UNITS.glob("rumor-*.service")) - wanted):
        say(f"removing {stale}, of an earlier installation")
        _run("systemctl", "stop", stale.name)
        for path in (stale, environment_file(stale.stem.removeprefix("rumor-"))):
            path.unlink(missing_ok=True)
    changed = [file for file in installation.files if not _holds(file)]
    for file in changed:
        say(f"writing {file.path}")
        _write(file)
    for command in installation.commands:
        say(" ".join(command))
        _run(*command)
    # What runs as it should is left alone: HAProxy goes on when an agent's unit changes.
    units = sorted({unit for file in changed if (unit := _unit_of(file.path))})
    if units:
        say(f"systemctl try-restart {' '.join(units)}")
        _run("systemctl", "try-restart", *units)


def _unit_of(path: Path) -> str:
    """Return the unit that a file says something of, empty for none."""
    if path.parent == ENVIRONMENT:
        return unit_name(path.stem)
    return path.name if path.suffix == ".service" else ""


def _closed_to_others(program: Path) -> Path | None:
    """Return the directory above a program that others cannot enter, None if they can enter all."""
    for path in (program, program.resolve()):
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & 0o001:
                return parent
    return None


def _holds(file: File) -> bool:
    try:
        return file.path.read_text(encoding="utf-8") == file.text
    except (OSError, UnicodeDecodeError):
        return False


def _write(file: File) -> None:
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file.path, file.text, mode=file.mode)
    except OSError as error:
        raise ConfigError(f"cannot write {file.path}: {error.strerror}") from error


def _run(*command: str) -> None:
    program = shutil.which(command[0])
    if program is None:
        raise ConfigError(f"{command[0]} is not on this host")
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=_DEADLINE, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Refused(f"{' '.join(command)} did not end within {_DEADLINE:g} s") from error
    if done.returncode:
        raise Refused(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[:500]}")
