"""What rumor asks of a supervisor, whichever it is: seven verbs, and the program as a value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from rumor.model import Seconds
from rumor.supervise.backoff import LONGEST_PAUSE
from rumor.supervise.exits import Exit


class ProgramState(Enum):
    """A supervised program's state, in supervisord's words."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    EXITED = "exited"
    FATAL = "fatal"


AGENTS, APPS, HAPROXY, PROGRAMS = "agents", "apps", "haproxy", "programs"
ENDED = frozenset({ProgramState.STOPPED, ProgramState.EXITED, ProgramState.FATAL})
AILING = frozenset({ProgramState.BACKOFF, ProgramState.EXITED, ProgramState.FATAL})
"""States that nobody asked for."""


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process: the description that every supervisor's own form is rendered from."""

    name: str
    group: str
    """What kind of program it is: agents, apps, haproxy, programs."""
    command: tuple[str, ...]
    directory: Path
    log: Path
    """Where its log is; under systemd, whose journal has that, the last it wrote before its last unwanted end."""
    exits: Path
    """The directory in which its last unwanted end is kept, see `exits.py`."""
    node: str = ""
    """Whose program it is, where one supervisor has those of several nodes."""
    environment: Mapping[str, str] = field(default_factory=dict)
    forgets: tuple[str, ...] = ()
    """Variables of its supervisor's that it must not see: secrets."""
    user: str = ""
    """Whom it runs as; empty for the supervisor's own user."""
    stop_signal: str = "TERM"
    stop_wait: Seconds = Seconds(10.0)
    """How long it may take to end by itself before it is killed."""
    notifies: bool = False
    """Whether it says itself when it is ready (`notify.py`); one that does not is ready as soon as it runs."""
    longest_pause: Seconds = LONGEST_PAUSE
    """To what the pauses grow between its restarts when it keeps falling; 0 for none but the supervisor's own."""
    priority: int = 500
    """Programs of a higher priority are stopped first."""
    autostart: bool = True
    writes: tuple[Path, ...] = ()
    """The directories it writes, where its supervisor can keep it from all others."""
    binds_low_ports: bool = False
    """Whether it must be let listen below port 1024."""
    reads_homes: bool = False
    """Whether a part of it lies in somebody's home directory."""


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """What a supervisor says of one program."""

    name: str
    state: ProgramState
    pid: int | None
    since: Seconds | None = None
    """For how long it has been in this state, where the supervisor knows."""
    last_exit: Exit | None = None
    """Its last end that nobody asked for."""
    words: str = ""
    """Why it could not even be started."""


class Supervisor(Protocol):
    """Keeps processes alive; each call has its own deadline."""

    async def programs(self) -> tuple[Program, ...]:
        """Return what is supervised."""

    async def states(self) -> tuple[ProgramStatus, ...]:
        """Return every program's state, in order of the names."""

    async def start(self, names: Sequence[str]) -> None:
        """Start programs, without waiting until they run; one that runs already is no error."""

    async def stop(self, names: Sequence[str]) -> None:
        """Ask programs to stop, all at once, without waiting until they have; one that is stopped is no error."""

    async def add(self, programs: Sequence[Program]) -> None:
        """Supervise more programs, and start those that start by themselves."""

    async def remove(self, names: Sequence[str]) -> None:
        """Forget programs that have been stopped."""

    async def shut_down(self) -> None:
        """Stop everything in order, and end."""
