"""Wait for something that tells nobody when it happens: a supervisor does not when a program ends, nor when it ends."""

import asyncio
from collections.abc import Awaitable, Callable

from rumor.model import Seconds

_POLL = 0.05


async def wait_until(holds: Callable[[], Awaitable[bool]], deadline: Seconds) -> bool:
    """Ask again and again until the answer is yes, or the time is over; say which."""
    try:
        async with asyncio.timeout(deadline):
            while not await holds():  # noqa: ASYNC110 - asking is all there is
                await asyncio.sleep(_POLL)
    except TimeoutError:
        return False
    return True
