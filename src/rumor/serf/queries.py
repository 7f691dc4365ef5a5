"""Questions to many members: those this node asks, and those it was asked.

Facts: reference/gossip-wire.md, section 9.10.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rumor.errors import PeerError, Refused
from rumor.model import Instant, Seconds
from rumor.serf.codec import decode_filter
from rumor.serf.events import QueryAcked, QueryAnswered
from rumor.serf.messages import NodeFilter, Query, QueryResponse

QUERY_LIMIT_BYTES = 1024
RESPONSE_LIMIT_BYTES = 1024
_OPEN_LIMIT = 1024
# Go's expressions know neither; what they would match differs, so they are not tried.
_NOT_RE2 = re.compile(r"\(\?[=!<(#]|\\[1-9]|\(\?P[=>]")


def default_timeout(members: int, gossip_interval: float) -> Seconds:
    """Return how long an answer may take in a cluster of this size."""
    return Seconds(gossip_interval * 16 * math.ceil(math.log10(members + 1)))


def passes(query: Query, *, name: str, tags: Mapping[str, str]) -> bool:
    """Say whether a query is meant for this node; one with a filter that we cannot read is not."""
    for raw in query.filters:
        try:
            wanted = decode_filter(raw)
            if isinstance(wanted, NodeFilter):
                if name not in wanted.names:
                    return False
            elif not compile_expression(wanted.expression).search(tags.get(wanted.tag, "")):
                return False
        except PeerError:
            return False
    return True


def compile_expression(expression: str) -> re.Pattern[str]:
    """Return a regular expression from the network, if it means the same to Go.

    Raises:
        PeerError: it does not parse, or says what Go's expressions cannot.
    """
    if _NOT_RE2.search(expression) or _is_costly(expression):
        raise PeerError("an expression that is not taken")
    try:
        return re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise PeerError("no regular expression") from error


def _is_costly(expression: str) -> bool:
    """Say whether Python could take for ever: a repeated group that repeats something itself."""
    return re.search(r"[*+}][^()]*\)\s*[*+{]", expression) is not None or len(expression) > 512


@dataclass(slots=True)
class Asked:
    """An own query that runs."""

    query: Query
    deadline: Instant
    acked: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)

    def take(self, response: QueryResponse) -> QueryAcked | QueryAnswered | None:
        """Take a response; one ack and one answer count for each member."""
        seen = self.acked if response.is_ack else self.answered
        if response.sender in seen or len(seen) >= 100_000:
            return None
        seen.add(response.sender)
        if response.is_ack:
            return QueryAcked(self.query.id, response.sender)
        return QueryAnswered(self.query.id, response.sender, response.payload)


@dataclass(slots=True)
class Pending:
    """A query that this node may still answer."""

    query: Query
    deadline: Instant
    is_answered: bool = False


class Queries:
    """The queries under way, in both directions."""

    def __init__(self) -> None:
        self._asked: dict[int, Asked] = {}
        self._pending: dict[int, Pending] = {}
        self._last_key = 0

    def ask(self, query: Query, deadline: Instant) -> None:
        """Begin to wait for the responses to an own query.

        Raises:
            Refused: too many run.
        """
        if len(self._asked) >= _OPEN_LIMIT:
            raise Refused(f"{_OPEN_LIMIT} queries of this node are running: wait for one to end")
        self._asked[query.id] = Asked(query, deadline)

    def take(self, response: QueryResponse, now: Instant) -> QueryAcked | QueryAnswered | None:
        asked = self._asked.get(response.id)
        if asked is None or asked.query.ltime != response.ltime or now >= asked.deadline:
            return None
        return asked.take(response)

    def hear(self, query: Query, deadline: Instant) -> int | None:
        """Keep a query that may be answered, and return its key; None if too many wait."""
        if len(self._pending) >= _OPEN_LIMIT:
            return None
        self._last_key += 1
        self._pending[self._last_key] = Pending(query, deadline)
        return self._last_key

    def answer(self, key: int, now: Instant) -> Query:
        """Return the query to answer; it can be answered once.

        Raises:
            Refused: in Serf's words, if it was answered, or its time is up.
        """
        pending = self._pending.get(key)
        if pending is None or now >= pending.deadline:
            raise Refused("response is past the deadline")
        if pending.is_answered:
            raise Refused("response already sent")
        pending.is_answered = True
        return pending.query

    def expire(self, now: Instant) -> list[int]:
        """Drop what is over; return the ids of own queries that have ended."""
        for key in [key for key, pending in self._pending.items() if now >= pending.deadline]:
            del self._pending[key]
        over = [id for id, asked in self._asked.items() if now >= asked.deadline]
        for id in over:
            del self._asked[id]
        return over

    def next_deadline(self) -> Instant | None:
        asked = [one.deadline for one in self._asked.values()]
        return min((*asked, *(one.deadline for one in self._pending.values())), default=None)
