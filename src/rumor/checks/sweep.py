"""Check many apps once, side by side, for less than half of what as many single checks cost.

A balancer asks a thousand new servers at once. What makes that dear is less the network than a task, a timer and a
place in the loop's selector for each; here all of them share one. What takes more than a glance - TLS, an answer in
pieces or in a form of its own - is left to the code of the single checks.
"""

import asyncio
import errno
import select
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass

import h11

from rumor.checks.answer import request, whole_answer
from rumor.checks.http import read_answer
from rumor.checks.loop import run_check
from rumor.checks.outcome import CheckKind, CheckSettings
from rumor.checks.tcp import BUFFER_BYTES, PlainConnection
from rumor.model import Instant, Seconds
from rumor.names import HostPort

PATIENCE = Seconds(0.25)
"""How long an app may think about its answer while others wait to be asked."""
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Question:
    """One app, and how it is checked."""

    settings: CheckSettings
    address: HostPort


async def sweep(questions: Iterable[Question], on_well: Callable[[int], None], *, patience: Seconds = PATIENCE) -> None:
    """Check each app once; call `on_well` with the place of each that is well, as soon as it has said so.

    Others wait while one is asked, so nobody has more than `patience` to answer, nor more than its check's own timeout.
    Raises nothing but what `on_well` raises.
    """
    running = _Sweep(questions, on_well, patience)
    try:
        await running.ended
    finally:
        await running.close()


@dataclass(slots=True)
class _Asked:
    place: int
    settings: CheckSettings
    socket: socket.socket
    deadline: Instant
    unsaid: bytes
    """What it has still to be sent."""
    awaits: int = select.EPOLLOUT
    """Whether it must be ready to hear (OUT), or something must be there to read (IN)."""


class _Sweep:
    """The questions that are open, behind a selector of their own that the loop watches like a single socket."""

    def __init__(self, questions: Iterable[Question], on_well: Callable[[int], None], patience: Seconds) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = enumerate(questions)
        self._on_well = on_well
        self._patience = patience
        self._open: dict[int, _Asked] = {}
        """By the numbers of their sockets."""
        self._asked: deque[_Asked] = deque()
        """In the order in which they were asked, with some that are over already."""
        self._tasks: set[asyncio.Task[None]] = set()
        """What took more than a glance."""
        self._alarm: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._selector = select.epoll()
        self._loop.add_reader(self._selector.fileno(), self._step, self._look)
        self._loop.call_soon(self._step, self._ask_more)

    async def close(self) -> None:
        self._loop.remove_reader(self._selector.fileno())
        self._selector.close()
        if self._alarm is not None:
            self._alarm.cancel()
        for asked in self._open.values():
            asked.socket.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _step(self, step: Callable[[], None]) -> None:
        """Take a step that the loop calls for; what goes wrong in it is for who waits for the end."""
        if self.ended.done():
            return
        try:
            step()
            self._ask_more()
        except Exception as error:
            self.ended.set_exception(error)

    # --- asking

    def _ask_more(self) -> None:
        while len(self._open) + len(self._tasks) < _AT_ONCE:
            place, question = next(self._left, (0, None))
            if question is None:
                break
            if question.settings.tls:
                self._leave_to(self._check(place, question))
            else:
                self._ask(place, question)
        while self._asked and not self._is_open(self._asked[0]):
            self._asked.popleft()
        if self._asked and self._alarm is None:
            self._alarm = self._loop.call_at(self._asked[0].deadline, self._step, self._give_up)
        if not self._open and not self._tasks and not self.ended.done():
            self.ended.set_result(None)

    def _ask(self, place: int, question: Question) -> None:
        settings, address = question.settings, question.address
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            # Too many are open: a check of its own would meet the same.
            return
        deadline = Instant(self._loop.time() + min(self._patience, settings.timeout))
        content = settings.preamble + (request(settings, address) if settings.kind is CheckKind.HTTP else b"")
        asked = _Asked(place, settings, opened, deadline, content)
        refusal = opened.connect_ex((address.host, address.port))
        if refusal not in (0, errno.EINPROGRESS) or self._is_over_said(asked):
            opened.close()
            return
        self._open[opened.fileno()] = asked
        self._asked.append(asked)
        self._selector.register(opened.fileno(), asked.awaits)

    def _is_over_said(self, asked: _Asked) -> bool:
        """Say what can be said now; return whether that is all that there is to it.

        Nearly always there is room at once. To who has not accepted yet not even nothing can be sent.
        """
        try:
            asked.unsaid = asked.unsaid[asked.socket.send(asked.unsaid) :]
        except BlockingIOError:
            return False
        except OSError:
            return True
        if asked.unsaid:
            return False
        asked.awaits = select.EPOLLIN
        if asked.settings.kind is CheckKind.TCP:
            self._on_well(asked.place)
            return True
        return False

    # --- listening

    def _look(self) -> None:
        for descriptor, _ in self._selector.poll(0, _AT_ONCE):
            asked = self._open[descriptor]
            awaited = asked.awaits
            if self._is_over_heard(asked) if awaited == select.EPOLLIN else self._is_over_said(asked):
                self._let_go(asked)
            elif asked.awaits != awaited:
                self._selector.modify(descriptor, asked.awaits)

    def _is_over_heard(self, asked: _Asked) -> bool:
        """Take what was answered; return whether that is all that there is to it."""
        try:
            first = asked.socket.recv(BUFFER_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True
        status = whole_answer(first)
        if first and status is None:
            self._selector.unregister(asked.socket)
            del self._open[asked.socket.fileno()]
            self._leave_to(self._read_on(asked, first))
            return False
        if status in asked.settings.statuses and self._loop.time() <= asked.deadline:
            self._on_well(asked.place)
        return True

    def _is_open(self, asked: _Asked) -> bool:
        return self._open.get(asked.socket.fileno()) is asked

    def _let_go(self, asked: _Asked) -> None:
        del self._open[asked.socket.fileno()]
        # What is closed is the selector's no longer.
        asked.socket.close()

    def _give_up(self) -> None:
        """Let go of all whose time is over."""
        self._alarm = None
        while self._asked and self._asked[0].deadline <= self._loop.time():
            asked = self._asked.popleft()
            if self._is_open(asked):
                self._let_go(asked)

    # --- what takes more than a glance

    def _leave_to(self, check: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(check, name="sweep")
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._step(lambda: self._end(ended)))

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        task.result()

    async def _read_on(self, asked: _Asked, first: bytes) -> None:
        connection = PlainConnection(asked.socket)
        try:
            async with asyncio.timeout_at(asked.deadline):
                status = await read_answer(connection, first)
        except (TimeoutError, h11.RemoteProtocolError, OSError):
            return
        finally:
            connection.close()
        if status in asked.settings.statuses:
            self._on_well(asked.place)

    async def _check(self, place: int, question: Question) -> None:
        try:
            async with asyncio.timeout(self._patience):
                outcome = await run_check(question.settings, question.address)
        except TimeoutError:
            return
        if outcome.ok:
            self._on_well(place)
