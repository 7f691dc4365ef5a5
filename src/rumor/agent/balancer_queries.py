"""What a node asks balancers, and tells them, by Serf queries: the drain's questions and answers, a program's end."""

import contextlib
import random
from collections.abc import Callable, Sequence

from rumor.agent.cluster import Cluster, QueryEvent
from rumor.agent.drain import (
    DRAIN_QUERY,
    QUERY_TIMEOUT,
    Holding,
    Question,
    format_answer,
    format_question,
    parse_answer,
    parse_question,
)
from rumor.agent.endings import ENDED_QUERY
from rumor.errors import PeerError, Refused
from rumor.log import get_logger
from rumor.names import MemberName, parse_member_name
from rumor.serf.events import QueryAnswered, QueryHeard
from rumor.serf.layer import QueryRequest

log = get_logger("agent")

_ASKED_AT_ONCE = 8
"""More names do not fit a query; whoever is left out is asked by one of the next."""


def ask_balancers(
    cluster: Cluster,
    balancers: Sequence[MemberName],
    question: Question,
    on_answer: Callable[[MemberName, Sequence[Holding]], None],
) -> None:
    """Ask balancers what they hold of a node's services; each answer goes to `on_answer`, a lost one to nobody."""
    asked = tuple(random.sample(list(balancers), min(len(balancers), _ASKED_AT_ONCE)))
    request = QueryRequest(
        DRAIN_QUERY, format_question(question), nodes=asked, timeout=QUERY_TIMEOUT, straight_to=asked
    )

    def take(event: QueryEvent) -> None:
        if isinstance(event, QueryAnswered):
            try:
                on_answer(parse_member_name(event.sender), parse_answer(event.payload))
            except PeerError as error:
                log.debug("answer_refused", sender=event.sender[:80], reason=str(error))

    try:
        cluster.query(request, take)
    except Refused as error:
        log.warning("drain_not_asked", reason=str(error))


def tell_ended(cluster: Cluster, balancers: Sequence[MemberName], payload: bytes) -> None:
    """Tell balancers that a program of this node has ended; nobody answers, and a lost packet is no harm."""
    told = tuple(balancers[:_ASKED_AT_ONCE])
    try:
        cluster.query(
            QueryRequest(ENDED_QUERY, payload, nodes=told, timeout=QUERY_TIMEOUT, straight_to=told), lambda event: None
        )
    except Refused as error:
        log.debug("ending_not_told", reason=str(error))


def hear_question(
    cluster: Cluster, heard: QueryHeard, hear: Callable[[Question, Callable[[Sequence[Holding]], None]], None]
) -> None:
    """Hand a draining node's question on to whoever can answer it."""
    try:
        question = parse_question(heard.payload)
    except PeerError as error:
        log.debug("question_refused", sender=heard.source_node[:80], reason=str(error))
        return

    def answer(holdings: Sequence[Holding]) -> None:
        # Too late is no harm: the node has asked again.
        with contextlib.suppress(Refused):
            cluster.respond(heard.key, format_answer(holdings))

    hear(question, answer)
