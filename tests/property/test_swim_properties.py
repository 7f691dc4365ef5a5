"""What holds of the SWIM core whatever the bytes and in whatever order news arrives."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from rumor.model import Instant
from rumor.names import HostPort
from rumor.swim import codec
from rumor.swim.codec import StreamDecoder, decode_packet, encode, encode_compound, encode_push_pull
from rumor.swim.membership import MemberTable, Merge
from rumor.swim.messages import (
    Ack,
    Alive,
    Dead,
    IndirectPing,
    Nack,
    NodeRecord,
    PacketMessage,
    Ping,
    PushPull,
    State,
    Suspect,
    User,
)
from rumor.swim.node import Node, NodeSettings
from rumor.swim.presets import LOCAL

ME = HostPort("10.0.0.1", 7946)
SETTINGS = settings(deadline=None)

numbers = st.integers(0, 2**32 - 1)
texts = st.binary(max_size=24).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
# An address mapped into IPv6 is read as the one it maps, which is another text.
hosts = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda ip: getattr(ip, "ipv4_mapped", None) is None)
)
addresses = st.builds(HostPort.of, hosts, st.integers(1, 65_535))
versions = st.one_of(st.just(b""), st.binary(min_size=6, max_size=6))
meta = st.binary(max_size=codec.META_LIMIT)
messages: st.SearchStrategy[PacketMessage] = st.one_of(
    st.builds(Ping, numbers, texts, st.none() | addresses, texts),
    st.builds(IndirectPing, numbers, texts, addresses, st.booleans(), st.none() | addresses, texts),
    st.builds(Ack, numbers, st.binary(max_size=200)),
    st.builds(Nack, numbers),
    st.builds(Suspect, numbers, texts, texts),
    st.builds(Dead, numbers, texts, texts),
    st.builds(Alive, numbers, texts, addresses, meta, versions),
    st.builds(User, st.binary(max_size=200)),
)
pictures = st.builds(
    PushPull,
    st.booleans(),
    st.lists(st.builds(NodeRecord, texts, addresses, numbers, st.sampled_from(State), meta, versions), max_size=8).map(
        tuple
    ),
    st.binary(max_size=300),
)

# Few names, addresses and numbers, so that news meets news.
names = st.sampled_from(["me", "web", "db"])
few_addresses = st.sampled_from([ME, HostPort("10.0.0.2", 7946), HostPort("10.0.0.3", 7946)])
low = st.integers(0, 4)
claims: st.SearchStrategy[Alive | Suspect | Dead] = st.one_of(
    st.builds(Alive, low, names, few_addresses, st.sampled_from([b"", b"tags"])),
    st.builds(Suspect, low, names, names),
    st.builds(Dead, low, names, names),
)


def new_node() -> Node:
    return Node(NodeSettings("me", ME, LOCAL), random=Random(1), now=Instant(0.0))


def merge(table: MemberTable, claim: Alive | Suspect | Dead) -> Merge:
    match claim:
        case Alive():
            return table.merge_alive(claim, Instant(1.0))
        case Suspect():
            return table.merge_suspect(claim, Instant(1.0))
        case Dead():
            return table.merge_dead(claim, Instant(1.0))


# --- codec


@SETTINGS
@given(messages)
def test_a_message_comes_back_as_it_went(message: PacketMessage) -> None:
    packet = decode_packet(encode(message), local_port=1)
    assert (packet.messages, packet.refused) == ((message,), ())


@SETTINGS
@given(st.lists(messages, min_size=2, max_size=codec.COMPOUND_PARTS_SENT))
def test_a_compound_comes_back_as_it_went(many: list[PacketMessage]) -> None:
    packet = decode_packet(encode_compound([encode(message) for message in many]), local_port=1)
    assert (packet.messages, packet.refused) == (tuple(many), ())


@SETTINGS
@given(pictures, st.lists(st.integers(1, 50), min_size=1))
def test_a_picture_comes_back_as_it_went_however_it_is_cut(picture: PushPull, cuts: list[int]) -> None:
    decoder, data, number, read = StreamDecoder(local_port=1), encode_push_pull(picture), 0, None
    while data:
        assert read is None
        length = cuts[number % len(cuts)]
        read, data, number = decoder.feed(data[:length]), data[length:], number + 1
    assert read == picture


# --- any bytes


@st.composite
def nearly_messages(draw: st.DrawFn) -> bytes:
    """Draw a good packet or picture with some bytes changed, cut off or added."""
    data = bytearray(draw(st.one_of(messages.map(encode), pictures.map(encode_push_pull))))
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) + draw(st.binary(max_size=8))


any_bytes = st.one_of(st.binary(max_size=400), nearly_messages())


@SETTINGS
@given(st.lists(any_bytes, max_size=6))
def test_no_packet_makes_a_node_fall(packets: list[bytes]) -> None:
    node = new_node()
    for number, data in enumerate(packets):
        node.receive_packet(data, HostPort("10.0.0.7", 1), Instant(0.1 * number))
        node.take_outputs()
    node.handle_timer(Instant(1.0))
    assert node.statistics().packets_in == len(packets)


@SETTINGS
@given(st.lists(any_bytes, min_size=1, max_size=6), st.booleans())
def test_no_stream_makes_a_node_fall(pieces: list[bytes], is_ours: bool) -> None:
    node = new_node()
    if is_ours:
        node.join([HostPort("10.0.0.7", 1)], Instant(0.0))
    else:
        node.open_stream(1, Instant(0.0))
    for data in pieces:
        node.receive_stream(1, data, Instant(0.1))
    node.close_stream(1, Instant(0.1))
    node.handle_timer(Instant(1.0))


# --- merging


@SETTINGS
@given(st.lists(claims, max_size=30))
def test_the_same_claim_twice_is_news_once(many: list[Alive | Suspect | Dead]) -> None:
    """But for a conflict, which is an answer and changes nothing."""
    table = MemberTable()
    for claim in many:
        merge(table, claim)
        before = table.views()
        assert merge(table, claim) in (Merge.IGNORED, Merge.CONFLICT)
        assert table.views() == before


@SETTINGS
@given(st.lists(claims, max_size=30))
def test_no_incarnation_goes_back_while_a_name_keeps_its_address(many: list[Alive | Suspect | Dead]) -> None:
    table = MemberTable()
    for claim in many:
        before = {view.name: view for view in table.views()}
        merge(table, claim)
        for view in table.views():
            old = before.get(view.name)
            assert old is None or old.address != view.address or view.incarnation >= old.incarnation


@SETTINGS
@given(st.lists(st.tuples(claims, st.floats(0.0, 3.0)), max_size=30))
def test_a_node_never_lowers_its_own_number_nor_thinks_itself_gone(
    heard: list[tuple[Alive | Suspect | Dead, float]],
) -> None:
    node, now = new_node(), Instant(0.0)
    last = 1
    for claim, pause in heard:
        node.receive_packet(encode(claim), HostPort("10.0.0.2", 7946), now)
        me = node.members()[0]
        assert (me.name, me.address, me.state) == ("me", ME, State.ALIVE)
        assert me.incarnation >= last
        if isinstance(claim, Suspect | Dead) and claim.node == "me":
            assert me.incarnation > claim.incarnation
        last = me.incarnation
        now = Instant(now + pause)
        node.handle_timer(now)
        due = node.next_timer()
        assert due is not None
        assert due > now, "a timer that is due again at once would never end"


@SETTINGS
@given(st.lists(claims, max_size=12), st.randoms(use_true_random=False))
def test_the_higher_incarnation_wins_in_whatever_order_claims_arrive(
    many: list[Alive | Suspect | Dead], random: Random
) -> None:
    """Once a member raises its number above all that was said, everybody who hears of it sees it alive."""
    table = MemberTable()
    table.merge_alive(Alive(1, "web", ME), Instant(0.0))
    shuffled = [claim for claim in many if not isinstance(claim, Alive)]
    random.shuffle(shuffled)
    for claim in shuffled:
        merge(table, claim)
    table.merge_alive(Alive(5, "web", ME), Instant(2.0))
    for claim in shuffled:
        merge(table, claim)
    assert table.records["web"].state is State.ALIVE
