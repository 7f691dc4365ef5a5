"""Programs -> the scan directory that s6-svscan supervises. Nothing here acts.

s6 itself pauses a second between two starts, ever the same; pauses that grow are made here: `finish` counts the ends
that nobody asked for, and `run` waits before it becomes the program. So a TERM ends a pause as it ends the program.
Facts: s6's servicedir(7) and s6-svscan(8); `finish` is cut at five seconds, and what it must do takes milliseconds.
"""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rumor.supervise.backoff import FORGIVEN_AFTER
from rumor.supervise.base import Program
from rumor.supervise.notify import FD_VARIABLE

Files = Mapping[str, tuple[str, int]]
"""Texts and modes by path, relative to the scan directory."""
PAUSING = "pausing"
"""In the service's directory while `run` waits before it starts the program."""
PAUSE, FAILURES = "pause", "failures"
INVENTORY = ".rumor-programs.json"
STOP_SIGNALS = ("TERM", "INT", "QUIT")
"""Each stops in order: left to itself, s6-svscan would tell all programs in one moment."""
_NOTIFY_FD = 3
_FAILURES_LIMIT = 16


def render_scan_directory(programs: Sequence[Program], scan_directory: Path) -> Files:
    files: dict[str, tuple[str, int]] = {}
    for program in programs:
        files |= render_service(program)
    return {**files, **render_own_files(programs, scan_directory)}


def render_own_files(programs: Sequence[Program], scan_directory: Path) -> Files:
    """Return what tells s6-svscan how to stop: these programs in their order, then itself."""
    return {
        **{stop_script(name): (_stop_script(programs, scan_directory), 0o755) for name in STOP_SIGNALS},
        ".s6-svscan/finish": ("#!/bin/sh\nexit 0\n", 0o755),
    }


def stop_script(signal: str = "TERM") -> str:
    """Return the path of what s6-svscan runs on a signal, relative to the scan directory."""
    return f".s6-svscan/SIG{signal}"


def render_service(program: Program) -> Files:
    """Return one program's service directory, and its logger's in it."""
    log = shlex.quote(str(s6_log(program)))
    files = {
        # It holds the environment, secrets among it.
        "run": (_run_script(program), 0o700),
        "finish": (_finish_script(program), 0o755),
        "timeout-kill": (f"{round(program.stop_wait * 1000)}\n", 0o644),
        "down-signal": (f"SIG{program.stop_signal}\n", 0o644),
        "log/run": (f"#!/bin/sh\nexec s6-log -b n3 s1000000 1 T {log}\n", 0o755),
    }
    if program.notifies:
        files["notification-fd"] = f"{_NOTIFY_FD}\n", 0o644
    if not program.autostart:
        files["down"] = "", 0o644
    return {f"{program.name}/{name}": entry for name, entry in files.items()}


def s6_log(program: Program) -> Path:
    """Return the directory in which s6-log keeps a program's log."""
    return program.log.with_suffix("")


def _run_script(program: Program) -> str:
    environment = dict(program.environment) | ({FD_VARIABLE: str(_NOTIFY_FD)} if program.notifies else {})
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
    becomes = f"s6-setuidgid {shlex.quote(program.user)} " if program.user else ""
    # One second of each pause is s6's own.
    waiting = 'sleep "$((pause - 1))" < /dev/null > /dev/null 2>&1 3>&-'
    lines = [
        "#!/bin/sh",
        "exec 2>&1",
        # s6-supervise gives each program a session of its own: all that it starts is of the group that it leads.
        "echo $$ > group",
        f"pause=0; [ ! -r {PAUSE} ] || read -r pause < {PAUSE}",
        # The sleep holds none of our descriptors: it may outlive a pause that was ended.
        f'if [ "$pause" -gt 1 ]; then : > {PAUSING}; {waiting}; rm -f {PAUSING}; fi',
        "date +%s > started",
        f"cd {shlex.quote(str(program.directory))} || exit 1",
        *([f"unset {' '.join(program.forgets)}"] if program.forgets else []),
        *exports,
        f"exec {becomes}{shlex.join(program.command)}",
    ]
    return "\n".join(lines) + "\n"


def _finish_script(program: Program) -> str:
    exits, name = shlex.quote(str(program.exits)), shlex.quote(program.name)
    own_log = shlex.quote(str(s6_log(program)))
    return f"""#!/bin/sh
# Arguments: the status (256 for a signal), the signal. What it started and left behind would hold its port and its log.
[ ! -r group ] || {{ read -r group < group && kill -KILL "-$group"; }} 2> /dev/null
if [ -e {PAUSING} ]; then rm -f {PAUSING}; exit 0; fi
if [ "$(s6-svstat -o wantedup .)" != true ]; then rm -f {PAUSE} {FAILURES}; exit 0; fi
now=$(date +%s)
started=$now; [ ! -r started ] || read -r started < started
failures=0; [ ! -r {FAILURES} ] || read -r failures < {FAILURES}
[ $((now - started)) -lt {FORGIVEN_AFTER:.0f} ] || failures=0
[ "$failures" -ge {_FAILURES_LIMIT} ] || failures=$((failures + 1))
pause=$((1 << (failures - 1)))
[ "$pause" -le {round(program.longest_pause)} ] || pause={round(program.longest_pause)}
echo "$failures" > {FAILURES}
echo "$pause" > {PAUSE}
mkdir -p {exits} && printf '%s %s %s %s %s %s\\n' "$now" "$1" "$2" "$failures" "$pause" {own_log} > {exits}/.{name} \\
    && mv {exits}/.{name} {exits}/{name}
exit 0
"""


def _stop_script(programs: Sequence[Program], scan_directory: Path) -> str:
    lines = ["#!/bin/sh", f"cd {shlex.quote(str(scan_directory))} || exit 1"]
    ordered = sorted(programs, key=lambda program: -program.priority)
    for _, group in itertools.groupby(ordered, key=lambda program: program.priority):
        members = list(group)
        lines += [f"s6-svc -d {shlex.quote(program.name)}" for program in members]
        for program in members:
            lines.append(f"s6-svwait -D -t {round(program.stop_wait * 1000) + 1000} {shlex.quote(program.name)}")
    # A child that went into a session of its own may hold a log open for ever: loggers are not waited for.
    logs = 'for log in */log; do s6-svc -dx "$log" 2> /dev/null; done'
    lines += ["s6-svscanctl -t .", "sleep 1", logs, "exit 0"]
    return "\n".join(lines) + "\n"
