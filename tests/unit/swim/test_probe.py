"""A probe round is judged by what came back; each member is probed once a round."""

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


def test_a_round_takes_each_name_once() -> None:
    order = ProbeOrder()
    order.restart(["a", "b"])
    assert [order.take() for _ in range(3)] == ["a", "b", None]


def test_a_newcomer_ahead_is_probed_in_this_round() -> None:
    order = ProbeOrder()
    order.restart(["a", "b"])
    order.take()
    order.insert("c", 1)
    assert [order.take() for _ in range(3)] == ["c", "b", None]


def test_a_newcomer_behind_makes_nobody_be_probed_twice() -> None:
    order = ProbeOrder()
    order.restart(["a", "b"])
    order.take()
    order.insert("c", 0)
    assert [order.take() for _ in range(2)] == ["b", None]
