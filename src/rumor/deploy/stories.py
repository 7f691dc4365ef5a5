"""A rolling restart and a deploy, told over any engine.

New ones are waited for before old ones go, and the first that fails ends it. What was begun when it is interrupted is
finished or put back: no instance is left half-way. A balancer that does not answer for a while shows nobody in rotation
meanwhile; whether that lasts too long, the patience decides.
"""

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from rumor.deploy.engine import Engine, InRotation, Instance, Say, Spec
from rumor.deploy.report import Report, Step
from rumor.errors import Refused, RumorError, Unreachable
from rumor.model import Seconds
from rumor.names import ServiceName

_POLL = 0.1
_SETTLING = Seconds(5.0)
"""How long all may take to be in rotation to begin with."""
_WORDS_LIMIT = 2000

Result = TypeVar("Result")


async def restart_rolling(
    engine: Engine,
    in_rotation: InRotation,
    service: ServiceName,
    *,
    max_unavailable: int,
    patience: Seconds,
    say: Say,
) -> Report:
    """Restart every instance, at most so many at once; stop at the first that does not come back in time.

    Raises:
        Refused: nothing of the service runs, or not all of it is in rotation to begin with.
        Unreachable: the engine or a balancer does not answer.
    """
    instances = await _healthy(engine, in_rotation, service, patience, say)
    steps: list[Step] = []
    for start in range(0, len(instances), max_unavailable):
        batch = instances[start : start + max_unavailable]
        say(f"restarting {_names(batch)}")
        done = await _whole(_all(_restart(engine, in_rotation, service, it, patience, say) for it in batch))
        steps += done
        failed = [step for step in done if not step.ok]
        if failed:
            left = len(instances) - start - len(batch)
            reason = f"{failed[0].instance} did not come back within {patience:g} s; {left} were not touched"
            return Report(service, False, reason, tuple(steps))
        for step in done:
            say(f"{step.instance} is back after {step.took:.1f} s")
    return Report(service, True, "", tuple(steps))


async def deploy(
    engine: Engine,
    in_rotation: InRotation,
    service: ServiceName,
    spec: Spec,
    *,
    patience: Seconds,
    say: Say,
    force: bool = False,
) -> Report:
    """Start as many new instances as there are, wait until all are in rotation, then let the old ones go.

    If the new do not become ready in time they are removed, and the old ones stay.

    Args:
        engine: who runs the instances.
        in_rotation: asked again and again.
        service: whose instances.
        spec: what the new ones run.
        patience: how long the new ones may take.
        say: told what goes on.
        force: begin also where an old instance is not in rotation: the new ones may be what mends it.

    Raises:
        Refused: nothing of the service runs, not all of it is in rotation to begin with, or the new cannot be started.
        Unreachable: the engine or a balancer does not answer.
    """
    old = await engine.instances(service) if force else await _healthy(engine, in_rotation, service, patience, say)
    if not old:
        raise _nobody(service)
    began = time.monotonic()
    say(f"starting {len(old)} new of {spec}")
    new = await _start_new(engine, service, spec, len(old))
    try:
        missing = await _wait(in_rotation, service, new, patience, say)
        if missing:
            words = await _words(engine, missing[0])
            say(f"{_names(missing)} not ready after {patience:g} s: going back")
            removed = await _whole(_stop_all(engine, new, "removed"))
            late = Step(missing[0].name, "started", Seconds(time.monotonic() - began), ok=False, words=words)
            reason = f"{_names(missing)} did not become ready within {patience:g} s; the old ones stay"
            return Report(service, False, reason, (late, *removed))
    except BaseException:
        # Nothing old was touched yet, so what is new can go without a trace.
        await _whole(_stop_all(engine, new, "removed"))
        raise
    took = Seconds(time.monotonic() - began)
    say(f"{_names(new)} in rotation after {took:.1f} s")
    steps = [Step(instance.name, "started", took) for instance in new]
    for instance in old:
        try:
            missing = await _wait(in_rotation, service, new, patience, say)
        except RumorError as error:
            return Report(service, False, f"{error}; {instance.name} and what follows stay", tuple(steps))
        if missing:
            reason = f"{_names(missing)} fell again; {instance.name} and what follows stay"
            return Report(service, False, reason, tuple(steps))
        say(f"stopping {instance.name}")
        steps += await _whole(_stop_all(engine, (instance,), "stopped"))
    stuck = [step.instance for step in steps if not step.ok]
    return Report(service, not stuck, f"{', '.join(stuck)} could not be stopped" if stuck else "", tuple(steps))


