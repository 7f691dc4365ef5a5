"""Nodes on real sockets, in one process: a cluster's life, and bytes that mean harm."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from random import Random

import pytest

from rumor.errors import ConfigError
from rumor.joiner import Joiner
from rumor.model import Instant, Seconds
from rumor.names import Endpoint, HostPort
from rumor.swim.codec import encode, encode_compound, encode_push_pull
from rumor.swim.events import (
    Event,
    LeaveDone,
    MemberFailed,
    MemberJoined,
    MemberRefuted,
    MemberSuspected,
    Synced,
    SyncFailed,
)
from rumor.swim.messages import VERSIONS, Ack, Alive, NodeRecord, Ping, PushPull, State, Suspect
from rumor.swim.node import Node, NodeSettings
from rumor.swim.presets import LOCAL
from rumor.swim.runner import GossipRunner

FAST = replace(
    LOCAL,
    probe_interval=Seconds(0.2),
    probe_timeout=Seconds(0.1),
    gossip_interval=Seconds(0.05),
    tcp_timeout=Seconds(0.5),
)

Condition = Callable[[], bool]


async def eventually(condition: Condition, *, within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what is waited for is plain state
            await asyncio.sleep(0.01)


class Member:
    """One node on its runner, with all it has said."""

    def __init__(self, name: str, address: HostPort, *, bind: HostPort | None = None, meta: bytes = b"") -> None:
        self.name = name
        self.address = address
        self.events: list[Event] = []
        self.node = Node(NodeSettings(name, address, FAST, meta), random=Random(name), now=Instant(time.monotonic()))
        self.runner = GossipRunner(
            self.node, bind or address, tcp_timeout=FAST.tcp_timeout, on_event=lambda event: self.events.append(event)
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.runner.start()
        self._task = asyncio.create_task(self.runner.run(), name=self.name)

    async def kill(self) -> None:
        """Fall silent without a word."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def view_of(self, name: str) -> tuple[State, bytes] | None:
        return next(((state.state, state.meta) for state in self.runner.members() if state.name == name), None)

    def sees(self, name: str, state: State) -> bool:
        view = self.view_of(name)
        return view is not None and view[0] is state


Start = Callable[..., Awaitable[Member]]


@pytest.fixture
async def start(free_port: Callable[[], int]) -> AsyncIterator[Start]:
    """Return a function that starts a member, on a free port of 127.0.0.1 unless it is told where."""
    members: list[Member] = []

    async def start_member(
        name: str, address: HostPort | None = None, *, bind: HostPort | None = None, meta: bytes = b""
    ) -> Member:
        member = Member(name, address or HostPort("127.0.0.1", free_port()), bind=bind, meta=meta)
        members.append(member)
        await member.start()
        return member

    yield start_member
    for member in members:
        await member.kill()
        assert not member.runner.faults["bug"], f"{member.name} met a bug of its own"


async def start_joined(start: Start, *names: str) -> list[Member]:
    members = [await start(name) for name in names]
    for member in members[1:]:
        member.runner.join([members[0].address])
    for member in members:
        for other in members:
            await eventually(lambda member=member, other=other: member.sees(other.name, State.ALIVE))  # type: ignore[misc]
    return members


# --- a cluster's life


async def test_members_that_join_one_meet_all(start: Start) -> None:
    first, second, *_ = await start_joined(start, "a", "b", "c", "d", "e")
    assert Synced(first.address) in second.events
    assert {event.name for event in first.events if isinstance(event, MemberJoined)} == {"b", "c", "d", "e"}


async def test_changed_meta_reaches_the_others(start: Start) -> None:
    a, b, c = await start_joined(start, "a", "b", "c")
    b.runner.do(lambda node, now: node.set_meta(b"ready", now))
    for member in (a, c):
        await eventually(lambda member=member: member.view_of("b") == (State.ALIVE, b"ready"))  # type: ignore[misc]


async def test_a_silent_member_is_suspected_and_then_failed(start: Start) -> None:
    a, b, c = await start_joined(start, "a", "b", "c")
    await c.kill()
    for member in (a, b):
        await eventually(lambda member=member: member.sees("c", State.DEAD))  # type: ignore[misc]
        kinds = [type(event) for event in member.events if getattr(event, "name", "") == "c"]
        assert kinds == [MemberJoined, MemberSuspected, MemberFailed]


