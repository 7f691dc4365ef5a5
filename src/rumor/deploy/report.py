"""What became of a rolling restart or a deploy."""

from dataclasses import asdict, dataclass
from typing import Any

from rumor.model import Seconds


@dataclass(frozen=True, slots=True)
class Step:
    """One instance's turn."""

    instance: str
    deed: str
    """`started`, `restarted`, `stopped`, `removed`."""
    took: Seconds
    ok: bool = True
    words: str = ""
    """Why not, and the last lines it wrote."""


@dataclass(frozen=True, slots=True)
class Report:
    """The whole of it."""

    service: str
    ok: bool
    reason: str
    """Why it ended early, empty if it did not."""
    steps: tuple[Step, ...] = ()
    elsewhere: tuple[str, ...] = ()
    """Servers of the service that this engine does not run: nothing was done to them."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"steps": [asdict(step) for step in self.steps], "elsewhere": list(self.elsewhere)}
