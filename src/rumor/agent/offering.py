"""What this node offers: check each app, say its state in the service's tag, drain before leaving.

Owns the state of this node's services. The checks' outcomes come in, tags go out.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rumor.agent.drain import ANSWER_AFTER, Drain, Drained, Holding
from rumor.checks.loop import AppChecker
from rumor.checks.outcome import CheckSettings, Outcome
from rumor.log import get_logger
from rumor.model import AppState, Instant, Member, Offer, Seconds
from rumor.names import HostPort, MemberName, ServiceName
from rumor.offers import format_offer

log = get_logger("app")

# An agent that comes back after kill -9 finds its app running: one good answer in this time, and its first word to
# the cluster already says ready. An app that needs longer joins as starting.
_FIRST_CHECK_WAIT = 0.5
_REPEAT_INTERVAL = 0.2


@dataclass(frozen=True, slots=True)
class OfferSettings:
    """One service as this node offers it."""

    service: ServiceName
    address: HostPort
    weight: int
    version: str
    check: CheckSettings
    drain: Seconds
    is_backup: bool = False


class Offering:
    """The services of this node and their states."""

    def __init__(
        self,
        node: MemberName,
        settings: tuple[OfferSettings, ...],
        *,
        on_change: Callable[[Offer, str], None],
    ) -> None:
        """Prepare the checks.

        Args:
            node: this member's name.
            settings: one entry for each service it offers.
            on_change: called with the new offer and the reason, in one sentence, when a service's state changes.
        """
        self._node = node
        self._settings = {entry.service: entry for entry in settings}
        self._offers = {
            entry.service: Offer(
                entry.service, entry.address.port, AppState.STARTING, entry.weight, entry.version, entry.is_backup
            )
            for entry in settings
        }
        self._checkers = {
            entry.service: AppChecker(entry.check, entry.address, on_change=self._listener(entry.service))
            for entry in settings
        }
        self._on_change = on_change
        self._is_draining = False
        self._drain: Drain | None = None
        self._drain_changed = asyncio.Event()

    async def run(self) -> None:
        """Check every app until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for service, checker in self._checkers.items():
                tasks.create_task(checker.run(), name=f"check {service}")

    async def wait_first_outcomes(self) -> None:
        """Wait until each app has been checked once, at most half a second."""
        try:
            async with asyncio.timeout(_FIRST_CHECK_WAIT):
                for checker in self._checkers.values():
                    await checker.first_outcome.wait()
        except TimeoutError:
            return

    def offers(self) -> tuple[Offer, ...]:
        return tuple(self._offers.values())

    @property
    def not_ready(self) -> str:
        """Why this node is not ready to serve, in one sentence; empty if it is, or has nothing to serve."""
        if self._is_draining:
            return "draining"
        waiting = [offer for offer in self._offers.values() if offer.state is not AppState.READY]
        return "; ".join(f"{offer.service} is {offer.state.value}" for offer in waiting)

    def tags(self) -> dict[str, str]:
        """Return the service tags that say what this node offers now."""
        return dict(format_offer(offer) for offer in self._offers.values())

    def hear(self, balancer: MemberName, holdings: Iterable[Holding]) -> None:
        """Take a balancer's answer about the sessions of this node's services."""
        if self._drain is not None:
            self._drain = self._drain.hear(balancer, holdings)
            self._drain_changed.set()

    def notice_members(self) -> None:
        """Wake a drain that is under way, since the members changed."""
        self._drain_changed.set()

    async def drain(
        self,
        members: Callable[[], tuple[Member, ...]],
        tell_balancers: Callable[[], None],
        ask: Callable[[Sequence[MemberName], Sequence[ServiceName]], None],
    ) -> Drained:
        """Say draining and wait until the balancers have let go, or the longest drain time is over; return which.

        Args:
            members: everybody, as known at each call.
            tell_balancers: repeats this node's word to them; a lost packet then costs one repetition.
            ask: asks these balancers how many sessions of these services are open; answers come to `hear`.
        """
        self._is_draining = True
        for service in self._offers:
            self._say(service, AppState.DRAINING, "this node was asked to stop")
        wait = max((entry.drain for entry in self._settings.values()), default=Seconds(0.0))
        deadline = Instant(time.monotonic() + wait)
        self._drain = Drain.start(self._node, self._offers, members(), deadline)
        ask_at = 0.0
        while not self._drain.is_done(Instant(time.monotonic())):
            self._drain_changed.clear()
            if self._drain.awaited and time.monotonic() >= ask_at:
                ask_at = time.monotonic() + ANSWER_AFTER
                ask(self._drain.balancers, tuple(self._offers))
            try:
                async with asyncio.timeout(min(_REPEAT_INTERVAL, max(0.0, deadline - time.monotonic()))):
                    await self._drain_changed.wait()
            except TimeoutError:
                tell_balancers()
            self._drain = self._drain.forget_left(members())
        ended = self._drain.describe_end()
        if ended.is_clean:
            log.info("drained", services=",".join(self._offers), text=ended.text)
        else:
            log.warning("drain_deadline", after=f"{wait:g}s", text=ended.text)
        return ended

    def _listener(self, service: ServiceName) -> Callable[[AppState, Outcome], None]:
        def listen(state: AppState, outcome: Outcome) -> None:
            if not self._is_draining:
                self._say(service, state, outcome.detail)

        return listen

    def _say(self, service: ServiceName, state: AppState, reason: str) -> None:
        offer = self._offers[service]
        if offer.state is not state:
            self._offers[service] = replace(offer, state=state)
            log.info("app_state", service=service, state=state.value, was=offer.state.value, reason=reason)
            self._on_change(self._offers[service], reason)
