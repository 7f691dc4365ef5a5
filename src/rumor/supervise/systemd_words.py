"""What systemd says, as values: answers of `systemctl`, and what it tells a command about an end.

Facts: org.freedesktop.systemd1(5) for the properties; systemd.exec(5), $EXIT_CODE and $EXIT_STATUS; systemctl(1).
"""

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from rumor.errors import Refused
from rumor.model import Instant, Seconds
from rumor.supervise.base import ProgramState

_ASKS = frozenset({"stop", "restart", "try-restart"})
_REAL_TIME = re.compile(r"RTMIN(?:\+(\d{1,2}))?", re.ASCII)
_STATUS = re.compile(r"\d{1,3}", re.ASCII)
_NUMBER = re.compile(r"\d{1,20}", re.ASCII)
_MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit's properties."""

    name: str
    load: str
    active: str
    sub: str
    result: str
    restart: str
    """What `Restart=` says."""
    pid: int | None
    restarts: int
    """How often it was started again by systemd since it was started by anybody else."""
    changed: Instant | None
    """When it came into its state, on the machine's monotonic clock."""
    ran: Seconds
    """For how long its main process ran before its last end."""


_KEYS = (
    "Id", "LoadState", "ActiveState", "SubState", "Result", "Restart", "MainPID", "NRestarts",
    "StateChangeTimestampMonotonic", "ExecMainStartTimestampMonotonic", "ExecMainExitTimestampMonotonic",
)  # fmt: skip
PROPERTIES = ",".join(_KEYS)
"""What `systemctl show --property=` is to be asked for."""


def parse_units(text: str) -> dict[str, Unit]:
    """Return what `systemctl show` says of units, by their names.

    Raises:
        Refused: it does not say all that it was asked for.
    """
    units = [_unit(block) for block in text.strip().split("\n\n") if block]
    return {unit.name: unit for unit in units}


def _unit(block: str) -> Unit:
    said: dict[str, str] = {}
    for line in block.split("\n"):
        key, equals, value = line.partition("=")
        if not equals or key not in _KEYS or key in said:
            raise Refused(f"systemctl show says what it was not asked for: {line[:80]!a}")
        said[key] = value
    missing = [key for key in _KEYS if key not in said]
    if missing:
        raise Refused(f"systemctl show says nothing of {', '.join(missing)}: is this systemd older than 240?")
    began, ended, changed = (
        _number(said, f"{key}TimestampMonotonic") / _MICROSECONDS
        for key in ("ExecMainStart", "ExecMainExit", "StateChange")
    )
    return Unit(
        name=said["Id"],
        load=said["LoadState"],
        active=said["ActiveState"],
        sub=said["SubState"],
        result=said["Result"],
        restart=said["Restart"],
        pid=_number(said, "MainPID") or None,
        restarts=_number(said, "NRestarts"),
        changed=Instant(changed) if changed else None,
        ran=Seconds(max(0.0, ended - began)),
    )


def _number(said: Mapping[str, str], key: str) -> int:
    if not _NUMBER.fullmatch(said[key]):
        raise Refused(f"systemctl show says {key}={said[key][:40]!a}, and no number")
    return int(said[key])


def state_of(unit: Unit) -> tuple[ProgramState, str]:
    """Return a unit's state in rumor's words, and where it will not be started again, why."""
    if unit.load != "loaded":
        return ProgramState.FATAL, f"systemd has not loaded {unit.name}: {unit.load}"
    match unit.active:
        case "active" | "reloading" | "refreshing":
            return ProgramState.RUNNING, ""
        case "activating":
            # auto-restart-queued, too, since systemd 254.
            return (ProgramState.BACKOFF if unit.sub.startswith("auto-restart") else ProgramState.STARTING), ""
        case "deactivating":
            return ProgramState.STOPPING, ""
        case "inactive":
            return ProgramState.STOPPED, ""
        case "failed" if unit.restart == "always" and unit.result != "start-limit-hit":
            # What is always started again was asked to end, and did not end well.
            return ProgramState.STOPPED, ""
        case _:
            return ProgramState.FATAL, f"systemd has given {unit.name} up: {unit.result}"


def parse_asked(text: str, unit: str) -> bool:
    """Say whether one of the jobs that `systemctl list-jobs` lists asks a unit to end."""
    jobs = [line.split() for line in text.splitlines()]
    return any(job[1] == unit and job[2] in _ASKS for job in jobs if len(job) == 4)


def parse_end(environ: Mapping[str, str]) -> tuple[int | None, int | None] | None:
    """Return the status and the signal with which a main process ended, as `ExecStopPost=` is told; None for none."""
    code, status = environ.get("EXIT_CODE", ""), environ.get("EXIT_STATUS", "")
    if code == "exited" and _STATUS.fullmatch(status):
        return int(status), None
    if code in ("killed", "dumped"):
        real_time = _REAL_TIME.fullmatch(status)
        if real_time:
            return None, signal.SIGRTMIN + int(real_time[1] or 0)
        return None, getattr(signal.Signals, f"SIG{status}", 0)
    return None
