"""A probe round is judged by what came back; each member is probed once a round."""

from random import Random

import pytest

from rumor.model import Instant
from rumor.swim.probe import ProbeOrder, ProbeRound, Verdict


def probe(*, nacks_expected: int = 0, nacks: int = 0) -> ProbeRound:
    return ProbeRound("web", 7, Instant(0.5), Instant(1.0), nacks_expected=nacks_expected, nacks=nacks)


def test_a_round_widens_first_and_is_judged_at_its_deadline() -> None:
    under_way = probe()
    assert under_way.next_at == 0.5
    under_way.is_widened = True
    assert under_way.next_at == 1.0


def test_an_ack_answers() -> None:
    under_way = probe()
    under_way.is_acked = under_way.is_acked_over_tcp = True
    assert under_way.verdict() is Verdict.ANSWERED
    assert under_way.awareness_delta() == -1


def test_an_answer_over_tcp_keeps_a_member_from_suspicion() -> None:
    under_way = probe()
    under_way.is_acked_over_tcp = True
    assert under_way.verdict() is Verdict.ANSWERED_OVER_TCP_ONLY
    assert under_way.awareness_delta() == -1


@pytest.mark.parametrize(("expected", "came", "delta"), [(0, 0, 1), (3, 3, 0), (3, 1, 2), (3, 0, 3)])
def test_helpers_that_do_not_even_say_no_make_this_node_doubt_itself(expected: int, came: int, delta: int) -> None:
    under_way = probe(nacks_expected=expected, nacks=came)
    assert under_way.verdict() is Verdict.SILENT
    assert under_way.awareness_delta() == delta


def order_of(*names: str) -> ProbeOrder:
    order = ProbeOrder(Random(1))
    order.restart(list(names))
    return order


def rest(order: ProbeOrder) -> list[str]:
    return list(iter(order.take, None))


def test_a_round_takes_each_name_once() -> None:
    assert sorted(rest(order_of("a", "b", "c"))) == ["a", "b", "c"]


def test_rounds_differ() -> None:
    random = Random(1)
    rounds = set()
    for _ in range(20):
        order = ProbeOrder(random)
        order.restart(["a", "b", "c"])
        rounds.add(tuple(rest(order)))
    assert len(rounds) == 6


def test_a_newcomer_is_probed_in_this_round() -> None:
    order = order_of("a", "b")
    first = order.take()
    order.add("c")
    assert sorted([str(first), *rest(order)]) == ["a", "b", "c"]


def test_who_is_put_first_is_next_and_keeps_its_turn() -> None:
    order = order_of("a", "b", "c")
    order.put_first("c")
    assert order.take() == "c"
    assert sorted(rest(order)) == ["a", "b", "c"]
