"""Keep this node joined: whom to try, and when.

Tries every second, for ever, as long as no other member is alive: any node may start first. Afterwards it looks for
members that failed every half minute, which heals a cluster whose parts have declared one another dead. DNS names are
resolved anew at each try, since a name may come to mean another address.
"""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random, SystemRandom
from typing import Protocol

from rumor.errors import PeerError
from rumor.log import get_logger
from rumor.model import Instant, Seconds
from rumor.names import Endpoint, HostPort, parse_ip
from rumor.swim.events import Synced, SyncFailed
from rumor.swim.membership import MemberState
from rumor.swim.messages import State

log = get_logger("joiner")

RETRY_INTERVAL = Seconds(1.0)
RECONNECT_INTERVAL = Seconds(30.0)
_RESOLVE_TIMEOUT = 1.0
_ENDPOINT_ADDRESSES_LIMIT = 64
_KNOWN_PER_ROUND = 8
_TRIES_AT_ONCE = 3
"""How many tries of one address may be under way: a silent one takes its whole TCP timeout, up to 30 s."""
_FOUND_LIMIT = 256
_WARNINGS_LIMIT = 1024
_FIRST_WARNING_PAUSE = Seconds(5.0)
_LONGEST_WARNING_PAUSE = Seconds(300.0)


class Gossip(Protocol):
    """What the joiner needs of the runner."""

    def join(self, addresses: Sequence[HostPort]) -> None: ...
    def sync(self, address: HostPort) -> None: ...
    def members(self) -> tuple[MemberState, ...]: ...


class Warnings:
    """When an address that does not answer is worth another line in the log: at once, then ever more rarely."""

    def __init__(self) -> None:
        self._next: Instant | None = None
        self._pause = _FIRST_WARNING_PAUSE

    def is_due(self, now: Instant) -> bool:
        if self._next is not None and now < self._next:
            return False
        self._next = Instant(now + self._pause)
        self._pause = Seconds(min(self._pause * 2, _LONGEST_WARNING_PAUSE))
        return True


def others_alive(members: Sequence[MemberState], own_name: str) -> bool:
    """Say whether anybody but this node is there; a suspect still counts."""
    return any(member.name != own_name and member.state in (State.ALIVE, State.SUSPECT) for member in members)


def failed_addresses(members: Sequence[MemberState], own: HostPort) -> list[HostPort]:
    """Return where the members that failed were last seen; those that left are not looked for."""
    return [member.address for member in members if member.state is State.DEAD and member.address != own]


def pick_to_join(
    configured: Sequence[HostPort],
    known: Sequence[HostPort],
    under_way: Counter[HostPort],
    own: HostPort,
    random: Random,
) -> list[HostPort]:
    """Return whom to try in this round: all configured addresses, and a few at random of those known from before.

    Never oneself, since joining oneself is not a join, and nobody who has not answered to several tries yet.
    """
    others = sorted(set(known) - set(configured) - {own})
    some = random.sample(others, min(_KNOWN_PER_ROUND, len(others)))
    wanted = dict.fromkeys((*configured, *some))
    return [address for address in wanted if address != own and under_way[address] < _TRIES_AT_ONCE]


