"""Event handlers: scripts that are run for events, as serf runs them.

One task takes the events in order and runs the matching scripts one after the other, each with its deadline; what a
script does, and how it fails, never touches the agent. Facts: reference/gossip-wire.md, section 11.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rumor.errors import ConfigError, PeerError, Refused
from rumor.log import get_logger
from rumor.model import Seconds
from rumor.serf.events import QueryHeard, SerfMember, UserEventHeard
from rumor.serf.stream import EventFilter, MembersEvent, StreamEvent, kind_of, parse_filters
from rumor.serf.tags import decode_tags

log = get_logger("agent")

OUTPUT_LIMIT = 8192
"""How much of a script's output is kept, from its end."""
DEADLINE = Seconds(60.0)
_EVENTS_LIMIT = 1024
_NOT_IN_NAME = re.compile(r"[^A-Z0-9_]")


@dataclass(frozen=True, slots=True)
class Handler:
    """One script for one kind of event."""

    filter: EventFilter
    script: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a script's run went."""

    handler: Handler
    status: int | None
    """None for one that was ended at its deadline."""
    output: bytes


def parse_handler(text: str) -> tuple[Handler, ...]:
    """Return the handlers of one specification: `SCRIPT`, or `FILTER=SCRIPT` with several kinds after commas.

    Raises:
        ConfigError: a kind is unknown; the words are Serf's.
    """
    kinds, equals, script = text.partition("=")
    if not equals:
        kinds, script = "*", text
    try:
        return tuple(Handler(one, script) for one in parse_filters(kinds))
    except Refused as error:
        raise ConfigError(f"Invalid event script: Event '{error}' invoking '{script}'") from error


def environment(event: StreamEvent, *, name: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return what a script finds in its environment beside the agent's own."""
    found = {f"SERF_TAG_{_NOT_IN_NAME.sub('_', tag.upper())}": value for tag, value in tags.items()}
    found |= {"SERF_EVENT": kind_of(event), "SERF_SELF_NAME": name, "SERF_SELF_ROLE": tags.get("role", "")}
    match event:
        case UserEventHeard():
            found |= {"SERF_USER_EVENT": event.name, "SERF_USER_LTIME": str(event.ltime)}
        case QueryHeard():
            found |= {"SERF_QUERY_NAME": event.name, "SERF_QUERY_LTIME": str(event.ltime)}
        case _:
            pass
    # A NUL would end the value for the script, and is refused by the system.
    return {key: value.replace("\0", "") for key, value in found.items()}


def standard_input(event: StreamEvent) -> bytes:
    """Return what a script reads: a line for each member, or the payload."""
    if isinstance(event, MembersEvent):
        return "".join(_member_line(member) for member in event.members).encode("utf-8", "surrogateescape")
    payload = event.payload
    return payload + b"\n" if payload and not payload.endswith(b"\n") else payload


def _member_line(member: SerfMember) -> str:
    try:
        tags = decode_tags(member.state.meta)
    except PeerError:
        tags = {}
    words = (
        _one_line(member.name),
        member.state.address.host,
        _one_line(tags.get("role", "")),
        ",".join(f"{_one_line(tag)}={_one_line(value)}" for tag, value in tags.items()),
    )
    return "\t".join(words) + "\n"


def _one_line(text: str) -> str:
    return text.replace("\t", "\\t").replace("\n", "\\n")


class HandlerRunner:
    """Runs the handlers of one agent."""

    def __init__(
        self,
        handlers: Iterable[Handler],
        *,
        name: str,
        tags: Callable[[], Mapping[str, str]],
        respond: Callable[[int, bytes], None],
        on_failure: Callable[[StreamEvent, Ended], None],
        deadline: Seconds = DEADLINE,
    ) -> None:
        """Prepare; nothing runs before `run`.

        Args:
            handlers: what to run, in order.
            name: this member's name.
            tags: returns its tags.
            respond: answers a query; raises `Refused` if that cannot be done any more.
            on_failure: called with each run that failed.
            deadline: how long one script may take.
        """
        self.handlers = tuple(handlers)
        """May be replaced; others are run from the next event on."""
        self._name = name
        self._tags = tags
        self._respond = respond
        self._on_failure = on_failure
        self._deadline = deadline
        self._waiting: deque[StreamEvent] = deque()
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()

    def take(self, event: StreamEvent) -> None:
        """Queue an event; beyond a thousand the newest is lost, and said so."""
        if not any(handler.filter.passes(event) for handler in self.handlers):
            return
        if len(self._waiting) >= _EVENTS_LIMIT:
            log.error("handlers_behind", lost=kind_of(event))
            return
        self._waiting.append(event)
        self._wake.set()

    async def run(self) -> None:
        """Run what comes, until cancelled."""
        while True:
            await self.drain()
            self._wake.clear()
            await self._wake.wait()

    async def drain(self) -> None:
        """Run what is waiting now, in order."""
        async with self._turn:
            while self._waiting:
                await self._handle(self._waiting.popleft())

    async def _handle(self, event: StreamEvent) -> None:
        for handler in self.handlers:
            if not handler.filter.passes(event):
                continue
            ended = await self._run(handler, event)
            if ended.status != 0:
                log.error("handler_failed", script=handler.script, kind=kind_of(event), status=ended.status)
                self._on_failure(event, ended)
            elif isinstance(event, QueryHeard) and ended.output:
                try:
                    self._respond(event.key, ended.output)
                except Refused as error:
                    log.warning("not_answered", text=f"Failed to respond to query '{event.name}': {error}")

    async def _run(self, handler: Handler, event: StreamEvent) -> Ended:
        environ = {**os.environ, **environment(event, name=self._name, tags=self._tags())}
        try:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", handler.script,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                env=environ, start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            return Ended(handler, 127, str(error).encode())
        kept = bytearray()
        status: int | None = None
        try:
            async with asyncio.timeout(self._deadline):
                await _feed(process, standard_input(event), kept)
                status = await process.wait()
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                # The script with all it has started: it has a session of its own.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return Ended(handler, status, bytes(kept))


async def _feed(process: asyncio.subprocess.Process, data: bytes, kept: bytearray) -> None:
    """Write to a process and keep the end of what it says, side by side, so that neither waits for the other."""

    async def write() -> None:
        assert process.stdin is not None  # noqa: S101 - it was asked for
        with contextlib.suppress(ConnectionError):
            process.stdin.write(data)
            await process.stdin.drain()
        process.stdin.close()

    async def read() -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        while piece := await process.stdout.read(OUTPUT_LIMIT):
            kept.extend(piece)
            del kept[:-OUTPUT_LIMIT]

    await asyncio.gather(write(), read())
