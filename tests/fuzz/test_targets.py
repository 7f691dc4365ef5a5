"""No bytes make a decoder do anything but decode or refuse."""

import zlib
from collections.abc import Callable
from itertools import islice
from random import Random

import pytest
from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS

from rumor.swim.codec import decode_packet

MUTANTS = 20_000


@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_make_it_fall(name: str) -> None:
    fall_over(TARGETS[name], Random(zlib.crc32(name.encode())), MUTANTS)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_make_it_fall_for_long(name: str) -> None:
    fall_over(TARGETS[name], Random(), 1_000_000)


def fall_over(target: Callable[[bytes], None], random: Random, count: int) -> None:
    for data in [*seeds.everything(), *islice(seeds.mutants(seeds.everything(), random), count)]:
        try:
            target(data)
        except Exception as error:
            pytest.fail(f"{data.hex()}: {error!r}")


def test_the_bytes_are_hostile_and_not_just_noise() -> None:
    packets = list(islice(seeds.mutants(seeds.packets(), Random(1)), MUTANTS))
    refused = sum(bool(decode_packet(data, local_port=1).refused) for data in packets)
    read = sum(bool(decode_packet(data, local_port=1).messages) for data in packets)
    assert refused > MUTANTS / 5, "hardly anything is wrong with them"
    assert read > MUTANTS / 5, "hardly anything in them is right"


def test_a_decoder_with_a_hole_is_found() -> None:
    def careless(data: bytes) -> None:
        if data[:1] == b"\x00" and len(data) > 1:
            data[data[1]]

    with pytest.raises(pytest.fail.Exception):
        fall_over(careless, Random(1), MUTANTS)
