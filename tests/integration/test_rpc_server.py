"""RPC sessions recorded with a real agent get the same replies from ours, object by object."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import pytest

from rumor.errors import Refused
from rumor.model import Instant, Seconds
from rumor.names import Endpoint, HostPort
from rumor.serf.coordinate import Coordinate
from rumor.serf.events import QueryHeard, SerfMember, UserEventHeard
from rumor.serf.keys import KeyReport
from rumor.serf.layer import QueryRequest, Serf, SerfSettings
from rumor.serf.messages import Status
from rumor.serf.queries import default_timeout
from rumor.serf.rpc_server import QueryEvent, RpcServer, RpcSettings, Unsubscribe
from rumor.serf.stream import EventFilter, StreamEvent
from rumor.serf.tags import encode_tags
from rumor.swim.membership import MemberState
from rumor.swim.messages import VERSIONS, State
from rumor.swim.node import NodeSettings
from rumor.swim.presets import LAN

DOCUMENT = json.loads((Path(__file__).parents[1] / "vectors" / "rpc.json").read_text())
VECTORS: dict[str, dict[str, Any]] = {vector["id"]: vector for vector in DOCUMENT["vectors"]}


class Recorded:
    """An agent that answers as the recorded one did: what it says of itself is fixed, what it refuses is Serf's own."""

    def __init__(self) -> None:
        settings = SerfSettings(NodeSettings("a", HostPort("127.0.0.61", 17946), LAN))
        self._serf = Serf(settings, random=Random(1), now=Instant(0.0))
        self.streams: list[Callable[[StreamEvent], None]] = []
        self.logs: list[Callable[[str], None]] = []
        self.answered: list[tuple[int, bytes]] = []
        self.tags: dict[str, str] = {"role": "web", "dc": "east"}

    def members(self) -> tuple[SerfMember, ...]:
        return (member("a", "127.0.0.61", self.tags), member("b", "127.0.0.62", {"role": "db"}))

    async def join(self, addresses: list[str], *, replay: bool) -> tuple[int, str]:
        return len(addresses), ""

    async def leave(self) -> None:
        return None

    def force_leave(self, name: str, *, prune: bool) -> None:
        return None

    def user_event(self, name: str, payload: bytes, *, coalesce: bool) -> None:
        self._serf.user_event(name, payload, Instant(0.0), coalesce=coalesce)

    def change_tags(self, tags: dict[str, str], delete: list[str]) -> None:
        changed = {tag: value for tag, value in self.tags.items() if tag not in delete} | tags
        if sum(map(len, changed.values())) > 500:
            raise Refused("Encoded length of tags exceeds limit of 512 bytes")
        self.tags = changed

    def query(self, request: QueryRequest, on_event: Callable[[QueryEvent], None]) -> None:
        self._serf.query(request, Instant(0.0))

    def respond(self, key: int, payload: bytes) -> None:
        if any(known == key for known, _ in self.answered):
            raise Refused("response already sent")
        self.answered.append((key, payload))

    async def change_keys(self, verb: str, key: str) -> KeyReport:
        word = "Keyring is empty" if verb == "list-keys" else "No keyring to modify"
        messages = dict.fromkeys(("a", "b"), f"{word} (encryption not enabled)")
        return KeyReport("2/2 nodes reported failure", {} if verb == "list-keys" else None, messages, 2, 2, 2)

    def stats(self) -> dict[str, dict[str, str]]:
        return {"agent": {"name": "a"}}

    def coordinate(self, name: str) -> Coordinate | None:
        return None

    def subscribe(self, filters: tuple[EventFilter, ...], on_event: Callable[[StreamEvent], None]) -> Unsubscribe:
        self.streams.append(on_event)
        return lambda: self.streams.remove(on_event)

    def follow_log(self, level: str, on_line: Callable[[str], None]) -> Unsubscribe:
        self.logs.append(on_line)
        return lambda: self.logs.remove(on_line)


def member(name: str, host: str, tags: dict[str, str]) -> SerfMember:
    state = MemberState(name, HostPort(host, 17946), encode_tags(tags), State.ALIVE, 1, VERSIONS, Instant(0.0))
    return SerfMember(state, Status.ALIVE)


class Session:
    """One connection to our server, object by object."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape")

    async def next(self) -> object:
        """Return the next object; None when the server has hung up."""
        async with asyncio.timeout(10):
            while True:
                try:
                    return self._unpacker.unpack()
                except msgpack.OutOfData:
                    data = await self._reader.read(65_536)
                    if not data:
                        return None
                    self._unpacker.feed(data)


@asynccontextmanager
async def serving(free_port: Callable[[], int], control: Recorded, token: str = "") -> AsyncIterator[Callable[[], Any]]:
    endpoint = Endpoint("127.0.0.1", free_port())
    server = RpcServer(RpcSettings(endpoint, token), control)
    await server.start()
    sessions: list[Session] = []

    async def connect() -> Session:
        sessions.append(Session(*await asyncio.open_connection(endpoint.host, endpoint.port)))
        return sessions[-1]

    try:
        yield connect
    finally:
        for session in sessions:
            session.writer.close()
        await server.aclose()


def plain(value: object) -> object:
    """Return a recorded value with its bytes as msgpack gives them."""
    if isinstance(value, dict):
        if set(value) <= {"hex", "ip"} and "hex" in value:
            return bytes.fromhex(value["hex"])
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def same(ours: object, theirs: object) -> bool:
    """Compare, but for text against bytes: the record does not say which of the two it was."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return as_bytes(ours) == as_bytes(theirs)


