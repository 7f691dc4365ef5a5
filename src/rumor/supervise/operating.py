"""What people do with supervised programs, over any supervisor: in order, and waiting for what comes of it."""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rumor.errors import Unreachable
from rumor.model import Seconds
from rumor.supervise.base import AGENTS, APPS, ENDED, Program, ProgramState, ProgramStatus, Supervisor
from rumor.supervise.waiting import wait_until

_STOP_SLACK = Seconds(5.0)
_UP = frozenset({ProgramState.RUNNING})


@dataclass(frozen=True, slots=True)
class Changes:
    """What lies between the programs that are supervised and those that are wanted."""

    added: tuple[Program, ...]
    removed: tuple[Program, ...]
    changed: tuple[Program, ...]
    """As they are wanted."""


def changes(
    there: Sequence[Program], wanted: Sequence[Program], *, same: Callable[[Program, Program], bool] = Program.__eq__
) -> Changes:
    old, new = ({program.name: program for program in programs} for programs in (there, wanted))
    return Changes(
        tuple(program for name, program in new.items() if name not in old),
        tuple(program for name, program in old.items() if name not in new),
        tuple(program for name, program in new.items() if name in old and not same(old[name], program)),
    )


async def _at_once(node: str) -> None:
    return


async def stop_in_order(supervisor: Supervisor, programs: Sequence[Program]) -> None:
    """Stop programs, those of a higher priority first, and wait until they have ended.

    Raises:
        Unreachable: one did not end within its time and the slack after it.
    """
    ordered = sorted(programs, key=lambda program: -program.priority)
    for _, group in itertools.groupby(ordered, key=lambda program: program.priority):
        members = list(group)
        names = [program.name for program in members]
        await supervisor.stop(names)
        deadline = max(program.stop_wait for program in members) + _STOP_SLACK
        left = await wait_for(supervisor, names, ENDED, Seconds(deadline))
        if left:
            raise Unreachable(f"{', '.join(status.name for status in left)} did not stop within {deadline:g} s")


async def start_and_wait(supervisor: Supervisor, names: Sequence[str], patience: Seconds) -> tuple[ProgramStatus, ...]:
    """Start programs and wait until they run; return those that do not when the time is over."""
    await supervisor.start(names)
    return await wait_for(supervisor, names, _UP, patience)


async def restart_in_order(
    supervisor: Supervisor, programs: Sequence[Program], patience: Seconds
) -> tuple[ProgramStatus, ...]:
    """Stop programs in their order, then start them; return those that do not run when the time is over."""
    await stop_in_order(supervisor, programs)
    return await start_and_wait(supervisor, [program.name for program in programs], patience)


async def bring_to(
    supervisor: Supervisor, wanted: Changes, *, wait_back: Callable[[str], Awaitable[None]] = _at_once
) -> None:
    """Start what is new, then change what is wanted otherwise, then take away what is wanted no longer.

    One node after the other is changed. Where its app is, its agent drains and leaves first, so no request is lost.

    Args:
        supervisor: of all these programs.
        wanted: what is to become of them.
        wait_back: waits until a node whose app was changed serves again.

    Raises:
        RumorError: a step failed, and what follows was not touched; doing it again goes on from there.
    """
    if wanted.added:
        await supervisor.add(wanted.added)
    for node in dict.fromkeys(program.node for program in wanted.changed):
        await _change(supervisor, node, [program for program in wanted.changed if program.node == node], wait_back)
    if wanted.removed:
        await stop_in_order(supervisor, wanted.removed)
        await supervisor.remove([program.name for program in wanted.removed])


async def _change(
    supervisor: Supervisor, node: str, wanted: Sequence[Program], wait_back: Callable[[str], Awaitable[None]]
) -> None:
    names = [program.name for program in wanted]
    there = [program for program in await supervisor.programs() if program.node == node]
    agents = [program for program in there if program.group == AGENTS and program.name not in names]
    has_app = any(program.group == APPS for program in wanted)
    if not has_app:
        agents = []
    await stop_in_order(supervisor, [*agents, *(program for program in there if program.name in names)])
    await supervisor.remove(names)
    await supervisor.add(wanted)
    if agents:
        await supervisor.start([program.name for program in agents])
    if has_app:
        await wait_back(node)


async def wait_for(
    supervisor: Supervisor, names: Sequence[str], states: frozenset[ProgramState], deadline: Seconds
) -> tuple[ProgramStatus, ...]:
    """Wait until programs are in one of these states; return those that are not when the time is over.

    Raises:
        Unreachable: their supervisor has not said in all that time how they are.
    """
    left: tuple[ProgramStatus, ...] | None = None

    async def all_are() -> bool:
        nonlocal left
        left = tuple(one for one in await supervisor.states() if one.name in names and one.state not in states)
        return not left

    await wait_until(all_are, deadline)
    if left is None:
        raise Unreachable(f"within {deadline:g} s nobody said what {', '.join(names)} did")
    return left
