"""What the members answered about their keys, summed up as Serf does.

Facts: reference/gossip-wire.md, sections 9.12 and 10.2.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rumor.errors import PeerError
from rumor.serf.codec import decode_key_answer


@dataclass(frozen=True, slots=True)
class KeyReport:
    """The sum of the answers."""

    error: str = ""
    """Empty if every member did what it was asked."""
    keys: Mapping[str, int] | None = None
    """Key, in base64, and how many members have it; None where none was asked for."""
    messages: Mapping[str, str] = field(default_factory=dict)
    nodes: int = 0
    responses: int = 0
    errors: int = 0


@dataclass(slots=True)
class KeyTally:
    """Answers as they come in."""

    nodes: int
    lists: bool
    answers: dict[str, str] = field(default_factory=dict)
    """Member -> what went wrong there, empty for nothing."""
    keys: Counter[str] = field(default_factory=Counter)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, sender: str, payload: bytes) -> None:
        """Take one member's answer; one that does not parse counts as a failure."""
        try:
            answer = decode_key_answer(payload)
        except PeerError as error:
            self.answers[sender] = f"Failed to decode response: {error}"
            return
        self.answers[sender] = "" if answer.result else answer.message or "failed"
        if answer.message:
            self.notes[sender] = answer.message
        self.keys.update(answer.keys)

    def report(self) -> KeyReport:
        failed = {sender: words for sender, words in self.answers.items() if words}
        error = ""
        if failed:
            error = f"{len(failed)}/{self.nodes} nodes reported failure"
        elif len(self.answers) != self.nodes:
            error = f"{len(self.answers)}/{self.nodes} nodes reported success"
        keys = dict(self.keys) if self.lists else None
        return KeyReport(error, keys, {**self.notes, **failed}, self.nodes, len(self.answers), len(failed))
