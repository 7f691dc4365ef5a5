"""Packets are read up to every limit and refused one beyond it, by name and never by an exception."""

import struct
import zlib
from dataclasses import replace

import msgpack
import pytest

from rumor.errors import PeerError
from rumor.names import HostPort
from rumor.swim import codec, fields
from rumor.swim.codec import (
    StreamDecoder,
    decode_packet,
    encode,
    encode_compound,
    encode_push_pull,
    encode_stream_error,
)
from rumor.swim.messages import (
    Ack,
    Alive,
    IndirectPing,
    Nack,
    PacketMessage,
    Ping,
    PushPull,
    StreamError,
    StreamMessage,
    Suspect,
    User,
)

WEB = Alive(1, "web", HostPort("10.0.0.1", 7946), b"tags")


def read(data: bytes) -> tuple[PacketMessage, ...]:
    """Decode a packet of which nothing may be refused."""
    packet = decode_packet(data, local_port=7946)
    assert packet.refused == ()
    return packet.messages


def refusals(data: bytes) -> list[str]:
    """Decode a packet of which everything must be refused."""
    packet = decode_packet(data, local_port=7946)
    assert packet.messages == ()
    return [reason.partition(":")[0] for reason in packet.refused]


def body(kind: int, **fields: object) -> bytes:
    packed: bytes = msgpack.packb(fields, use_bin_type=False)
    return bytes((kind,)) + packed


def stream(data: bytes) -> StreamMessage | None:
    return StreamDecoder(local_port=7946).feed(data)


# --- limits of packets


@pytest.mark.parametrize(("length", "kept"), [(fields.NAME_LIMIT, True), (fields.NAME_LIMIT + 1, False)])
def test_a_name_is_read_up_to_its_limit(length: int, kept: bool) -> None:
    message = Ping(1, "n" * length)
    assert (read(encode(message)) == (message,)) if kept else (refusals(encode(message)) == ["bad_ping"])


@pytest.mark.parametrize(("length", "kept"), [(codec.META_LIMIT, True), (codec.META_LIMIT + 1, False)])
def test_meta_is_read_up_to_its_limit(length: int, kept: bool) -> None:
    message = replace(WEB, meta=b"m" * length)
    assert (read(encode(message)) == (message,)) if kept else (refusals(encode(message)) == ["bad_alive"])


@pytest.mark.parametrize(("length", "kept"), [(codec.ACK_PAYLOAD_LIMIT, True), (codec.ACK_PAYLOAD_LIMIT + 1, False)])
def test_the_payload_of_an_ack_is_read_up_to_its_limit(length: int, kept: bool) -> None:
    message = Ack(1, b"p" * length)
    assert (read(encode(message)) == (message,)) if kept else (refusals(encode(message)) == ["bad_ack"])


@pytest.mark.parametrize(("number", "kept"), [(0, True), (2**32 - 1, True), (2**32, False), (-1, False)])
def test_a_sequence_number_has_32_bits(number: int, kept: bool) -> None:
    data = body(codec.NACK, SeqNo=number)
    assert (read(data) == (Nack(number),)) if kept else (refusals(data) == ["bad_nack"])


@pytest.mark.parametrize("wrong", [1.0, True, b"1", [1], {}])
def test_a_number_of_another_type_is_refused(wrong: object) -> None:
    assert refusals(body(codec.NACK, SeqNo=wrong)) == ["bad_nack"]


@pytest.mark.parametrize(("length", "kept"), [(codec.PACKET_LIMIT, True), (codec.PACKET_LIMIT + 1, False)])
def test_a_packet_is_read_up_to_its_limit(length: int, kept: bool) -> None:
    data = bytes((codec.USER,)) + bytes(length - 1)
    assert (read(data) == (User(bytes(length - 1)),)) if kept else (refusals(data) == ["too_long"])


