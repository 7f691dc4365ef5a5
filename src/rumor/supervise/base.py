"""What rumor asks of a supervisor, whichever it is: four verbs, and the program as a value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from rumor.model import Seconds


class ProgramState(Enum):
    """A supervised program's state, in supervisord's words."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    EXITED = "exited"
    FATAL = "fatal"


ENDED = frozenset({ProgramState.STOPPED, ProgramState.EXITED, ProgramState.FATAL})
AILING = frozenset({ProgramState.BACKOFF, ProgramState.EXITED, ProgramState.FATAL})
"""States that nobody asked for."""


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process."""

    name: str
    group: str
    command: tuple[str, ...]
    directory: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    stop_wait: Seconds = Seconds(10.0)
    """How long it may take to end by itself before it is killed."""
    priority: int = 500
    """Groups of a higher priority are stopped first."""
    autostart: bool = True


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """What a supervisor says of one program."""

    name: str
    state: ProgramState
    pid: int | None
    words: str = ""


class Supervisor(Protocol):
    """Keeps processes alive; each call has its own deadline."""

    async def states(self) -> tuple[ProgramStatus, ...]:
        """Return every program's state, in order of the names."""

    async def start(self, names: Sequence[str]) -> None:
        """Start programs, without waiting until they run; one that runs already is no error."""

    async def stop(self, names: Sequence[str]) -> None:
        """Ask programs to stop, all at once, without waiting until they have; one that is stopped is no error."""

    async def shut_down(self) -> None:
        """Stop everything in order, and end."""
