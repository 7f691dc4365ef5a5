"""The tag that offers a service."""

import pytest

from rumor.errors import PeerError
from rumor.model import AppState, Offer
from rumor.names import ServiceName
from rumor.offers import format_offer, parse_offer, read_offers

WEB = ServiceName("web")


def test_a_bare_port_means_ready_with_weight_100() -> None:
    assert parse_offer("service:web", "3000") == Offer(WEB, 3000, AppState.READY, 100, "")


def test_every_word_is_read() -> None:
    offer = parse_offer("service:web", "3000;state=draining;weight=7;version=1.4")
    assert offer == Offer(WEB, 3000, AppState.DRAINING, 7, "1.4")


def test_a_word_of_a_later_version_is_skipped() -> None:
    assert parse_offer("service:web", "3000;zone=eu") == Offer(WEB, 3000)


@pytest.mark.parametrize(
    "offer",
    [Offer(WEB, 3000), Offer(WEB, 1, AppState.DOWN, 0, "v1+2"), Offer(WEB, 65535, AppState.STARTING, 256)],
)
def test_an_offer_is_read_back_as_it_was_written(offer: Offer) -> None:
    assert parse_offer(*format_offer(offer)) == offer


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        "3000;state=up",
        "3000;weight=257",
        "3000;weight=-1",
        "3000;version=a b",
        "3000;state",
        "3000;weight=1;weight=2",
    ],
)
def test_an_offer_that_does_not_parse_is_refused_whole(value: str) -> None:
    with pytest.raises(PeerError):
        parse_offer("service:web", value)


def test_one_bad_tag_does_not_hide_the_good_ones() -> None:
    offers, refusals = read_offers({"service:web": "3000", "service:a/b": "1", "service:api": "x", "role": "web"})
    assert offers == (Offer(WEB, 3000),)
    assert len(refusals) == 2
