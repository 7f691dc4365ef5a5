"""One node and what it answers: refutation, probes, addresses, streams, leaving."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

import pytest

from rumor.model import Instant
from rumor.names import HostPort
from rumor.swim import events
from rumor.swim import node as node_module
from rumor.swim.codec import StreamDecoder, decode_packet, encode, encode_compound, encode_push_pull
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
    StreamError,
    Suspect,
    User,
)
from rumor.swim.node import CloseStream, Node, NodeSettings, Notify, OpenStream, Output, SendPacket, SendStream
from rumor.swim.presets import LAN

ME = HostPort("10.0.0.1", 7946)
WEB = HostPort("10.0.0.2", 7946)
DB = HostPort("10.0.0.3", 7946)
ELSEWHERE = HostPort("10.0.0.9", 7946)
T = TypeVar("T", bound=events.Event)


class Stage:
    """A node, its clock, and what it did since it was last asked."""

    def __init__(self, *members: tuple[str, HostPort], meta: bytes = b"") -> None:
        self.now = Instant(0.0)
        self.node = Node(NodeSettings("me", ME, LAN, meta), random=Random(1), now=self.now)
        for name, address in members:
            self.hear(Alive(1, name, address))
        self.outputs: list[Output] = []
        self.node.take_outputs()

    def hear(self, *messages: PacketMessage, source: HostPort = WEB) -> None:
        self.node.receive_packet(encode_compound([encode(message) for message in messages]), source, self.now)

    def pass_time(self, seconds: float) -> None:
        """Let the timer fire whenever it is due."""
        until = Instant(self.now + seconds)
        while (due := self.node.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            self.node.handle_timer(self.now)
        self.now = until

    def take(self) -> list[Output]:
        self.outputs = self.node.take_outputs()
        return self.outputs

    def sent(self, destination: HostPort | None = None) -> list[PacketMessage]:
        return [
            message
            for output in self.take()
            if isinstance(output, SendPacket) and destination in (None, output.destination)
            for message in decode_packet(output.data, local_port=1).messages
        ]

    def answers(self, destination: HostPort | None = None) -> list[PacketMessage]:
        """Return what was sent but for the news that rides along."""
        return [message for message in self.sent(destination) if not isinstance(message, Alive | Suspect | Dead)]

    def told(self, kind: type[T]) -> list[T]:
        return [output.event for output in self.take() if isinstance(output, Notify) and isinstance(output.event, kind)]

    def state(self, name: str) -> State:
        return next(member.state for member in self.node.members() if member.name == name)

    def address(self, name: str) -> HostPort:
        return next(member.address for member in self.node.members() if member.name == name)

    @property
    def incarnation(self) -> int:
        return self.node.members()[0].incarnation

    @property
    def refused(self) -> dict[str, int]:
        return self.node.statistics().refused

    def exchange(self, nodes: Sequence[NodeRecord], *, stream_id: int = 2) -> PushPull:
        """Open a stream to the node, send a picture, and return the node's own."""
        self.node.open_stream(stream_id, self.now)
        self.node.receive_stream(stream_id, encode_push_pull(PushPull(False, tuple(nodes))), self.now)
        (reply,) = [output for output in self.take() if isinstance(output, SendStream)]
        message = StreamDecoder(local_port=1).feed(reply.data)
        assert isinstance(message, PushPull)
        return message


def record(name: str, address: HostPort, state: State = State.ALIVE, incarnation: int = 1) -> NodeRecord:
    return NodeRecord(name, address, incarnation, state)


# --- what is said about this node


@pytest.mark.parametrize("accused", [1, 2, 40])
@pytest.mark.parametrize("kind", [Suspect, Dead])
def test_an_accusation_is_outweighed_by_a_higher_incarnation(kind: type[Suspect | Dead], accused: int) -> None:
    stage = Stage(("web", WEB))
    stage.hear(kind(accused, "me", "web"))
    assert stage.incarnation == accused + 1
    assert stage.told(events.Refuted) == [events.Refuted(accused + 1)]
    stage.pass_time(0.3)
    assert Alive(accused + 1, "me", ME) in stage.sent()
    assert stage.state("me") is State.ALIVE


