"""Programs -> systemd units. Nothing here acts.

One target holds them together: `systemctl stop rumor.target` stops them in their order, since systemd stops units in
the reverse of the order in which they start. Everybody can read unit files, so variables go into files of their own.
Facts: systemd.service(5), systemd.exec(5), systemd.syntax(7); RestartSteps came with systemd 254.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rumor.supervise.backoff import FIRST_PAUSE
from rumor.supervise.base import AGENTS, HAPROXY, Program

TARGET = "rumor.target"
USER = "rumor"
_GROWING_PAUSES_SINCE = 254
_OPEN_FILES = 65_536
_ODD = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Host:
    """What the units need to know of the host."""

    systemd: int
    """Its systemd's version."""
    data: Path
    """The data directory; systemd makes it, for the user `rumor`."""
    environment_files: Path
    """The directory of the programs' variables."""
    writable: tuple[Path, ...] = ()
    """Directories that an agent writes besides: those of its templates' destinations."""
    binds_low_ports: bool = False
    """Whether HAProxy serves a port below 1024."""
    reads_homes: bool = False
    """Whether a program lies in somebody's home directory."""


def unit_name(program: Program) -> str:
    return f"rumor-{program.name}.service"


def render_units(programs: Sequence[Program], host: Host) -> Mapping[str, str]:
    """Return the texts of all units by their names, the target's among them."""
    units = {unit_name(program): _service(program, programs, host) for program in programs}
    lines = ["[Unit]", "Description=rumor: all programs of this node", f"Wants={' '.join(sorted(units))}"]
    lines += ["", "[Install]", "WantedBy=multi-user.target"]
    return {**units, TARGET: "\n".join(lines) + "\n"}


def render_environment(program: Program) -> str:
    """Return the file of a program's variables, as EnvironmentFile= reads it."""
    return "".join(f"{name}={_quoted(value)}\n" for name, value in sorted(program.environment.items()))


def environment_file(program: Program, host: Host) -> Path:
    return host.environment_files / f"{program.name}.env"


def _service(program: Program, programs: Sequence[Program], host: Host) -> str:
    # What stops before us starts after us.
    after = [unit_name(other) for other in programs if other.priority < program.priority]
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
        f"Group={program.user or USER}",
        *([f"EnvironmentFile={_path(environment_file(program, host))}"] if program.environment else []),
        *([f"UnsetEnvironment={' '.join(program.forgets)}"] if program.forgets else []),
        f"KillSignal=SIG{program.stop_signal}",
        # The program alone is asked; what it has left behind is killed with its group of processes.
        "KillMode=mixed",
        f"TimeoutStopSec={program.stop_wait:g}",
        *_restart(program, host),
        *_hardening(program, host),
        "",
        "[Install]",
        f"WantedBy={TARGET}",
    ]
    return "\n".join(lines) + "\n"


def _restart(program: Program, host: Host) -> list[str]:
    lines = ["Restart=always", f"RestartSec={FIRST_PAUSE:g}"]
    if program.longest_pause > FIRST_PAUSE and host.systemd >= _GROWING_PAUSES_SINCE:
        lines += ["RestartSteps=5", f"RestartMaxDelaySec={program.longest_pause:g}"]
    return lines


def _hardening(program: Program, host: Host) -> list[str]:
    is_ours = program.group in (AGENTS, HAPROXY)
    binds_low = program.group == HAPROXY and host.binds_low_ports
    lines = [
        "NoNewPrivileges=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "ProtectControlGroups=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "RestrictSUIDSGID=yes",
        "RestrictRealtime=yes",
        "LockPersonality=yes",
        f"ProtectHome={'read-only' if host.reads_homes else 'yes'}",
        f"ProtectSystem={'strict' if is_ours else 'full'}",
        f"CapabilityBoundingSet={'CAP_NET_BIND_SERVICE' if binds_low else ''}",
    ]
    if binds_low:
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
            f"ReadWritePaths={' '.join(_path(path) for path in (host.data, *_writable(program, host)))}",
        ]
    return lines


def _writable(program: Program, host: Host) -> tuple[Path, ...]:
    return host.writable if program.group == AGENTS else ()


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
