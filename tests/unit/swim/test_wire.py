"""Compression, seals and labels: what real agents wrapped is unwrapped, and the other way round."""

import contextlib
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumor.errors import ConfigError, PeerError, Refused
from rumor.swim import codec, lzw
from rumor.swim.codec import decode_packet, encode, encode_compressed, encode_stream_error
from rumor.swim.messages import Ack, Nack, Ping, StreamError
from rumor.swim.sealing import Keyring, format_key, open_sealed, parse_key, seal
from rumor.swim.wire import SEALED_LIMIT, StreamReader, Wire

VECTORS = Path(__file__).parents[2] / "vectors"
NONCE = bytes(range(12))
ONE, TWO, THREE = bytes(16), bytes(range(24)), b"k" * 32


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    assert len(document["vectors"]) == document["count"]
    return document


def key(name: str) -> bytes:
    return bytes.fromhex(load("encrypted")["keys"][name]["hex"])


# --- LZW


def test_go_compresses_to_the_same_bytes() -> None:
    vectors = load("lzw")["vectors"]
    assert len(vectors) == 8
    for vector in vectors:
        plain, packed = bytes.fromhex(vector["plain_hex"]), bytes.fromhex(vector["lzw_hex"])
        assert lzw.compress(plain) == packed, vector["id"]
        assert lzw.decompress(packed, limit=len(plain)) == plain, vector["id"]


@given(st.one_of(st.binary(max_size=3000), st.lists(st.sampled_from(b"ab"), max_size=9000).map(bytes)))
def test_what_was_compressed_comes_back(plain: bytes) -> None:
    assert lzw.decompress(lzw.compress(plain), limit=len(plain)) == plain