async def test_a_member_that_leaves_has_left_and_not_failed(start: Start) -> None:
    a, b, c = await start_joined(start, "a", "b", "c")
    c.runner.leave()
    await eventually(lambda: LeaveDone() in c.events)
    await c.kill()
    for member in (a, b):
        await eventually(lambda member=member: member.sees("c", State.LEFT))  # type: ignore[misc]
        assert not any(isinstance(event, MemberSuspected) for event in member.events)


async def test_a_failed_member_that_returns_at_its_address_is_alive_again(start: Start) -> None:
    a, b, c = await start_joined(start, "a", "b", "c")
    await c.kill()
    await eventually(lambda: a.sees("c", State.DEAD) and b.sees("c", State.DEAD))
    again = await start("c", c.address, meta=b"second life")
    again.runner.join([a.address])
    for member in (a, b):
        await eventually(lambda member=member: member.view_of("c") == (State.ALIVE, b"second life"))  # type: ignore[misc]


async def test_a_member_accused_by_mistake_refutes(start: Start) -> None:
    a, b, _ = await start_joined(start, "a", "b", "c")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(encode(Suspect(1, "c", "stranger")), (a.address.host, a.address.port))
    await eventually(lambda: MemberRefuted("c") in a.events)
    assert a.sees("c", State.ALIVE)
    assert MemberFailed("c", "stranger") not in [*a.events, *b.events]


async def test_two_members_meet_over_ipv6(start: Start, free_port: Callable[[], int]) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback (::1)")
    a = await start("a", HostPort("::1", free_port()))
    b = await start("b", HostPort("::1", free_port()))
    b.runner.join([a.address])
    await eventually(lambda: a.sees("b", State.ALIVE) and b.sees("a", State.ALIVE))
    await b.kill()
    await eventually(lambda: a.sees("b", State.DEAD))


async def test_a_node_that_meets_itself_at_another_address_has_not_joined(
    start: Start, free_port: Callable[[], int]
) -> None:
    port = free_port()
    a = await start("a", HostPort("127.0.0.1", port), bind=HostPort("0.0.0.0", port))
    through = HostPort("127.0.0.9", port)
    a.runner.join([through])
    await eventually(lambda: SyncFailed(through, "this node itself answered") in a.events)
    assert Synced(through) not in a.events


async def test_a_join_that_nobody_answers_says_why(start: Start, free_port: Callable[[], int]) -> None:
    a = await start("a")
    nobody = HostPort("127.0.0.1", free_port())
    a.runner.join([nobody])
    await eventually(lambda: SyncFailed(nobody, "connection refused") in a.events)


async def test_members_find_each_other_whoever_starts_first(start: Start, free_port: Callable[[], int]) -> None:
    meeting_point = HostPort("127.0.0.1", free_port())
    early = await start("early")
    joiner = Joiner(
        early.runner,
        [Endpoint("localhost", meeting_point.port)],
        [],
        own_name="early",
        own=early.address,
        retry_interval=Seconds(0.1),
    )
    early.runner._on_event = lambda event: joiner.note(event) if isinstance(event, Synced | SyncFailed) else None
    task = asyncio.create_task(joiner.run())
    try:
        await eventually(lambda: early.node.statistics().bytes_out > 200)
        late = await start("late", meeting_point)
        await eventually(lambda: late.sees("early", State.ALIVE) and early.sees("late", State.ALIVE))
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_an_event_may_be_answered_by_a_command(start: Start) -> None:
    a = await start("a")
    b = await start("b")
    a.runner._on_event = lambda event: (
        a.runner.do(lambda node, now: node.set_meta(b"seen", now)) if isinstance(event, MemberJoined) else None
    )
    b.runner.join([a.address])
    await eventually(lambda: b.view_of("a") == (State.ALIVE, b"seen"))


# --- starting and stopping


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_port_that_is_taken_is_named(kind: socket.SocketKind, start: Start) -> None:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*already in use.*--bind"):
            await start("a", HostPort("127.0.0.1", port))


async def test_an_address_of_another_machine_is_named(start: Start) -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:7946.*assign"):
        await start("a", HostPort("192.0.2.1", 7946))


async def test_the_address_is_free_again_at_once(start: Start) -> None:
    a, b = await start_joined(start, "a", "b")
    # A peer in the middle of a stream must not hold the port either.
    _, writer = await asyncio.open_connection(a.address.host, a.address.port)
    writer.write(b"\x06")
    await eventually(lambda: bool(a.runner._inbound))
    await a.kill()
    again = await start("a", a.address)
    again.runner.join([b.address])
    await eventually(lambda: again.sees("b", State.ALIVE))
    writer.transport.abort()


# --- bytes that mean harm


