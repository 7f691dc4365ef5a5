"""s6: programs -> the scan directory that s6-svscan supervises."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rumor.supervise.base import Program

Files = Mapping[str, tuple[str, int]]
"""Texts and modes by path, relative to the scan directory."""

_FOREVER_MS = 10_000


def render_scan_directory(programs: Sequence[Program], scan_directory: Path) -> Files:
    files: dict[str, tuple[str, int]] = {}
    for program in programs:
        files |= {f"{program.name}/{name}": entry for name, entry in _service(program).items()}
    files[".s6-svscan/SIGTERM"] = _stop_script(programs, scan_directory), 0o755
    files[".s6-svscan/finish"] = "#!/bin/sh\nexit 0\n", 0o755
    return files


def write_scan_directory(path: Path, files: Files) -> None:
    for name, (text, mode) in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        target.chmod(mode)


def _service(program: Program) -> dict[str, tuple[str, int]]:
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(program.environment.items()))
    run = (
        f"#!/bin/sh\nexec 2>&1\ncd {shlex.quote(str(program.directory))} || exit 1\n{exports}"
        f"exec {shlex.join(program.command)}\n"
    )
    log = f"#!/bin/sh\nexec s6-log -b n3 s1000000 1 T {shlex.quote(str(program.log.with_suffix('')))}\n"
    return {
        "run": (run, 0o755),
        "timeout-kill": (f"{round(program.stop_wait * 1000)}\n", 0o644),
        "log/run": (log, 0o755),
    }


def _stop_script(programs: Sequence[Program], scan_directory: Path) -> str:
    lines = ["#!/bin/sh", f"cd {shlex.quote(str(scan_directory))} || exit 1"]
    ordered = sorted(programs, key=lambda program: -program.priority)
    for _, group in itertools.groupby(ordered, key=lambda program: program.priority):
        members = list(group)
        lines += [f"s6-svc -d {shlex.quote(program.name)}" for program in members]
        for program in members:
            lines.append(f"s6-svwait -D -t {round(program.stop_wait * 1000) + 1000} {shlex.quote(program.name)}")
    lines.append("exec s6-svscanctl -t .")
    return "\n".join(lines) + "\n"
