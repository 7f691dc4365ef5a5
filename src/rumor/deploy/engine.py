"""What a rolling restart and a deploy need of whoever runs instances of a service."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from rumor.names import ServiceName


@dataclass(frozen=True, slots=True)
class Instance:
    """One running instance: a member that offers the service."""

    name: str
    """The member's name, which is its server's name in the balancer's table."""
    id: str
    """The engine's own word for it: a container's id, a node of a local cluster."""
    what: str
    """What it runs: an image or a command."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What new instances are to run; what is empty stays as it was."""

    command: str = ""
    image: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.image, self.command) if part)


class Engine(Protocol):
    """Runs instances; each call has its own deadline."""

    async def instances(self, service: ServiceName) -> tuple[Instance, ...]:
        """Return what runs now, in order of the names.

        Raises:
            Unreachable: the engine, or the balancer that knows who offers the service, does not answer.
        """

    async def elsewhere(self, service: ServiceName) -> tuple[str, ...]:
        """Return the servers of a service that this engine does not run, and so leaves as they are."""

    async def start_new(self, service: ServiceName, spec: Spec, count: int) -> tuple[Instance, ...]:
        """Start more instances, like those that run but for `spec`, without waiting until they are ready.

        Raises:
            Refused: what is asked for cannot be started; nothing was.
        """

    async def stop(self, instance: Instance) -> None:
        """Let an instance drain, leave and stop; it is gone for good when this returns."""

    async def restart(self, instance: Instance) -> None:
        """Let an instance drain, leave and stop, and start it again, without waiting until it is ready."""

    async def words(self, instance: Instance) -> str:
        """Return the last lines an instance wrote, empty if none are known."""


InRotation = Callable[[ServiceName], Awaitable[frozenset[str]]]
"""Returns the servers of a service that are ready and well by HAProxy's check, at every balancer."""
Say = Callable[[str], None]
"""Takes one line of progress."""