@pytest.mark.parametrize(("port", "kept"), [(65_535, True), (65_536, False)])
def test_a_port_has_16_bits(port: int, kept: bool) -> None:
    data = body(codec.ALIVE, Node="web", Addr=bytes((10, 0, 0, 1)), Port=port)
    packet = decode_packet(data, local_port=7946)
    assert bool(packet.messages) is kept


def test_a_port_that_is_not_told_is_ours() -> None:
    (message,) = read(body(codec.ALIVE, Node="web", Addr=bytes((10, 0, 0, 1))))
    assert isinstance(message, Alive)
    assert message.address == HostPort("10.0.0.1", 7946)


@pytest.mark.parametrize("length", [0, 3, 5, 15, 17])
def test_an_address_that_has_neither_4_nor_16_bytes_is_refused(length: int) -> None:
    assert refusals(body(codec.ALIVE, Node="web", Addr=bytes(length), Port=1)) == ["bad_alive"]


def test_a_mapped_address_is_the_one_it_maps() -> None:
    (message,) = read(body(codec.ALIVE, Node="web", Addr=bytes(10) + b"\xff\xff\x0a\x00\x00\x01", Port=1))
    assert isinstance(message, Alive)
    assert message.address == HostPort("10.0.0.1", 1)


@pytest.mark.parametrize(("versions", "kept"), [(0, True), (5, False), (6, True), (64, True), (65, False)])
def test_versions_are_six_bytes_or_none(versions: int, kept: bool) -> None:
    data = body(codec.ALIVE, Node="web", Addr=bytes(4), Port=1, Vsn=bytes(versions))
    assert bool(decode_packet(data, local_port=1).messages) is kept


# --- compounds


def nested(depth: int) -> bytes:
    data = encode(Nack(1))
    for _ in range(depth):
        data = bytes((codec.COMPOUND, 1)) + struct.pack(">H", len(data)) + data
    return data


def test_compounds_nest_up_to_the_limit() -> None:
    assert read(nested(codec.NESTING_LIMIT)) == (Nack(1),)
    assert refusals(nested(codec.NESTING_LIMIT + 1)) == ["nested_too_deep"]


def test_as_many_parts_are_read_as_one_byte_can_count() -> None:
    parts = tuple(Nack(number) for number in range(codec.COMPOUND_PARTS_LIMIT))
    assert read(encode_compound([encode(part) for part in parts])) == parts


def test_a_single_message_goes_without_a_compound_around_it() -> None:
    assert encode_compound([encode(Nack(1))]) == encode(Nack(1))


def test_the_whole_parts_of_a_cut_compound_are_read() -> None:
    data = encode_compound([encode(Nack(1)), encode(Nack(2))])
    packet = decode_packet(data[:-1], local_port=1)
    assert (packet.messages, packet.refused) == ((Nack(1),), ("cut_short",))


@pytest.mark.parametrize("data", [b"\x07", b"\x07\x02\x00"])
def test_a_compound_without_its_table_is_refused(data: bytes) -> None:
    assert refusals(data) == ["cut_short"]


def test_a_bad_part_does_not_spoil_the_others() -> None:
    packet = decode_packet(encode_compound([b"\x00\xc1", encode(Nack(2)), b"\x63"]), local_port=1)
    assert packet.messages == (Nack(2),)
    assert [reason.partition(":")[0] for reason in packet.refused] == ["bad_ping", "unknown_type"]


# --- wrappers


def test_a_checksum_is_checked() -> None:
    data = encode(Nack(1))
    good = bytes((codec.CRC,)) + zlib.crc32(data).to_bytes(4, "big") + data
    assert read(good) == (Nack(1),)
    assert refusals(good[:-1] + b"\x02") == ["bad_crc"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x09\x80", "bad_compressed"),
        (b"\x0a\x80", "encrypted"),
        (b"\xf4\x01x\x00\x80", "label"),
        (b"\x0c\x00", "crc_inside"),
        (b"\x06\x80", "unknown_type"),
        (b"\x0d\x80", "unknown_type"),
        (b"\x63abc", "unknown_type"),
        (b"\x00\xc1", "bad_ping"),
        (b"\x00\x93\x01\x02\x03", "bad_ping"),
        (b"\x00\xd9", "bad_ping"),
        (b"\x00" + b"\x91" * 2000, "bad_ping"),
        (b"\x00\xdf\xff\xff\xff\xff", "bad_ping"),
    ],
)
def test_what_is_not_spoken_is_refused_by_name(data: bytes, reason: str) -> None:
    assert refusals(data) == [reason]


