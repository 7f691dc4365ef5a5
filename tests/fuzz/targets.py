"""Every decoder of bytes from the network, each as a function that takes any bytes and must come back.

Each knows what its decoder may raise; anything else is a finding. Driven by plain mutation in `make test`, by atheris
(coverage guides it) in `make fuzz`.
"""

import contextlib
from collections.abc import Callable
from random import Random

from rumor.errors import PeerError
from rumor.haproxy.log_lines import parse_log_line
from rumor.model import Instant
from rumor.names import HostPort
from rumor.serf import codec as serf_codec
from rumor.serf import coordinate, rpc, tags
from rumor.serf.layer import Serf, SerfSettings
from rumor.serf.snapshot import parse_snapshot
from rumor.swim import lzw
from rumor.swim.codec import decode_packet
from rumor.swim.node import NodeSettings
from rumor.swim.presets import LOCAL
from rumor.swim.sealing import Keyring
from rumor.swim.wire import PLAIN, StreamReader, Wire

ME, PEER = HostPort("127.0.0.1", 7946), HostPort("127.0.0.1", 7947)
_PLAIN_LIMIT = 64 * 1024
_KEYS = Wire(Keyring((bytes(range(32)), bytes(range(16)))))


def packet(data: bytes) -> None:
    decode_packet(data, local_port=7946)
    with contextlib.suppress(PeerError):
        decode_packet(_KEYS.unwrap_packet(data), local_port=7946)


def stream(data: bytes) -> None:
    for wire in (PLAIN, _KEYS):
        for is_dialled in (True, False):
            with contextlib.suppress(PeerError):
                reader = StreamReader(wire, local_port=7946, is_dialled=is_dialled)
                middle = len(data) // 2
                if reader.feed(data[:middle]) is None:
                    reader.feed(data[middle:])


def decompression(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        assert len(lzw.decompress(data, limit=_PLAIN_LIMIT)) <= _PLAIN_LIMIT


def serf_message(data: bytes) -> None:
    for decode in (
        serf_codec.decode,
        serf_codec.decode_state,
        serf_codec.decode_filter,
        serf_codec.decode_member,
        serf_codec.decode_key_request,
        serf_codec.decode_key_answer,
        coordinate.decode_coordinate,
        tags.decode_tags,
    ):
        with contextlib.suppress(PeerError):
            decode(data)


def command(data: bytes) -> None:
    reader = rpc.Reader()
    with contextlib.suppress(PeerError):
        reader.feed(data)
        while (found := reader.next()) is not None:
            rpc.text(found.get("Command"))


def remembered(data: bytes) -> None:
    parse_snapshot(data.decode("utf-8", "surrogateescape"))


def log_line(data: bytes) -> None:
    result = parse_log_line(data)
    assert result is None or result.reason.isascii()


def member(data: bytes) -> None:
    """Tell one member all of it, as packet and as stream, and let its timers run."""
    serf = Serf(SerfSettings(NodeSettings("me", ME, LOCAL), {}), random=Random(1), now=Instant(0.0))
    serf.receive_packet(data, PEER, Instant(0.1))
    serf.open_stream(2, Instant(0.1))
    serf.receive_stream(2, data, Instant(0.1))
    serf.close_stream(2, Instant(0.2))
    for tenth in range(3, 12):
        serf.handle_timer(Instant(tenth / 10))
        serf.take_outputs()
    serf.serf_members()


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (packet, stream, decompression, serf_message, command, remembered, log_line, member)
}