@pytest.mark.parametrize("kind", [Suspect, Dead])
def test_an_accusation_of_an_earlier_incarnation_is_no_news(kind: type[Suspect | Dead]) -> None:
    stage = Stage(("web", WEB))
    stage.hear(kind(0, "me", "web"))
    assert stage.incarnation == 1
    assert stage.told(events.Refuted) == []


def test_the_memory_of_an_earlier_life_is_outweighed() -> None:
    stage = Stage(("web", WEB))
    stage.hear(Alive(7, "me", ME, b"old"))
    assert stage.incarnation == 8


def test_other_meta_at_the_own_incarnation_is_outweighed_and_an_echo_is_not() -> None:
    stage = Stage(("web", WEB), meta=b"tags")
    stage.hear(Alive(1, "me", ME, b"tags"))
    assert stage.incarnation == 1
    stage.hear(Alive(1, "me", ME, b"other"))
    assert stage.incarnation == 2


def test_new_meta_raises_the_incarnation_and_the_same_meta_does_not() -> None:
    stage = Stage(("web", WEB))
    stage.node.set_meta(b"new", stage.now)
    stage.node.set_meta(b"new", stage.now)
    assert stage.incarnation == 2
    stage.pass_time(0.3)
    assert Alive(2, "me", ME, b"new") in stage.sent(WEB)


def test_a_claim_to_the_own_name_from_elsewhere_is_told_and_not_obeyed() -> None:
    stage = Stage(("web", WEB))
    stage.hear(Alive(9, "me", ELSEWHERE))
    assert stage.told(events.NameConflict) == [events.NameConflict("me", ME, ELSEWHERE)]
    assert (stage.address("me"), stage.incarnation) == (ME, 1)


# --- probes


def test_a_ping_is_acked_to_its_source_or_else_to_its_sender() -> None:
    stage = Stage()
    stage.hear(Ping(5, "me"), source=DB)
    assert stage.answers(DB) == [Ack(5)]
    stage.hear(Ping(6, "me", WEB, "web"), source=DB)
    assert stage.answers(WEB) == [Ack(6)]


def test_a_ping_for_another_name_is_not_answered() -> None:
    stage = Stage()
    stage.hear(Ping(5, "web"))
    assert stage.answers() == []
    assert stage.refused == {"ping_for_another": 1}


def test_an_indirect_ping_is_relayed_and_its_ack_comes_back() -> None:
    stage = Stage()
    stage.hear(IndirectPing(22, "db", DB, nack=True, source=WEB, source_node="web"))
    (ping,) = stage.answers(DB)
    assert isinstance(ping, Ping)
    assert ping.node == "db"
    stage.hear(Ack(ping.seq_no), source=DB)
    assert stage.answers(WEB) == [Ack(22)]


@pytest.mark.parametrize("wants_nack", [True, False])
def test_a_silent_target_earns_a_nack_where_one_is_wanted(wants_nack: bool) -> None:
    stage = Stage()
    stage.hear(IndirectPing(22, "db", DB, nack=wants_nack, source=WEB))
    stage.pass_time(LAN.probe_timeout + 0.01)
    assert stage.answers(WEB) == ([Nack(22)] if wants_nack else [])


def test_relays_are_taken_up_to_the_limit() -> None:
    stage = Stage()
    for number in range(node_module._RELAYS_LIMIT):
        stage.hear(IndirectPing(number, "db", DB, nack=False, source=WEB))
    assert stage.refused == {}
    stage.hear(IndirectPing(1, "db", DB, nack=False, source=WEB))
    assert stage.refused == {"too_many_relays": 1}


def test_a_silent_member_is_asked_through_helpers_and_over_tcp_before_it_is_suspected() -> None:
    stage = Stage(("web", WEB))
    while not any(isinstance(message, Ping) for message in stage.answers(WEB)):
        stage.pass_time(0.01)
    stage.hear(Alive(1, "db", DB))
    stage.pass_time(LAN.probe_timeout + 0.01)
    outputs = stage.take()
    assert [output.destination for output in outputs if isinstance(output, OpenStream)] == [WEB]
    asked = [
        message
        for output in outputs
        if isinstance(output, SendPacket) and output.destination == DB
        for message in decode_packet(output.data, local_port=1).messages
        if isinstance(message, IndirectPing)
    ]
    assert [request.target for request in asked] == [WEB]
    assert stage.state("web") is State.ALIVE
    stage.pass_time(0.5)
    assert stage.state("web") is State.SUSPECT
    assert stage.told(events.MemberSuspected) == [events.MemberSuspected("web", "me")]


