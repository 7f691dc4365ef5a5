"""Check one app again and again, and tell when its state changes."""

import asyncio
from collections.abc import Awaitable, Callable

from rumor.checks.http import check_http
from rumor.checks.outcome import CheckKind, CheckSettings, Health, Outcome, next_delay, observe
from rumor.checks.tcp import check_tcp
from rumor.log import get_logger
from rumor.model import AppState
from rumor.names import HostPort

log = get_logger("checks")


async def run_check(settings: CheckSettings, address: HostPort) -> Outcome:
    """Check an app once, within `settings.timeout`. Never raises but for cancellation."""
    match settings.kind:
        case CheckKind.HTTP:
            return await check_http(settings, address)
        case CheckKind.TCP:
            return await check_tcp(settings, address)


class AppChecker:
    """Owns what is known about one app's health."""

    def __init__(
        self,
        settings: CheckSettings,
        address: HostPort,
        *,
        on_change: Callable[[AppState, Outcome], None],
        check: Callable[[CheckSettings, HostPort], Awaitable[Outcome]] = run_check,
    ) -> None:
        """Prepare; nothing is asked before `run`.

        Args:
            settings: how and how often.
            address: where the app listens.
            on_change: called with the new state and the outcome that brought it, whenever the state changes.
            check: asks once; another one than ours only in tests.
        """
        self._settings = settings
        self._address = address
        self._on_change = on_change
        self._check = check
        self._health = Health()
        self.first_outcome = asyncio.Event()
        """Set once the app has been asked and the outcome has been counted, whatever it was."""
        self.last_outcome: Outcome | None = None

    @property
    def state(self) -> AppState:
        return self._health.state

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            pause: float = self._settings.interval
            try:
                outcome = await self._check(self._settings, self._address)
                self._count(outcome)
                pause = max(0.0, next_delay(self._health, self._settings) - outcome.took)
            except Exception as error:
                # The one boundary of this loop: a bug in one check must not end checking.
                log.error("check_crashed", exc=error, address=self._address)
            await asyncio.sleep(pause)

    def _count(self, outcome: Outcome) -> None:
        before, self._health = self._health, observe(self._health, outcome, self._settings)
        self.last_outcome = outcome
        if self._health.state is not before.state:
            self._on_change(self._health.state, outcome)
        elif self._health.against == 1 and not outcome.ok:
            log.debug("check_failed", address=self._address, detail=outcome.detail, took=f"{outcome.took:.3f}s")
        self.first_outcome.set()
