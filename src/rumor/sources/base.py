"""What every source of members hands on: its whole picture, or the word that it cannot see."""

from dataclasses import dataclass

from rumor.model import Member


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something from the network that was not taken, and why; `subject` is escaped and safe to print."""

    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one source sees now. Newest wins; an empty picture and no picture are different things."""

    source: str
    members: tuple[Member, ...]
    is_blind: bool = False
    """True as long as the source has not been able to look: then whoever is missing may well be there."""
    refusals: tuple[Refusal, ...] = ()
