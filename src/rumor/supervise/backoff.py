"""How long to wait before a program that has fallen is tried again: ever longer, and for ever.

supervisord's own pauses are for programs that do not come up at all, have no ceiling, and it gives up; so whatever has
fallen is started by us.
"""

from dataclasses import dataclass

from rumor.model import Instant, Seconds

FIRST_PAUSE = Seconds(1.0)
LONGEST_PAUSE = Seconds(30.0)
FORGIVEN_AFTER = Seconds(60.0)
"""A program that ran this long has made good its earlier failures."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """One program's failures in a row, and when it may be tried again."""

    failures: int = 0
    retry_at: Instant | None = None
    running_since: Instant | None = None

    def note_failed(self, now: Instant, *, longest: Seconds) -> "Backoff":
        """Count one more failure, once; the pause doubles from a second up to `longest`."""
        if self.retry_at is not None:
            return self
        pause = min(longest, FIRST_PAUSE * 2**self.failures)
        return Backoff(min(self.failures + 1, 16), Instant(now + pause))

    def note_retried(self) -> "Backoff":
        return Backoff(self.failures)

    def note_running(self, now: Instant) -> "Backoff":
        since = now if self.running_since is None else self.running_since
        if now - since >= FORGIVEN_AFTER:
            return Backoff(running_since=since)
        return Backoff(self.failures, running_since=since)

    def is_due(self, now: Instant) -> bool:
        return self.retry_at is not None and now >= self.retry_at