async def _start_new(engine: Engine, service: ServiceName, spec: Spec, count: int) -> tuple[Instance, ...]:
    """Start new ones; if this task is cancelled meanwhile, let them be started and take them away again."""
    starting = asyncio.ensure_future(engine.start_new(service, spec, count))
    try:
        return await _whole(starting)
    except asyncio.CancelledError:
        if not starting.cancelled() and starting.exception() is None:
            await _whole(_stop_all(engine, starting.result(), "removed"))
        raise


async def _healthy(
    engine: Engine, in_rotation: InRotation, service: ServiceName, patience: Seconds, say: Say
) -> tuple[Instance, ...]:
    """Return all instances, if they are in rotation; one only just back, or suspected for a moment, is waited for."""
    instances = await engine.instances(service)
    if not instances:
        raise _nobody(service)
    # To begin with, a balancer that does not answer is an error.
    await in_rotation(service)
    missing = await _wait(in_rotation, service, instances, Seconds(min(patience, _SETTLING)), say)
    if missing:
        raise Refused(
            f"{_names(missing)} of {service} not in rotation to begin with: see `rumor why {missing[0].name}`"
        )
    return instances


def _nobody(service: ServiceName) -> Refused:
    return Refused(f"nothing that offers {service} runs here: is the name right? `rumor table` lists services")


async def _restart(
    engine: Engine, in_rotation: InRotation, service: ServiceName, instance: Instance, patience: Seconds, say: Say
) -> Step:
    began = time.monotonic()
    words = ""
    try:
        await engine.restart(instance)
        if await _wait(in_rotation, service, (instance,), patience, say):
            words = await _words(engine, instance) or "it wrote nothing"
    except RumorError as error:
        words = str(error)
    return Step(instance.name, "restarted", Seconds(time.monotonic() - began), ok=not words, words=words)


async def _wait(
    in_rotation: InRotation, service: ServiceName, wanted: Sequence[Instance], patience: Seconds, say: Say
) -> tuple[Instance, ...]:
    """Wait until all are in rotation; return those that are not when the time is over."""
    deadline = time.monotonic() + patience
    trouble = ""
    while True:
        try:
            serving = await in_rotation(service)
        except Unreachable as error:
            # Its agent may be starting again, which is no fault of the instances.
            serving = frozenset()
            if str(error) != trouble:
                say(f"waiting on: {error}")
            trouble = str(error)
        missing = tuple(instance for instance in wanted if instance.name not in serving)
        if not missing or time.monotonic() >= deadline:
            return missing
        await asyncio.sleep(_POLL)


async def _words(engine: Engine, instance: Instance) -> str:
    """Return the last of what an instance wrote: help for the reader, and no reason to fail."""
    try:
        return (await engine.words(instance))[-_WORDS_LIMIT:]
    except RumorError as error:
        return f"what it wrote cannot be read: {error}"


async def _stop_all(engine: Engine, instances: Sequence[Instance], deed: str) -> list[Step]:
    async def stop(instance: Instance) -> Step:
        began = time.monotonic()
        try:
            await engine.stop(instance)
        except RumorError as error:
            return Step(instance.name, deed, Seconds(time.monotonic() - began), ok=False, words=str(error))
        return Step(instance.name, deed, Seconds(time.monotonic() - began))

    return await _all(map(stop, instances))


async def _all(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Do all of it at once and let each end, before an error of one is told."""
    done = await asyncio.gather(*work, return_exceptions=True)
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return [result for result in done if not isinstance(result, BaseException)]


async def _whole(work: Awaitable[Result]) -> Result:
    """Finish what was begun, also when this task is cancelled meanwhile; only then give way."""
    task = asyncio.ensure_future(work)
    is_cancelled = False
    while not task.done():
        try:
            # Unlike a shield, this tells its own cancellation from the task's.
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        if not task.cancelled():
            task.exception()
        raise asyncio.CancelledError
    return task.result()


def _names(instances: Sequence[Instance]) -> str:
    return ", ".join(instance.name for instance in instances)