@given(st.binary(max_size=400))
def test_any_bytes_are_plain_data_or_refused(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        assert len(lzw.decompress(data, limit=1000)) <= 1000


@pytest.mark.parametrize("cut", [1, 2, 10])
def test_compressed_data_that_ends_too_early_is_refused(cut: int) -> None:
    with pytest.raises(PeerError, match="ends too early"):
        lzw.decompress(lzw.compress(b"some text, some text, some text")[:-cut], limit=1000)


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    bomb = lzw.compress(bytes(1_000_000))
    assert len(bomb) < 10_000
    with pytest.raises(PeerError, match="more than 999999 bytes"):
        lzw.decompress(bomb, limit=999_999)
    packet = decode_packet(codec.encode_compressed(bytes(codec.PACKET_PLAIN_LIMIT + 1)), local_port=1)
    assert [word.partition(":")[0] for word in packet.refused] == ["bad_compressed"]


def test_all_parts_of_a_packet_share_one_limit() -> None:
    part = encode_compressed(encode(Nack(1)) + bytes(codec.PACKET_PLAIN_LIMIT // 2))
    packet = decode_packet(codec.encode_compound([part, part, part]), local_port=1)
    assert (len(packet.messages), len(packet.refused)) == (1, 2)


def test_compression_within_compression_has_an_end() -> None:
    data = encode(Nack(1))
    for _ in range(codec.NESTING_LIMIT):
        data = encode_compressed(data)
    assert decode_packet(data, local_port=1).messages == (Nack(1),)
    assert decode_packet(encode_compressed(data), local_port=1).refused == ("nested_too_deep",)


def test_an_unknown_algorithm_is_refused() -> None:
    data = encode_compressed(encode(Nack(1))).replace(b"Algo\x00", b"Algo\x01")
    assert decode_packet(data, local_port=1).refused[0].startswith("bad_compressed")


# --- keys


def test_keys_are_installed_used_and_removed_in_serfs_words() -> None:
    ring = Keyring((ONE,)).install(TWO).install(TWO)
    assert ring.keys == (ONE, TWO)
    assert ring.use(TWO).keys == (TWO, ONE)
    assert ring.use(TWO).remove(ONE).keys == (TWO,)
    assert ring.remove(THREE) == ring
    with pytest.raises(Refused, match="Removing the primary key is not allowed"):
        ring.remove(ONE)
    with pytest.raises(Refused, match="Requested key is not in the keyring"):
        ring.use(THREE)
    with pytest.raises(Refused, match="key size must be 16, 24 or 32 bytes"):
        ring.install(b"short")


def test_a_key_is_written_and_read_in_base64_and_never_repeated_in_an_error() -> None:
    assert parse_key(format_key(THREE) + "\n") == THREE
    for text in ("not base64!", format_key(b"short")):
        with pytest.raises(ConfigError) as caught:
            parse_key(text)
        assert text not in str(caught.value)
    assert "kkk" not in repr(Keyring((THREE,)))


@pytest.mark.parametrize("size", [ONE, TWO, THREE])
def test_a_seal_is_opened_by_any_key_of_the_ring_and_by_no_other(size: bytes) -> None:
    sealed = seal(Keyring((size,)), b"plain", b"extra", nonce=NONCE)
    assert open_sealed(Keyring((bytes(32), size)), sealed, b"extra") == b"plain"
    for ring, extra in ((Keyring((bytes(32),)), b"extra"), (Keyring((size,)), b"other")):
        with pytest.raises(PeerError, match="No installed keys could decrypt the message"):
            open_sealed(ring, sealed, extra)


@given(st.binary(max_size=80))
def test_any_bytes_under_a_seal_are_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        open_sealed(Keyring((ONE,)), data, b"")


# --- packets


def test_sealed_packets_of_real_agents_are_opened_and_sealed_the_same() -> None:
    checked = 0
    for vector in load("encrypted")["vectors"]:
        if vector["transport"] != "udp":
            continue
        for way in ("sent", "reply", ""):
            data = vector.get(f"{way}_hex" if way else "hex")
            # For the labelled ones the key and the plain text stand beside the packet.
            said = (vector.get(f"{way}_decoded") if way else vector) or {}
            if data is None or "plain_hex" not in said:
                continue
            packet = bytes.fromhex(data)
            wire = Wire(Keyring((bytes(32), key(said["key"]))), label=vector.get("aad", "").encode())
            plain = bytes.fromhex(said["plain_hex"])
            assert wire.unwrap_packet(packet) == plain, vector["id"]
            assert not decode_packet(plain, local_port=1).refused, vector["id"]
            start = len(wire.label) + 2 if wire.label else 0
            if packet[start] == 1:
                again = Wire(Keyring((key(said["key"]),)), label=wire.label)
                nonce = packet[start + 1 : start + 13]
                assert again.wrap_packet(plain, nonce, has_crc=False) == packet, vector["id"]
            checked += 1
    assert checked == 25


@pytest.mark.parametrize(
    ("wire", "data"),
    [
        (Wire(Keyring((ONE,))), encode(Nack(1))),
        (Wire(Keyring((ONE,))), b""),
        (Wire(label=b"a"), encode(Nack(1))),
        (Wire(label=b"a"), b"\xf4\x01b" + encode(Nack(1))),
        (Wire(), b"\xf4\x01b" + encode(Nack(1))),
        (Wire(), b"\xf4\x00"),
        (Wire(), b"\xf4\x09b"),
        (Wire(), b"\xf4"),
    ],
)
def test_packets_that_are_not_wrapped_as_ours_are_refused(wire: Wire, data: bytes) -> None:
    with pytest.raises(PeerError, match=r"^(label|seal): "):
        wire.unwrap_packet(data)


@pytest.mark.parametrize("compresses", [True, False])
@pytest.mark.parametrize("ring", [None, Keyring((THREE, ONE))])
@pytest.mark.parametrize("label", [b"", b"lab"])
@pytest.mark.parametrize("has_crc", [True, False])
def test_a_packet_comes_back_through_all_its_layers(
    compresses: bool, ring: Keyring | None, label: bytes, has_crc: bool
) -> None:
    wire = Wire(ring, label, compresses)
    message = Ack(7, b"payload " * 20)
    data = wire.wrap_packet(encode(message), NONCE, has_crc=has_crc)
    assert (len(data) < len(encode(message))) is compresses or ring is not None
    assert decode_packet(wire.unwrap_packet(data), local_port=1).messages == (message,)
    assert len(wire.wrap_packet(b"?", NONCE, has_crc=False)) == 1 + wire.overhead


def test_a_packet_goes_plain_where_compression_gains_nothing() -> None:
    data = encode(Nack(1))
    assert Wire(compresses=True).wrap_packet(data, b"", has_crc=False) == data


def test_a_wrong_checksum_is_noticed() -> None:
    data = Wire().wrap_packet(encode(Nack(1)), b"", has_crc=True)
    assert data[1:5] == zlib.crc32(data[5:]).to_bytes(4, "big")
    assert decode_packet(data[:-1] + b"\x07", local_port=1).refused == ("bad_crc",)


# --- streams


def reader(wire: Wire, *, is_dialled: bool = True) -> StreamReader:
    return StreamReader(wire, local_port=1, is_dialled=is_dialled)


def test_sealed_streams_of_real_agents_are_read() -> None:
    checked = 0
    for vector in load("encrypted")["vectors"]:
        if vector["transport"] != "tcp" or vector["id"] in ("enc-tcp-noaad", "enc-tcp-plain"):
            continue
        ring = Keyring((key(vector.get("key", "K1")),))
        label = b"lab1" if "label" in vector["id"] else b""
        ways = [
            (vector.get("sent_hex") or vector["client_to_server"]["hex"], True),
            (vector.get("reply_hex") or vector["server_to_client"]["hex"], False),
        ]
        for data, is_dialled in ways:
            assert reader(Wire(ring, label), is_dialled=is_dialled).feed(bytes.fromhex(data)) is not None, vector["id"]
            checked += 1
    assert checked == 10


@pytest.mark.parametrize("wire", [Wire(), Wire(compresses=True), Wire(Keyring((ONE,)), b"lab", True), Wire(label=b"x")])
@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("is_dialled", [True, False])
def test_a_stream_comes_back_however_it_is_cut(wire: Wire, step: int, is_dialled: bool) -> None:
    data = wire.wrap_stream(encode(Ping(1, "web")), NONCE, is_dialling=is_dialled)
    stream, read = reader(wire, is_dialled=is_dialled), None
    for start in range(0, len(data), step):
        assert read is None
        read = stream.feed(data[start : start + step])
    assert read == Ping(1, "web")


@pytest.mark.parametrize(
    ("wire", "data", "words"),
    [
        (Wire(), b"\x0a\x00\x00", "Remote state is encrypted and encryption is not configured"),
        (Wire(Keyring((ONE,))), encode(Ping(1)), "Encryption is configured but remote state is not encrypted"),
        (
            Wire(Keyring((ONE,))),
            Wire(Keyring((TWO,))).wrap_stream(encode(Ping(1)), NONCE, is_dialling=True),
            "No installed keys could decrypt the message",
        ),
        (Wire(Keyring((ONE,))), b"\x0a" + (SEALED_LIMIT + 1).to_bytes(4, "big"), "more than"),
        (Wire(label=b"a"), encode(Ping(1)), "label"),
        (Wire(), encode_compressed(encode_compressed(encode(Ping(1)))), "compressed more than once"),
        (Wire(), encode_compressed(encode(Ping(1))[:-2]), "cut short"),
        (
            Wire(Keyring((ONE,))),
            Wire(Keyring((ONE,))).wrap_stream(encode(Ping(1))[:-2], NONCE, is_dialling=True),
            "cut short",
        ),
    ],
)
def test_streams_that_are_not_wrapped_as_ours_are_refused_in_memberlists_words(
    wire: Wire, data: bytes, words: str
) -> None:
    with pytest.raises(PeerError, match=words):
        reader(wire).feed(data)


def test_the_words_of_a_refusal_are_sealed_like_everything() -> None:
    wire = Wire(Keyring((ONE,)))
    data = wire.wrap_stream(encode_stream_error("no"), NONCE, is_dialling=False)
    assert b"no" not in data[5 + 13 :]
    assert reader(wire, is_dialled=False).feed(data) == StreamError("no")