def test_an_ack_in_time_keeps_a_member_alive() -> None:
    stage = Stage(("web", WEB))
    for _ in range(30):
        stage.pass_time(0.1)
        for message in stage.sent(WEB):
            if isinstance(message, Ping):
                stage.hear(Ack(message.seq_no))
    assert stage.state("web") is State.ALIVE
    assert stage.node.statistics().probes_failed == 0


def test_a_suspect_that_stays_silent_fails_after_its_time() -> None:
    stage = Stage(("web", WEB))
    stage.hear(Suspect(1, "web", "db"))
    stage.pass_time(3.9)
    assert stage.state("web") is State.SUSPECT
    stage.pass_time(0.2)
    assert stage.state("web") is State.DEAD
    assert stage.told(events.MemberFailed) == [events.MemberFailed("web", "me")]


def test_a_suspect_that_speaks_for_itself_is_alive() -> None:
    stage = Stage(("web", WEB))
    stage.hear(Suspect(1, "web", "db"))
    stage.hear(Alive(2, "web", WEB))
    assert stage.told(events.MemberRefuted) == [events.MemberRefuted("web")]
    stage.pass_time(1.0)
    assert stage.state("web") is State.ALIVE


def test_a_suspect_is_told_of_the_accusation_with_its_probe() -> None:
    stage = Stage(("web", WEB))
    stage.hear(Suspect(1, "web", "db"))
    stage.take()
    stage.pass_time(1.0)
    packets = [output.data for output in stage.take() if isinstance(output, SendPacket) and output.destination == WEB]
    together = [decode_packet(data, local_port=1).messages for data in packets]
    assert any(isinstance(group[0], Ping) and Suspect(1, "web", "me") in group for group in together)


# --- a known name at a new address


def test_the_old_address_is_asked_before_a_new_one_is_believed() -> None:
    stage = Stage(("web", WEB))
    stage.hear(Alive(2, "web", ELSEWHERE), source=ELSEWHERE)
    assert [type(message) for message in stage.answers(WEB)] == [Ping]
    assert stage.address("web") == WEB


def test_a_new_address_is_believed_when_the_old_one_stays_silent() -> None:
    stage = Stage(("web", WEB))
    stage.hear(Alive(2, "web", ELSEWHERE), source=ELSEWHERE)
    stage.pass_time(LAN.probe_interval + 0.01)
    assert stage.told(events.MemberUpdated) == [events.MemberUpdated("web")]
    assert (stage.address("web"), stage.state("web")) == (ELSEWHERE, State.ALIVE)


def test_a_new_address_is_a_conflict_when_the_old_one_answers() -> None:
    stage = Stage(("web", WEB))
    stage.hear(Alive(2, "web", ELSEWHERE), source=ELSEWHERE)
    (ping,) = stage.answers(WEB)
    assert isinstance(ping, Ping)
    stage.hear(Ack(ping.seq_no))
    assert stage.told(events.NameConflict) == [events.NameConflict("web", WEB, ELSEWHERE)]
    stage.pass_time(LAN.probe_interval + 0.01)
    assert stage.address("web") == WEB


def test_a_second_claim_does_not_restart_the_question() -> None:
    stage = Stage(("web", WEB))
    stage.hear(Alive(2, "web", ELSEWHERE))
    stage.take()
    stage.hear(Alive(3, "web", ELSEWHERE))
    assert stage.answers() == []


# --- streams


def test_a_picture_is_answered_with_our_own_and_merged() -> None:
    stage = Stage(("web", WEB))
    ours = stage.exchange([record("db", DB)])
    assert {node.name for node in ours.nodes} == {"me", "web"}
    assert {member.name for member in stage.node.members()} == {"me", "web", "db"}


