"""Install one node under systemd: units, variables, user, data directory. What is to be done is a value first."""

import asyncio
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rumor.agent.first_config import write_first_config
from rumor.atomic_file import write_atomically
from rumor.config import Config
from rumor.errors import ConfigError, Refused
from rumor.host.plan import BALANCER, Node, Tools, make_programs
from rumor.places import Places, places, run_directory
from rumor.supervise.base import Program
from rumor.supervise.systemd_text import (
    TARGET,
    USER,
    Host,
    environment_file,
    render_environment,
    render_units,
)

UNITS = Path("/etc/systemd/system")
_ENVIRONMENT = Path("/etc/rumor/environment")
_DEADLINE = 60.0
_LOW_PORTS = 1024


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


def plan_installation(config: Config, node: Node, tools: Tools, *, systemd: int) -> Installation:
    """Lay out the units of a node.

    Raises:
        ConfigError: a command cannot be run, or the data directory lies too deep for sockets.
    """
    if run_directory(node.data) != node.data:
        raise ConfigError(f"{node.data} is too long a path for sockets: choose a shorter --data")
    programs = make_programs(config, node, tools)
    binds = [*config.balancer.binds, *(config.balancer.tls.binds if config.balancer.tls else ())]
    host = Host(
        systemd=systemd,
        data=node.data,
        environment_files=_ENVIRONMENT,
        writable=tuple(dict.fromkeys(template.destination.parent for template in config.templates)),
        binds_low_ports=any(0 < bind.port < _LOW_PORTS for bind in binds),
        reads_homes=any(
            Path(word).is_relative_to(home) for program in programs for word in _paths(program) for home in _HOMES
        ),
    )
    files = [
        File(environment_file(program, host), render_environment(program), 0o600, is_secret=True)
        for program in programs
        if program.environment
    ]
    files += [File(UNITS / name, text, 0o644) for name, text in sorted(render_units(programs, host).items())]
    commands = (("systemctl", "daemon-reload"), ("systemctl", "enable", TARGET), ("systemctl", "start", TARGET))
    return Installation(node, tools.haproxy, programs, tuple(files), commands)


_HOMES = ("/home", "/root")


def _paths(program: Program) -> Sequence[str]:
    return [word for word in (*program.command, str(program.directory)) if word.startswith("/")]


def systemd_version(environ: Mapping[str, str]) -> int:
    """Return the version of this host's systemd.

    Raises:
        ConfigError: there is none.
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
    return int(found[1])


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
        _run("systemctl", "disable", "--now", stale.name)
        stale.unlink(missing_ok=True)
    changed = [file for file in installation.files if not _holds(file)]
    for file in changed:
        say(f"writing {file.path}")
        _write(file)
    for command in installation.commands:
        say(" ".join(command))
        _run(*command)
    # What runs as it should is left alone: HAProxy goes on when an agent's unit changes.
    units = [file.path.name for file in changed if file.path.suffix == ".service"]
    if units:
        say(f"systemctl try-restart {' '.join(units)}")
        _run("systemctl", "try-restart", *units)


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
