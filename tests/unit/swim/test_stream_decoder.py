"""A stream is read as it comes: each byte once, and no object without a limit."""

from collections.abc import Iterator
from random import Random

import msgpack
import pytest

from rumor.errors import PeerError
from rumor.names import HostPort
from rumor.swim.codec import STREAM_OBJECT_LIMIT, StreamDecoder, encode_push_pull
from rumor.swim.messages import VERSIONS, NodeRecord, PushPull, State

NODES = tuple(
    NodeRecord(f"web-{number}", HostPort("10.0.0.1", 1 + number), number, State.ALIVE, b"x" * number, VERSIONS)
    for number in range(200)
)
PICTURE = PushPull(True, NODES, b"the user state")


def cut(data: bytes, random: Random) -> Iterator[bytes]:
    while data:
        length = random.choice([1, 2, 7, 300, 5000])
        yield data[:length]
        data = data[length:]


@pytest.mark.parametrize("seed", range(5))
def test_a_push_pull_may_be_cut_anywhere(seed: int) -> None:
    decoder = StreamDecoder(local_port=1)
    *head, last = cut(encode_push_pull(PICTURE), Random(seed))
    assert all(decoder.feed(piece) is None for piece in head)
    assert decoder.feed(last) == PICTURE


def object_of(length: int) -> bytes:
    """Return a map of exactly so many bytes, in a field nobody knows."""
    filling = bytes(length - len(msgpack.packb({"Unknown": b"x" * 1000}, use_bin_type=False)) + 1000)
    encoded: bytes = msgpack.packb({"Unknown": filling}, use_bin_type=False)
    assert len(encoded) == length
    return encoded


def test_an_object_at_the_limit_is_read() -> None:
    decoder = StreamDecoder(local_port=1)
    assert decoder.feed(b"\x06" + object_of(STREAM_OBJECT_LIMIT)) == PushPull(False, ())


def test_an_object_that_goes_on_beyond_the_limit_is_refused_before_it_is_whole() -> None:
    decoder = StreamDecoder(local_port=1)
    # A map of 1024 fields, whose fields never end.
    decoder.feed(b"\x06\xdf\x00\x00\x04\x00")
    fields = b"".join(msgpack.packb(f"field {number}") + msgpack.packb(b"x" * 20) for number in range(1000))
    with pytest.raises(PeerError, match="longer than"):
        decoder.feed(fields)