@pytest.mark.parametrize(
    ("state", "seen"), [(State.SUSPECT, State.SUSPECT), (State.DEAD, State.SUSPECT), (State.LEFT, State.LEFT)]
)
def test_hearsay_of_a_death_is_a_suspicion_and_of_a_leave_is_believed(state: State, seen: State) -> None:
    stage = Stage(("web", WEB))
    stage.exchange([record("web", WEB, state)])
    assert stage.state("web") is seen


def test_a_picture_that_holds_this_node_for_dead_is_refuted() -> None:
    stage = Stage(("web", WEB))
    stage.exchange([record("web", WEB), record("me", ME, State.DEAD, 4)])
    assert stage.incarnation == 5


def join(stage: Stage, address: HostPort = WEB) -> int:
    stage.node.join([address], stage.now)
    (request,) = [output for output in stage.take() if isinstance(output, OpenStream)]
    assert request.destination == address
    return request.stream_id


def test_a_join_ends_in_synced() -> None:
    stage = Stage()
    stream_id = join(stage)
    stage.node.receive_stream(stream_id, encode_push_pull(PushPull(True, (record("web", WEB),))), stage.now)
    assert stage.told(events.Synced) == [events.Synced(WEB)]
    assert CloseStream(stream_id) in stage.outputs
    assert stage.state("web") is State.ALIVE


def test_a_join_that_is_closed_without_an_answer_fails() -> None:
    stage = Stage()
    stage.node.close_stream(join(stage), stage.now, error="connection refused")
    assert stage.told(events.SyncFailed) == [events.SyncFailed(WEB, "connection refused")]


def test_a_join_that_is_answered_with_an_error_fails_with_its_words() -> None:
    stage = Stage()
    stage.node.receive_stream(join(stage), b"\x0d\x81\xa5Error\xa4nope", stage.now)
    (failed,) = stage.told(events.SyncFailed)
    assert "nope" in failed.reason


def test_joining_the_own_address_is_refused_without_a_connection() -> None:
    stage = Stage()
    stage.node.join([ME], stage.now)
    assert [failed.address for failed in stage.told(events.SyncFailed)] == [ME]
    assert not any(isinstance(output, OpenStream) for output in stage.outputs)


def test_joining_oneself_through_another_address_is_refused() -> None:
    stage = Stage()
    stream_id = join(stage, ELSEWHERE)
    stage.node.receive_stream(stream_id, encode_push_pull(PushPull(True, (record("me", ME),))), stage.now)
    assert stage.told(events.SyncFailed) == [events.SyncFailed(ELSEWHERE, "this node itself answered")]
    assert stage.incarnation == 1


def test_a_stream_of_garbage_is_answered_with_the_reason_and_closed() -> None:
    stage = Stage()
    stage.node.open_stream(2, stage.now)
    stage.node.receive_stream(2, b"GET / HTTP/1.0\r\n", stage.now)
    outputs = stage.take()
    (reply,) = [output for output in outputs if isinstance(output, SendStream)]
    assert isinstance(StreamDecoder(local_port=1).feed(reply.data), StreamError)
    assert outputs[-1] == CloseStream(2)
    assert stage.refused == {"bad_stream": 1}


def test_streams_are_taken_up_to_the_limit() -> None:
    stage = Stage()
    for number in range(node_module._STREAMS_LIMIT):
        stage.node.open_stream(2 * number, stage.now)
    assert stage.take() == []
    stage.node.open_stream(9998, stage.now)
    assert stage.take() == [CloseStream(9998)]
    assert stage.refused == {"too_many_streams": 1}


# --- commands


def test_an_announcement_goes_straight_to_those_named_that_are_there() -> None:
    stage = Stage(("web", WEB), ("db", DB))
    stage.hear(Dead(1, "db", "web"))
    stage.take()
    stage.node.announce(["web", "db", "me", "nobody"], stage.now)
    assert stage.take() == [SendPacket(WEB, encode(Alive(1, "me", ME)))]


def test_an_announcement_of_one_that_leaves_is_its_farewell() -> None:
    stage = Stage(("web", WEB))
    stage.node.leave(stage.now)
    stage.take()
    stage.node.announce(["web"], stage.now)
    assert stage.take() == [SendPacket(WEB, encode(Dead(1, "me", "me")))]


