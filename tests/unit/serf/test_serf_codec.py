"""Serf's messages: what real agents sent is read and written back to the same bytes; anything else is refused."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumor.errors import PeerError
from rumor.names import HostPort
from rumor.serf import codec
from rumor.serf.messages import (
    JoinIntent,
    KeyAnswer,
    LeaveIntent,
    MemberRecord,
    NodeFilter,
    PastEvents,
    Query,
    QueryResponse,
    Relay,
    SerfMessage,
    SerfState,
    Status,
    TagFilter,
    UserEvent,
)
from rumor.swim.codec import decode_packet
from rumor.swim.messages import PushPull, User
from rumor.swim.wire import PLAIN, StreamReader, Wire

VECTORS = Path(__file__).parents[2] / "vectors"
HERE = HostPort("10.0.0.1", 7946)
# HEAD writes times as signed numbers, and one message is the test peer's own, in another order.
OTHERS_FORM = {"head-query", "relay-forwarded"}


def load(name: str) -> list[dict[str, Any]]:
    document = json.loads((VECTORS / f"{name}.json").read_text())
    assert len(document["vectors"]) == document["count"]
    vectors: list[dict[str, Any]] = document["vectors"]
    return vectors


def user_messages() -> Iterator[tuple[str, bytes]]:
    for vector in load("udp"):
        wire = Wire(label=vector["decoded"].get("label", "").encode())
        data = wire.unwrap_packet(bytes.fromhex(vector["hex"]))
        for message in decode_packet(data, local_port=1).messages:
            if isinstance(message, User):
                yield vector["id"], message.payload


def test_every_message_of_a_real_agent_is_read_and_written_back() -> None:
    kinds = Counter[str]()
    for name, payload in user_messages():
        message = codec.decode(payload)
        kinds[type(message).__name__] += 1
        assert name in OTHERS_FORM or codec.encode(message) == payload, name
    assert kinds == {
        "UserEvent": 8, "Query": 7, "JoinIntent": 5, "QueryResponse": 5, "LeaveIntent": 2, "Relay": 1,
    }  # fmt: skip


def test_every_state_of_a_real_agent_is_read_and_written_back() -> None:
    read = written = 0
    for vector in load("push_pull"):
        for way in ("client_to_server", "server_to_client"):
            try:
                data = bytes.fromhex(vector[way]["hex"] or "")
                message = StreamReader(PLAIN, local_port=1, is_dialled=True).feed(data)
            except PeerError:
                continue
            if isinstance(message, PushPull) and message.user_state:
                state = codec.decode_state(message.user_state)
                read += 1
                if "initiator" not in vector or way == "server_to_client":
                    assert codec.encode_state(state) == message.user_state, vector["id"]
                    written += 1
    assert (read, written) == (20, 17)


names = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
ltimes = st.integers(0, 2**40)
payloads = st.binary(max_size=40)
addresses = st.builds(HostPort, st.sampled_from(["10.0.0.1", "fd00::1"]), st.integers(1, 65_535))
plain_messages: st.SearchStrategy[SerfMessage] = st.one_of(
    st.builds(JoinIntent, ltimes, names),
    st.builds(LeaveIntent, ltimes, names, st.booleans()),
    st.builds(UserEvent, ltimes, names, payloads, st.booleans()),
    st.builds(
        Query, ltimes, st.integers(0, 2**31), addresses, names, names, payloads,
        st.lists(payloads, max_size=3).map(tuple), st.integers(0, 3), st.integers(0, 255), st.integers(0, 10**12),
    ),
    st.builds(QueryResponse, ltimes, st.integers(0, 2**31), names, st.integers(0, 1), payloads),
)  # fmt: skip


@given(st.one_of(plain_messages, st.builds(Relay, addresses, names, plain_messages.map(codec.encode))))
def test_a_message_comes_back_as_it_went(message: SerfMessage) -> None:
    assert codec.decode(codec.encode(message)) == message


@given(st.one_of(st.binary(max_size=200), plain_messages.map(codec.encode).flatmap(lambda data: st.just(data[:-1]))))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    for read in (codec.decode, codec.decode_state, codec.decode_filter, codec.decode_member, codec.decode_key_answer):
        try:
            read(data)
        except PeerError:
            continue


def test_states_filters_members_and_keys_come_back_as_they_went() -> None:
    state = SerfState(9, 8, 7, {"web": 3, "db": 1}, ("db",), (PastEvents(5, (("deploy", b"1"), ("x", b""))),))
    assert codec.decode_state(codec.encode_state(state)) == state
    for one in (NodeFilter(("a", "b")), TagFilter("role", "^web$")):
        assert codec.decode_filter(codec.encode_filter(one)) == one
    member = MemberRecord("web", HERE, {"role": "db"}, Status.FAILED, bytes((1, 5, 2, 2, 5, 4)))
    assert codec.decode_member(codec.encode_member(member)) == member
    assert codec.decode_member(codec.encode_member(None)) is None
    answer = KeyAnswer(True, "fine", ("a", "b"), "a")
    assert codec.decode_key_answer(codec.encode_key_answer(answer)) == answer
    assert codec.decode_key_request(codec.encode_key_request(b"k" * 16)) == b"k" * 16


def test_a_clock_that_nobody_can_have_reached_is_refused() -> None:
    with pytest.raises(PeerError, match="LTime"):
        codec.decode(codec.encode(JoinIntent(2**63, "web")))
