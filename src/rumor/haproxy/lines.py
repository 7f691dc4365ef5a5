"""Steps as lines for HAProxy's command socket, and what its reply to each says of the step.

Success with nothing to say is an empty reply; text means that one must look. Facts: reference/haproxy.md, section 2.
"""

from dataclasses import dataclass
from typing import assert_never

from rumor.haproxy.config_text import ServerKey
from rumor.haproxy.steps import (
    AddServer,
    DrainServer,
    EnableCheck,
    EnableFrontend,
    LimitFrontend,
    LimitServer,
    MaintServer,
    MoveServer,
    ProbeServer,
    ReadyServer,
    RemoveServer,
    RequeueServer,
    Step,
    WeightServer,
)


@dataclass(frozen=True, slots=True)
class Done:
    """A step was carried out."""


@dataclass(frozen=True, slots=True)
class NotYet:
    """A step must be tried again: connections are still attached to the server."""


@dataclass(frozen=True, slots=True)
class NotAtRunTime:
    """HAProxy refuses this while it runs; a reload may bring it."""

    words: str


def commands(step: Step) -> tuple[str, ...]:
    """Return the commands that carry out a step, to be sent on one line; none for a probe, which is not HAProxy's."""
    if isinstance(step, ProbeServer):
        return ()
    if isinstance(step, EnableFrontend):
        return (f"enable frontend {step.name}",)
    if isinstance(step, LimitFrontend):
        return (f"set maxconn frontend {step.name} {step.limit}",)
    name = path(step.key)
    match step:
        case AddServer(_, address, weight, keywords, default_keywords, has_check):
            words = f"add server {name} {address} {default_keywords} weight {weight} {keywords}"
            check = (f"enable health {name}",) if has_check else ()
            return (" ".join(words.split()), *check, f"set server {name} state drain")
        case ReadyServer():
            return (f"set server {name} state ready",)
        case MoveServer(_, address):
            return (f"set server {name} addr {address.host} port {address.port}",)
        case EnableCheck():
            return (f"enable health {name}",)
        case WeightServer(_, weight):
            return (f"set server {name} weight {weight}",)
        case RequeueServer(_, weight):
            other = weight - 1 if weight > 1 else weight + 1
            return (f"set server {name} weight {other}", f"set server {name} weight {weight}")
        case LimitServer(_, limit):
            return (f"set maxconn server {name} {limit}",)
        case DrainServer(_, enables_check):
            check = (f"enable health {name}",) if enables_check else ()
            return (*check, f"set server {name} state drain")
        case MaintServer():
            return (f"set server {name} state maint",)
        case RemoveServer(_, cuts_sessions):
            cut = (f"shutdown sessions server {name}",) if cuts_sessions else ()
            # Drain once more before maint: that is what lets go of idle connections at once.
            return (*cut, f"set server {name} state drain", f"set server {name} state maint", f"del server {name}")
        case _:
            assert_never(step)


def read_reply(step: Step, reply: str) -> Done | NotYet | NotAtRunTime:
    """Say what HAProxy's reply to a step's commands means.

    A server that is gone is no refusal: the next look at HAProxy will find out.
    """
    match step:
        case AddServer():
            if "New server registered" in reply or "Already exists" in reply:
                return Done()
        case RemoveServer():
            if "Server deleted" in reply or "No such server" in reply:
                return Done()
            if "still has connections" in reply:
                return NotYet()
        case MoveServer():
            if "changed from" in reply or "no need to change" in reply or "No such server" in reply:
                return Done()
        case EnableFrontend():
            if not reply or "already enabled" in reply:
                return Done()
        case _:
            if not reply or "No such server" in reply:
                return Done()
    return NotAtRunTime(_first_line(reply))


def describe(step: Step) -> str:
    """Return a step in a few words, for the journal."""
    if isinstance(step, EnableFrontend):
        return f"enable frontend {step.name}"
    if isinstance(step, LimitFrontend):
        return f"maxconn frontend {step.name} {step.limit}"
    name = path(step.key)
    match step:
        case AddServer(_, address):
            return f"add {name} {address}"
        case ReadyServer():
            return f"ready {name}"
        case MoveServer(_, address):
            return f"move {name} {address}"
        case EnableCheck():
            return f"enable check {name}"
        case WeightServer(_, weight):
            return f"weight {name} {weight}"
        case RequeueServer():
            return f"requeue {name}, which HAProxy passed over"
        case LimitServer(_, limit):
            return f"maxconn {name} {limit}"
        case DrainServer():
            return f"drain {name}"
        case MaintServer():
            return f"maint {name}"
        case RemoveServer():
            return f"delete {name}"
        case ProbeServer():
            return f"probe {name}"
        case _:
            assert_never(step)


def path(key: ServerKey) -> str:
    """Return a server's name on HAProxy's command line."""
    return f"{key[0]}/{key[1]}"


def _first_line(reply: str) -> str:
    return next((line.strip() for line in reply.splitlines() if line.strip()), "no reply")[:500]
