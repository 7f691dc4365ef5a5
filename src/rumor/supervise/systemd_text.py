"""Programs -> systemd units. Nothing here acts.

One target holds them together: `systemctl stop rumor.target` stops them in their order, since systemd stops units in
the reverse of the order in which they start. Everybody can read unit files, so variables go into files of their own.
Pauses that grow, and how a program ended, are `systemd_end.py`'s business, which runs after each end.
Facts: systemd.service(5), systemd.exec(5), systemd.syntax(7).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rumor.supervise.backoff import FIRST_PAUSE
from rumor.supervise.base import AGENTS, HAPROXY, Program

TARGET = "rumor.target"
USER = "rumor"
UNITS = Path("/etc/systemd/system")
ENVIRONMENT = Path("/etc/rumor/environment")
"""The directory of the programs' variables."""
INVENTORY = Path("/etc/rumor/programs.json")
_RUNTIME_UNITS = Path("/run/systemd/system")
_OPEN_FILES = 65_536
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - nothing is written there
_SHORTEST_STOP = 1.0
"""What notes the end has as long, too."""
_ODD = re.compile(r"[\x00-\x1f\x7f]")

Files = Mapping[Path, tuple[str, int]]
"""Texts and modes by path."""


def unit_name(name: str) -> str:
    """Return the name of a program's unit."""
    return f"rumor-{name}.service"


def unit_file(name: str) -> Path:
    return UNITS / unit_name(name)


def environment_file(name: str) -> Path:
    return ENVIRONMENT / f"{name}.env"


def pause_file(name: str) -> Path:
    """Return where a program's unit gets a pause longer than the first one; the next boot knows nothing of it."""
    return _RUNTIME_UNITS / f"{unit_name(name)}.d" / "rumor-pause.conf"


def render_files(programs: Sequence[Program], python: str) -> Files:
    """Return all units, the target among them, and the files of variables.

    Args:
        programs: all that one host supervises.
        python: the interpreter that has rumor.
    """
    files = {unit_file(program.name): (_service(program, programs, python), 0o644) for program in programs}
    files |= {
        environment_file(program.name): (_environment(program), 0o600) for program in programs if program.environment
    }
    return {**files, UNITS / TARGET: (_target(programs), 0o644)}


def render_pause(pause: float) -> str:
    return f"[Service]\nRestartSec={pause:g}\n"


def _target(programs: Sequence[Program]) -> str:
    wanted = sorted(unit_name(program.name) for program in programs if program.autostart)
    lines = ["[Unit]", "Description=rumor: all programs of this node", f"Wants={' '.join(wanted)}"]
    lines += ["", "[Install]", "WantedBy=multi-user.target"]
    return "\n".join(lines) + "\n"


def _environment(program: Program) -> str:
    """Return the file of a program's variables, as EnvironmentFile= reads it."""
    return "".join(f"{name}={_quoted(value)}\n" for name, value in sorted(program.environment.items()))


def _service(program: Program, programs: Sequence[Program], python: str) -> str:
    # What stops before us starts after us.
    after = [unit_name(other.name) for other in programs if other.priority < program.priority]
    lines = [
        "[Unit]",
        f"Description=rumor: {program.name} of {program.node}",
        "Documentation=man:systemd.service(5)",
        f"PartOf={TARGET}",
        f"After={' '.join(['network-online.target', *sorted(after)])}",
        "Wants=network-online.target",
        # It is never given up.
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        f"Type={'notify' if program.notifies else 'exec'}",
        f"ExecStart={' '.join(_word(word) for word in program.command)}",
        f"WorkingDirectory={_path(program.directory)}",
        f"User={program.user or USER}",
        *([f"EnvironmentFile={_path(environment_file(program.name))}"] if program.environment else []),
        *([f"UnsetEnvironment={' '.join(program.forgets)}"] if program.forgets else []),
        f"KillSignal=SIG{program.stop_signal}",
        # The program alone is asked; what it has left behind is killed with its group of processes.
        "KillMode=mixed",
        f"TimeoutStopSec={max(_SHORTEST_STOP, program.stop_wait):g}",
        "Restart=always",
        f"RestartSec={FIRST_PAUSE:g}",
        # As root: it asks the journal, and the directory that it writes may be another user's.
        f"ExecStopPost=-+{' '.join(_word(word) for word in _note_end(program, python))}",
        *_hardening(program),
    ]
    return "\n".join(lines) + "\n"


def _note_end(program: Program, python: str) -> Sequence[str]:
    paths = (str(program.exits), str(program.log))
    return (python, "-I", "-m", "rumor.supervise.systemd_end", program.name, *paths, f"{program.longest_pause:g}")


def _hardening(program: Program) -> list[str]:
    is_ours = program.group in (AGENTS, HAPROXY)
    lines = [
        "NoNewPrivileges=yes",
        f"PrivateTmp={'no' if _lies_in_tmp(program) else 'yes'}",
        "PrivateDevices=yes",
        "ProtectControlGroups=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "RestrictSUIDSGID=yes",
        "RestrictRealtime=yes",
        "LockPersonality=yes",
        f"ProtectHome={'read-only' if program.reads_homes else 'yes'}",
        f"ProtectSystem={'strict' if is_ours else 'full'}",
        f"CapabilityBoundingSet={'CAP_NET_BIND_SERVICE' if program.binds_low_ports else ''}",
    ]
    if program.binds_low_ports:
        lines.append("AmbientCapabilities=CAP_NET_BIND_SERVICE")
    if is_ours:
        lines += [
            "UMask=0077",
            f"LimitNOFILE={_OPEN_FILES}",
            "ProtectClock=yes",
            "ProtectHostname=yes",
            "ProtectKernelLogs=yes",
            "RestrictNamespaces=yes",
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
            "SystemCallArchitectures=native",
            "SystemCallFilter=@system-service",
            f"ReadWritePaths={' '.join(map(_path, program.writes))}",
        ]
    return lines


def _lies_in_tmp(program: Program) -> bool:
    """Say whether a program would not be found with a /tmp of its own."""
    paths = [program.directory, *(Path(word) for word in program.command)]
    return any(path.is_relative_to(place) for path in paths for place in _TEMPORARY)


def _word(word: str) -> str:
    """Return one word of a command line, as systemd.syntax(7) reads it."""
    return _quoted(word).replace("%", "%%").replace("$", "$$")


def _path(path: Path) -> str:
    return str(path).replace("%", "%%").replace(" ", "\\x20")


def _quoted(text: str) -> str:
    """Return a text in double quotes, with all that would end or change it escaped."""
    if text and not set(text) & set(" \t\"'\\#;\n") and not _ODD.search(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_ODD.sub(lambda found: f"{chr(92)}x{ord(found[0]):02x}", escaped)}"'