# --- what real agents send


def test_fields_that_are_missing_or_nil_are_zero() -> None:
    assert read(body(codec.PING)) == (Ping(0),)
    assert read(body(codec.SUSPECT, Node="web", From=None)) == (Suspect(0, "web", ""),)


def test_unknown_fields_and_bytes_after_the_message_are_passed_over() -> None:
    assert read(body(codec.NACK, SeqNo=1, Zork=[1, {"a": 2}]) + b"garbage") == (Nack(1),)


def test_text_that_is_no_utf_8_goes_through_unchanged() -> None:
    data = b"\x03\x83\xa4From\xa1\xff\xabIncarnation\x01\xa4Node\xa2\xfe\xfd"
    assert encode(read(data)[0]) == data


def test_a_source_is_known_only_with_its_port() -> None:
    assert read(body(codec.PING, SeqNo=1, SourceAddr=bytes(4))) == (Ping(1),)
    target = HostPort("10.0.0.9", 1)
    ping = IndirectPing(1, "web", target, nack=True, source=HostPort("::1", 7946), source_node="me")
    assert read(encode(ping)) == (ping,)


# --- streams


@pytest.mark.parametrize("message", [Ping(1, "web"), Ack(7)])
def test_a_ping_and_its_ack_travel_over_a_stream(message: Ping | Ack) -> None:
    assert stream(encode(message)) == message


def test_an_error_is_read_up_to_its_limit() -> None:
    text = "e" * codec.ERROR_TEXT_LIMIT
    assert stream(encode_stream_error(text)) == StreamError(text)
    with pytest.raises(PeerError):
        stream(encode_stream_error(text + "e"))


@pytest.mark.parametrize(("field", "limit"), [("Nodes", codec.NODES_LIMIT), ("UserStateLen", codec.USER_STATE_LIMIT)])
def test_a_push_pull_announces_no_more_than_the_limits(field: str, limit: int) -> None:
    assert stream(body(codec.PUSH_PULL, **{field: limit})) is None
    with pytest.raises(PeerError):
        stream(body(codec.PUSH_PULL, **{field: limit + 1}))


def test_a_user_message_on_a_stream_is_as_long_as_it_says() -> None:
    head = body(codec.USER, UserMsgLen=3)
    assert stream(head + b"ab") is None
    assert stream(head + b"abc") == User(b"abc")
    with pytest.raises(PeerError):
        stream(body(codec.USER, UserMsgLen=codec.USER_STATE_LIMIT + 1))


@pytest.mark.parametrize(("state", "kept"), [(3, True), (4, False)])
def test_a_state_has_four_values(state: int, kept: bool) -> None:
    node: bytes = msgpack.packb({"Name": "web", "Addr": bytes(4), "State": state}, use_bin_type=False)
    data = body(codec.PUSH_PULL, Nodes=1) + node
    if kept:
        assert isinstance(stream(data), PushPull)
    else:
        with pytest.raises(PeerError):
            stream(data)


@pytest.mark.parametrize("kind", [codec.ENCRYPT, codec.LABEL, codec.COMPOUND, codec.ALIVE, 99])
def test_a_stream_of_another_kind_is_refused_at_its_first_byte(kind: int) -> None:
    with pytest.raises(PeerError):
        stream(bytes((kind,)))


def test_nothing_may_follow_the_message() -> None:
    decoder = StreamDecoder(local_port=1)
    assert decoder.feed(encode_push_pull(PushPull(True, ()))) == PushPull(True, ())
    with pytest.raises(PeerError, match="after the message"):
        decoder.feed(b"x")