class Joiner:
    """The one task that looks for others."""

    def __init__(
        self,
        gossip: Gossip,
        endpoints: Sequence[Endpoint],
        previous: Sequence[HostPort],
        *,
        own_name: str,
        own: HostPort,
        retry_interval: Seconds = RETRY_INTERVAL,
        reconnect_interval: Seconds = RECONNECT_INTERVAL,
        retry_max: int = 0,
        on_given_up: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare to look for others.

        Args:
            gossip: the runner to join through; its events `Synced` and `SyncFailed` must come to `note`.
            endpoints: whom the configuration names.
            previous: whom the snapshot remembers.
            own_name: this node's name.
            own: this node's address, which is never joined.
            retry_interval: how long to wait between two tries while alone.
            reconnect_interval: how often a failed member is looked for.
            retry_max: after how many tries again nobody has ever answered it gives up; 0 for never.
            on_given_up: called when it does.
        """
        self._gossip = gossip
        self._endpoints = tuple(endpoints)
        self._previous = tuple(previous)
        self._found: dict[HostPort, None] = {}
        self._retry_max = retry_max
        self._on_given_up = on_given_up
        self._tries = 0
        self._has_joined = False
        self._own_name = own_name
        self._own = own
        self._retry_interval = retry_interval
        self._reconnect_interval = reconnect_interval
        self._random = SystemRandom()
        self._lookups: dict[Endpoint, asyncio.Future[list[HostPort] | OSError]] = {}
        self._under_way: Counter[HostPort] = Counter()
        self._warnings: dict[str, Warnings] = {}

    def add(self, address: HostPort) -> None:
        """Learn of another address, and join it unless a member is there already."""
        if len(self._found) >= _FOUND_LIMIT and address not in self._found:
            self._found.pop(next(iter(self._found)))
        self._found[address] = None
        known = {member.address for member in self._gossip.members() if member.state in (State.ALIVE, State.SUSPECT)}
        if address not in known and address != self._own and self._under_way[address] < _TRIES_AT_ONCE:
            self._join([address])

    async def run(self) -> None:
        """Look for others until cancelled, or until tried too often where that has a limit."""
        next_reconnect = time.monotonic() + self._reconnect_interval
        while True:
            if self._has_given_up():
                self._on_given_up()
                return
            if not others_alive(self._gossip.members(), self._own_name):
                configured = await self._resolve_all()
                # While names were looked up, somebody may have joined this node.
                members = self._gossip.members()
                if not others_alive(members, self._own_name):
                    known = (*self._previous, *self._found, *failed_addresses(members, self._own))
                    self._join(pick_to_join(configured, known, self._under_way, self._own, self._random))
            elif time.monotonic() >= next_reconnect:
                next_reconnect = time.monotonic() + self._reconnect_interval
                await self._reconnect()
            await asyncio.sleep(self._retry_interval)

    def _has_given_up(self) -> bool:
        """Count one more try, where they have a limit and nobody has ever been there."""
        if not self._retry_max or not self._endpoints:
            return False
        self._has_joined = self._has_joined or others_alive(self._gossip.members(), self._own_name)
        if self._has_joined:
            return False
        self._tries += 1
        return self._tries > self._retry_max + 1

    def note(self, event: Synced | SyncFailed) -> None:
        """Learn how a try went. Exchanges that others asked for come by here too, and are none of ours."""
        if event.address is None or event.address not in self._under_way:
            return
        self._under_way[event.address] -= 1
        if not self._under_way[event.address]:
            del self._under_way[event.address]
        if isinstance(event, Synced):
            self._warnings.clear()
        else:
            self._warn(str(event.address), event.reason)

    def _join(self, addresses: Sequence[HostPort]) -> None:
        self._under_way.update(addresses)
        self._gossip.join(addresses)

    async def _reconnect(self) -> None:
        """Ask a failed member, and one of the configured, whether it is there after all.

        The second heals a parting so long that the other side has been forgotten here.
        """
        failed = failed_addresses(self._gossip.members(), self._own)
        if not failed:
            return
        self._gossip.sync(self._random.choice(failed))
        configured = [address for address in await self._resolve_all() if address != self._own]
        if configured:
            self._gossip.sync(self._random.choice(configured))

    # --- names

    async def _resolve_all(self) -> list[HostPort]:
        """Resolve all configured endpoints at once, in at most a second; a name that fails now may do so later."""
        names = [endpoint for endpoint in self._endpoints if _literal(endpoint) is None]
        for endpoint in names:
            if endpoint not in self._lookups:
                self._lookups[endpoint] = _look_up(endpoint)
        pending = [self._lookups[endpoint] for endpoint in names]
        if pending:
            await asyncio.wait(pending, timeout=_RESOLVE_TIMEOUT)
        found: dict[HostPort, None] = {}
        for endpoint in self._endpoints:
            literal = _literal(endpoint)
            addresses = [literal] if literal else self._take_lookup(endpoint)
            found |= dict.fromkeys(addresses[:_ENDPOINT_ADDRESSES_LIMIT])
        return list(found)

    def _take_lookup(self, endpoint: Endpoint) -> list[HostPort]:
        """Return what a look-up found; one that still runs is left to go on, so that there is never a second."""
        lookup = self._lookups[endpoint]
        if not lookup.done():
            self._warn(str(endpoint), f"its name was not resolved within {_RESOLVE_TIMEOUT:g} s")
            return []
        del self._lookups[endpoint]
        found = lookup.result()
        if isinstance(found, OSError):
            self._warn(str(endpoint), f"its name does not resolve: {found.strerror}")
            return []
        return found

    def _warn(self, address: str, reason: str) -> None:
        if len(self._warnings) > _WARNINGS_LIMIT:
            self._warnings.clear()
        if self._warnings.setdefault(address, Warnings()).is_due(Instant(time.monotonic())):
            log.warning(
                "join_failed", address=address, reason=reason, next=f"tried again each {self._retry_interval:g} s"
            )


def _literal(endpoint: Endpoint) -> HostPort | None:
    try:
        return HostPort.of(parse_ip(endpoint.host), endpoint.port)
    except PeerError:
        return None


def _look_up(endpoint: Endpoint) -> asyncio.Future[list[HostPort] | OSError]:
    """Ask the resolver in a thread of its own.

    The event loop's threads are waited for at exit, and a resolver may take half a minute to say that nobody answers:
    an agent without DNS could not stop in time.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[HostPort] | OSError] = loop.create_future()

    def settle(found: list[HostPort] | OSError) -> None:
        if not future.done():
            future.set_result(found)

    def ask() -> None:
        found: list[HostPort] | OSError
        try:
            infos = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
            found = [HostPort(str(info[4][0]).partition("%")[0], endpoint.port) for info in infos]
        except OSError as error:
            found = error
        except UnicodeError:
            found = OSError(0, "not a DNS name")
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=ask, name=f"resolve {endpoint}", daemon=True).start()
    return future
