"""Configurations that HAProxy would not load, and when each may be tried again.

A refused reload can cost requests for two seconds, so it is not tried again soon, whatever the servers do meanwhile:
what is refused is all but the server lines (`ConfigText.base`), and these change with every drain. Thinks only.
"""

from dataclasses import dataclass

from rumor.model import Instant, Seconds

_FIRST_PAUSE = Seconds(30.0)
_LONGEST_PAUSE = Seconds(600.0)
_KEPT = 8


@dataclass(frozen=True, slots=True)
class Refusal:
    """HAProxy's word against one configuration."""

    words: str
    pause: Seconds
    until: Instant


class Refusals:
    """Owns what HAProxy refused; each refusal of the same doubles the pause before the next try."""

    def __init__(self) -> None:
        self._known: dict[str, Refusal] = {}

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, base: str, words: str, now: Instant) -> None:
        before = self._known.pop(base, None)
        pause = _FIRST_PAUSE if before is None else Seconds(min(2 * before.pause, _LONGEST_PAUSE))
        self._known[base] = Refusal(words, pause, Instant(now + pause))
        while len(self._known) > _KEPT:
            self._known.pop(next(iter(self._known)))

    def held(self, base: str, now: Instant) -> Refusal | None:
        """Return why this may not be tried now; None if it may."""
        known = self._known.get(base)
        return known if known is not None and now < known.until else None

    def forget(self, base: str) -> None:
        """It was loaded after all."""
        self._known.pop(base, None)
