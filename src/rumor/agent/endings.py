"""What a node tells balancers of a program of its own that ended: values <-> the payload of a Serf query.

`rumor why web-3` is asked at a balancer, so balancers must know why an app fell, not only that it did.
"""

import re
from dataclasses import dataclass

from rumor.errors import PeerError
from rumor.supervise.exits import Exit

ENDED_QUERY = "_rumor_ended"
"""The name of the query; only balancers are asked, and nobody answers."""
_PAYLOAD_LIMIT = 400
_HOW_LIMIT, _WORDS_LIMIT = 80, 200
_PAYLOAD = re.compile(
    rf"([A-Za-z0-9][A-Za-z0-9_.-]{{0,80}})\n([ -~]{{1,{_HOW_LIMIT}}})\n([ -~]{{0,{_WORDS_LIMIT}}})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Ending:
    """One end of one program, in words."""

    program: str
    how: str
    words: str
    """The last it wrote; empty for nothing."""


def ending_of(program: str, end: Exit, words: str) -> Ending:
    """Return an end as it can be told: printable ASCII, bounded."""
    return Ending(program[:80], _plain(str(end), _HOW_LIMIT), _plain(words, _WORDS_LIMIT))


def format_ending(ending: Ending) -> bytes:
    return f"{ending.program}\n{ending.how}\n{ending.words}".encode("ascii")


def parse_ending(payload: bytes) -> Ending:
    """Parse what a node tells.

    Raises:
        PeerError: too long, or not of that form.
    """
    text = payload.decode("ascii", "replace") if len(payload) <= _PAYLOAD_LIMIT else ""
    match = _PAYLOAD.fullmatch(text)
    if match is None:
        raise PeerError("a word about a program's end of unknown form")
    return Ending(match[1], match[2], match[3])


def _plain(text: str, limit: int) -> str:
    return "".join(character if " " <= character <= "~" else "?" for character in text)[:limit]