def test_a_user_message_reaches_the_layer_above_with_its_source() -> None:
    stage = Stage()
    stage.hear(User(b"hello"), source=DB)
    assert stage.told(events.UserMessage) == [events.UserMessage(DB, b"hello")]


def test_a_user_message_goes_only_to_one_that_is_there() -> None:
    stage = Stage(("web", WEB))
    assert stage.node.send_user("web", b"hello", stage.now)
    assert User(b"hello") in stage.sent(WEB)
    stage.hear(Dead(1, "web", "db"))
    assert not stage.node.send_user("web", b"hello", stage.now)
    assert not stage.node.send_user("nobody", b"hello", stage.now)


def test_a_leave_is_done_once_it_has_been_told_often_enough() -> None:
    stage = Stage(("web", WEB))
    stage.node.leave(stage.now)
    assert stage.told(events.LeaveDone) == []
    stage.pass_time(LAN.leave_timeout)
    outputs = stage.take()
    farewells = [
        output
        for output in outputs
        if isinstance(output, SendPacket) and Dead(1, "me", "me") in decode_packet(output.data, local_port=1).messages
    ]
    assert len(farewells) == LAN.retransmit_mult
    assert outputs.count(Notify(events.LeaveDone())) == 1
    assert stage.state("me") is State.LEFT


def test_a_leave_of_a_lone_node_is_done_at_once() -> None:
    stage = Stage()
    stage.node.leave(stage.now)
    assert stage.told(events.LeaveDone) == [events.LeaveDone()]


def test_one_that_leaves_answers_pings_and_refutes_nothing() -> None:
    stage = Stage(("web", WEB))
    stage.node.leave(stage.now)
    stage.hear(Suspect(1, "me", "web"), Ping(5, "me"))
    assert Ack(5) in stage.sent(WEB)
    assert stage.incarnation == 1


# --- stalls


def test_one_that_stood_still_says_so_and_asks_two_others() -> None:
    stage = Stage(("web", WEB), ("db", DB))
    due = stage.node.next_timer()
    assert due is not None
    stage.now = Instant(due + 30)
    stage.node.handle_timer(stage.now)
    (resumed,) = stage.told(events.Resumed)
    assert resumed.gap == pytest.approx(30)
    assert {output.destination for output in stage.outputs if isinstance(output, OpenStream)} == {WEB, DB}


def test_one_that_stood_still_blames_nobody_for_it() -> None:
    stage = Stage(("web", WEB))
    stage.hear(Suspect(1, "web", "db"))
    due = stage.node.next_timer()
    assert due is not None
    stage.now = Instant(due + 30)
    stage.node.handle_timer(stage.now)
    assert stage.state("web") is State.SUSPECT
    stage.pass_time(2.0)
    assert stage.state("web") is State.SUSPECT
    stage.pass_time(4.0)
    assert stage.state("web") is State.DEAD


@pytest.mark.parametrize(("late", "resumed"), [(2.0, False), (2.1, True)])
def test_a_timer_that_is_up_to_two_seconds_late_is_no_stall(late: float, resumed: bool) -> None:
    stage = Stage(("web", WEB))
    due = stage.node.next_timer()
    assert due is not None
    stage.now = Instant(due + late)
    stage.node.handle_timer(stage.now)
    assert bool(stage.told(events.Resumed)) is resumed


def test_a_stall_is_found_out_once_however_much_has_lain_in_wait() -> None:
    # What has lain in wait comes before the timer does. Each stream that is opened then may fail at once; were that
    # another stall, two would become four, and so on.
    stage = Stage(("web", WEB), ("db", DB))
    due = stage.node.next_timer()
    assert due is not None
    stage.now = Instant(due + 90)
    found, opened = 0, [-1]
    for _ in range(6):
        waiting, opened = opened, []
        for stream in waiting:
            stage.now = Instant(stage.now + 0.05)
            stage.node.close_stream(stream, stage.now, error="refused")
            outputs = stage.take()
            opened += [output.stream_id for output in outputs if isinstance(output, OpenStream)]
            found += sum(isinstance(one, Notify) and isinstance(one.event, events.Resumed) for one in outputs)
    assert found == 1
    assert opened == []