async def ping(target: Member) -> bool:
    """Ask over UDP, as a stranger would, whether the member still answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setblocking(False)
        stranger.bind(("127.0.0.1", 0))
        stranger.sendto(encode(Ping(77, target.name, None, "")), (target.address.host, target.address.port))
        async with asyncio.timeout(5):
            return encode(Ack(77)) in await asyncio.get_running_loop().sock_recv(stranger, 2048)


async def test_garbage_packets_do_no_harm(start: Start) -> None:
    a, b = await start_joined(start, "a", "b")
    random = Random(4711)
    sound = encode_compound(
        [
            encode(Ping(1, "a", None, "b")),
            encode(Alive(1, "x", HostPort("10.0.0.1", 1), b"", VERSIONS)),
        ]
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for turn in range(4000):
            if turn % 2:
                packet = random.randbytes(random.randint(0, 1500))
            else:
                spoilt = bytearray(sound)
                for _ in range(random.randint(1, 5)):
                    spoilt[random.randrange(len(spoilt))] = random.randrange(256)
                packet = bytes(spoilt[: random.randint(0, len(spoilt))])
            stranger.sendto(packet, (a.address.host, a.address.port))
            # A packet is taken at each turn of the loop; more at once would only fill the kernel's buffer.
            await asyncio.sleep(0)
    assert await ping(a)
    assert sum(a.runner.statistics().refused.values()) > 1000
    await eventually(lambda: a.sees("b", State.ALIVE) and b.sees("a", State.ALIVE))


async def test_garbage_streams_do_no_harm(start: Start) -> None:
    a, b = await start_joined(start, "a", "b")
    random = Random(4711)
    sound = encode_push_pull(
        PushPull(True, (NodeRecord("x", HostPort("10.0.0.1", 1), 1, State.ALIVE, b"m", VERSIONS),))
    )
    for turn in range(300):
        _, writer = await asyncio.open_connection(a.address.host, a.address.port)
        spoilt = bytearray(sound)
        spoilt[random.randrange(len(spoilt))] = random.randrange(256)
        writer.write(spoilt if turn % 2 else random.randbytes(random.randint(1, 3000)))
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.transport.abort()
    await eventually(lambda: not a.runner._inbound)
    assert await ping(a)
    b.runner.sync(a.address)
    await eventually(lambda: b.events.count(Synced(a.address)) >= 2)


async def test_a_stream_that_stalls_is_cut_at_the_deadline(start: Start) -> None:
    a = await start("a")
    reader, writer = await asyncio.open_connection(a.address.host, a.address.port)
    try:
        writer.write(b"\x06")
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        await eventually(lambda: not a.runner._inbound)
    finally:
        writer.transport.abort()


async def test_beyond_128_streams_a_peer_is_turned_away(start: Start) -> None:
    a = await start("a")
    peers = [await asyncio.open_connection(a.address.host, a.address.port) for _ in range(130)]
    try:
        await eventually(lambda: a.runner.faults["streams_limit"] == 2)
        # The 128 run into their deadline, and then there is room again.
        await eventually(lambda: not a.runner._inbound)
        b = await start("b")
        b.runner.join([a.address])
        await eventually(lambda: Synced(a.address) in b.events)
    finally:
        for _, writer in peers:
            writer.transport.abort()


async def test_streams_may_not_send_more_than_their_common_limit(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rumor.swim.runner._INBOUND_BYTES_LIMIT", 100_000)
    a = await start("a")
    _, writer = await asyncio.open_connection(a.address.host, a.address.port)
    try:
        writer.write(b"\x08\x81\xaaUserMsgLen\xce\x00\x10\x00\x00" + bytes(200_000))
        await eventually(lambda: a.runner.faults["bytes_limit"] == 1)
        await eventually(lambda: not a.runner._inbound and a.runner._inbound_bytes == 0)
    finally:
        writer.transport.abort()
    assert await ping(a)


async def test_a_bug_found_by_a_packet_costs_that_packet_only(free_port: Callable[[], int]) -> None:
    a = Member("a", HostPort("127.0.0.1", free_port()))

    def fall_over(event: Event) -> None:
        raise ZeroDivisionError

    a.runner._on_event = fall_over
    b = Member("b", HostPort("127.0.0.1", free_port()))
    try:
        await a.start()
        await b.start()
        b.runner.join([a.address])
        await eventually(lambda: a.runner.faults["bug"] > 0)
        assert await ping(a)
        await eventually(lambda: a.node.statistics().probes > 1)
    finally:
        await a.kill()
        await b.kill()
