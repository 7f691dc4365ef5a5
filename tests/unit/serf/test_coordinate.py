"""Coordinates converge to the distances that they are made of, whatever a peer claims."""

import math
from random import Random

import pytest

from rumor.errors import PeerError
from rumor.serf.coordinate import Coordinate, CoordinateClient, decode_coordinate, encode_coordinate

PLACES = {"a": (0.0, 0.0), "b": (0.03, 0.0), "c": (0.0, 0.04), "d": (0.03, 0.04)}


def rtt(one: str, other: str) -> float:
    return math.dist(PLACES[one], PLACES[other]) + 0.001


def test_members_learn_how_far_they_are_apart() -> None:
    random = Random(1)
    clients = {name: CoordinateClient(Random(name)) for name in PLACES}
    for _ in range(2000):
        one, other = random.sample(sorted(PLACES), 2)
        clients[one].update(other, clients[other].own, rtt(one, other))
    for one in PLACES:
        for other in PLACES:
            if one != other:
                assert clients[one].own.distance(clients[other].own) == pytest.approx(rtt(one, other), rel=0.25)


def test_a_coordinate_comes_back_as_it_went() -> None:
    found = Coordinate((0.1, -0.2, 0, 0, 0, 0, 0, 1e-9), 0.5, 0.001, 2e-5)
    assert decode_coordinate(encode_coordinate(found)) == found


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x02" + encode_coordinate(Coordinate())[1:],
        encode_coordinate(Coordinate((0.0,) * 7)),
        encode_coordinate(Coordinate((math.nan,) * 8)),
        encode_coordinate(Coordinate(height=math.inf)),
        encode_coordinate(Coordinate())[:-3],
    ],
)
def test_what_is_no_coordinate_is_refused(payload: bytes) -> None:
    with pytest.raises(PeerError):
        decode_coordinate(payload)


@pytest.mark.parametrize("number", [1e300, 9.9e5, -9.9e5])
def test_a_peer_that_lies_cannot_send_this_node_to_infinity(number: float) -> None:
    lie = Coordinate((number,) * 8, 0.0, number, number)
    client = CoordinateClient(Random(1))
    for _ in range(50):
        client.update("liar", lie, 0.001)
        assert client.own.is_valid


@pytest.mark.parametrize("time", [-1.0, 11.0])
def test_an_impossible_time_is_left_alone(time: float) -> None:
    client = CoordinateClient(Random(1))
    client.update("a", Coordinate(), time)
    assert client.own == Coordinate()
