"""What can be done to a running HAProxy, step by step, each as a value."""

from dataclasses import dataclass

from rumor.haproxy.config_text import ServerKey
from rumor.names import HostPort


@dataclass(frozen=True, slots=True)
class AddServer:
    """Add a server, drained, with its check on."""

    key: ServerKey
    address: HostPort
    weight: int
    keywords: str
    """All of them, those of `default-server` too: HAProxy applies none to servers added at run time."""
    default_keywords: str = ""
    has_check: bool = True


@dataclass(frozen=True, slots=True)
class ReadyServer:
    key: ServerKey


@dataclass(frozen=True, slots=True)
class MoveServer:
    """Give a server another address; requests that run go on where they are."""

    key: ServerKey
    address: HostPort


@dataclass(frozen=True, slots=True)
class ProbeServer:
    """Ask a server ourselves, since HAProxy's first check may be a whole interval away; if it is well, do `then`."""

    key: ServerKey
    address: HostPort
    then: ReadyServer | MoveServer


@dataclass(frozen=True, slots=True)
class DrainServer:
    key: ServerKey
    enables_check: bool = False
    """From maintenance: a server just added has its check still off."""


@dataclass(frozen=True, slots=True)
class MaintServer:
    key: ServerKey


@dataclass(frozen=True, slots=True)
class WeightServer:
    key: ServerKey
    weight: int


@dataclass(frozen=True, slots=True)
class RequeueServer:
    """Put a server that HAProxy passes over in its order anew: a change of weight does that, there and back."""

    key: ServerKey
    weight: int


@dataclass(frozen=True, slots=True)
class EnableCheck:
    """Switch a check on again that somebody switched off."""

    key: ServerKey


@dataclass(frozen=True, slots=True)
class LimitServer:
    """Let a server have so many requests at once again; 0 for any number."""

    key: ServerKey
    limit: int


@dataclass(frozen=True, slots=True)
class RemoveServer:
    """Delete a drained server; `cuts_sessions` at the end of its drain time."""

    key: ServerKey
    cuts_sessions: bool


@dataclass(frozen=True, slots=True)
class EnableFrontend:
    """Let a frontend listen again that somebody paused; one that was shut down comes back by a reload only."""

    name: str


@dataclass(frozen=True, slots=True)
class LimitFrontend:
    """Let a frontend have so many connections at once again."""

    name: str
    limit: int


FrontendStep = EnableFrontend | LimitFrontend
ServerStep = (
    AddServer
    | ReadyServer
    | MoveServer
    | EnableCheck
    | WeightServer
    | RequeueServer
    | DrainServer
    | MaintServer
    | LimitServer
    | RemoveServer
    | ProbeServer
)
Step = ServerStep | FrontendStep
