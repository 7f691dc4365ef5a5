"""How long to gather changes before one table is made of them: quick first, patient in a storm."""

from dataclasses import dataclass

from rumor.model import Instant, Seconds

QUICK = Seconds(0.02)
"""Three agents that join at once make one table; a single change waits no longer than this."""
PATIENT = Seconds(0.5)
QUIET = Seconds(2.0)
"""After so long without a change the next one is quick again."""


@dataclass(slots=True)
class Debounce:
    """Doubles its pause with each change that comes soon after another, up to `PATIENT`."""

    _last: Instant = Instant(float("-inf"))
    _pause: Seconds = QUICK

    def pause(self, now: Instant) -> Seconds:
        """Return how long to wait after a change that has just come."""
        is_quiet = now - self._last >= QUIET
        self._pause = QUICK if is_quiet else Seconds(min(PATIENT, self._pause * 1.5))
        self._last = now
        return self._pause