def as_bytes(value: object) -> object:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


SESSIONS = [
    "handshake-required", "handshake-bad-version", "unsupported-command", "members-filtered-bad-regex", "event",
    "stream-errors", "auth", "key-ops-unencrypted", "query-errors", "tags",
]  # fmt: skip


@pytest.mark.parametrize("name", SESSIONS)
async def test_a_recorded_session_gets_the_same_replies(free_port: Callable[[], int], name: str) -> None:
    control = Recorded()
    compared = 0
    async with serving(free_port, control, "s3cret" if name == "auth" else "") as connect:
        session = await connect()
        for message in VECTORS[name]["messages"]:
            if message["dir"] == "client":
                session.writer.write(bytes.fromhex(message["hex"]))
                continue
            for theirs in message["decoded"]:
                ours = await session.next()
                if theirs == "<connection closed by server>":
                    assert ours is None
                elif isinstance(theirs, dict) and "Members" in theirs:
                    assert isinstance(ours, dict)
                    # Who was there is not what this is about; how it is told is.
                    assert {tuple(one) for one in ours["Members"]} == {tuple(one) for one in theirs["Members"]}
                else:
                    assert same(ours, plain(theirs)), (ours, theirs)
                compared += 1
    assert compared


async def test_a_stream_tells_what_was_recorded_and_takes_an_answer_once(free_port: Callable[[], int]) -> None:
    control = Recorded()
    async with serving(free_port, control) as connect:
        session = await connect()
        recorded = [message for message in VECTORS["stream-user-query"]["messages"] if message["dir"] == "client"]
        for message in recorded[:2]:
            session.writer.write(bytes.fromhex(message["hex"]))
        assert [await session.next(), await session.next()] == [{"Error": "", "Seq": 1}, {"Error": "", "Seq": 2}]
        control.streams[0](UserEventHeard(4, "streamed", b"\x00\x01\xff", False))
        control.streams[0](QueryHeard(77, 1, "ask", b"what?", "x", Instant(9.0)))
        told = [await session.next() for _ in range(4)]
        assert told[1] == {
            "Coalesce": False, "Event": "user", "LTime": 4, "Name": "streamed", "Payload": b"\x00\x01\xff",
        }  # fmt: skip
        assert told[3] == {"Event": "query", "ID": 1, "LTime": 1, "Name": "ask", "Payload": b"what?"}
        assert [told[0], told[2]] == [{"Error": "", "Seq": 2}] * 2
        for message in recorded[2:]:
            session.writer.write(bytes.fromhex(message["hex"]))
        errors = [(await session.next())["Error"] for _ in recorded[2:]]
        assert errors[:4] == [
            "", "failed to respond to key query: response already sent", "No pending queries matching ID", "",
        ]  # fmt: skip
        assert control.answered == [(77, b"the answer")]
        assert control.streams == [], "the stream was stopped"


@pytest.mark.parametrize("data", [b"\xc1", b"\x93\x01\x02\x03", b"\x81\xa3Seq\xa1x", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_command_ends_the_conversation_and_nothing_else(
    free_port: Callable[[], int], data: bytes
) -> None:
    async with serving(free_port, Recorded()) as connect:
        bad, good = await connect(), await connect()
        bad.writer.write(data)
        assert await bad.next() in (None, {"Error": "Handshake required", "Seq": 0})
        good.writer.write(bytes.fromhex(VECTORS["members"]["messages"][0]["hex"]))
        assert await good.next() == {"Error": "", "Seq": 1}


async def test_a_client_that_does_not_read_loses_events_and_holds_up_nobody(free_port: Callable[[], int]) -> None:
    control = Recorded()
    async with serving(free_port, control) as connect:
        session = await connect()
        for message in VECTORS["stream-user-query"]["messages"][:3]:
            if message["dir"] == "client":
                session.writer.write(bytes.fromhex(message["hex"]))
        await session.next()
        await session.next()
        for number in range(20_000):
            control.streams[0](UserEventHeard(number, "storm", b"x" * 1000, False))
        other = await connect()
        other.writer.write(bytes.fromhex(VECTORS["members"]["messages"][0]["hex"]))
        assert await other.next() == {"Error": "", "Seq": 1}
        got = 0
        while True:
            try:
                async with asyncio.timeout(1.0):
                    await session.next()
                    await session.next()
            except TimeoutError:
                break
            got += 1
        assert 0 < got < 20_000


def test_the_default_timeout_is_serfs() -> None:
    assert default_timeout(9, LAN.gossip_interval) == Seconds(3.2)
