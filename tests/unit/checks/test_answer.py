"""What is read at a glance is read as h11 would read it, and nothing else is read at a glance."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumor.checks.answer import request, whole_answer
from rumor.checks.outcome import CheckKind, CheckSettings
from rumor.names import HostPort

ADDRESS = HostPort("10.0.0.7", 3000)
PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 204\r\n", b"HTTP/1.1 103 Early Hints\r\n", b"HTTP/1.1 304 Not\tso\r\n",
        b"HTTP/1.1 503 \xe9\r\n", b"content-length: 2\r\n", b"Content-Length:2 \r\n", b"content-length: 2, 2\r\n",
        b"content-length: +2\r\n", b"transfer-encoding: chunked\r\n", b"content-length : 2\r\n", b"x: y\r\n",
        b"x: \0\r\n", b" folded\r\n", b"\r\n", b"\n", b"ok", b"2\r\nok\r\n0\r\n\r\n",
    ]
)  # fmt: skip


def h11_status(content: bytes) -> int | None:
    """Return what h11 makes of a whole answer, None if it is none."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(content)
    status = None
    try:
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Response):
                status = int(event.status_code)
            elif isinstance(event, h11.EndOfMessage):
                return status
            elif not isinstance(event, h11.Event):
                return None
    except h11.RemoteProtocolError:
        return None


def test_answer_with_its_length_is_read_at_a_glance() -> None:
    assert whole_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nserver: x\r\n\r\nok") == 200
    assert whole_answer(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n") == 503
    assert whole_answer(b"HTTP/1.1 204 No Content\r\n\r\n") == 204


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nuntil it closes",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\ncontent-length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ],
)
def test_what_takes_more_care_is_left_to_h11(content: bytes) -> None:
    assert whole_answer(content) is None


@given(st.lists(PIECES, max_size=7).map(b"".join) | st.binary(max_size=60).map(lambda rest: b"HTTP/1.1 200" + rest))
def test_what_is_read_at_a_glance_h11_reads_alike(content: bytes) -> None:
    status = whole_answer(content)
    assert status is None or status == h11_status(content)


@pytest.mark.parametrize(
    "settings",
    [
        CheckSettings(CheckKind.HTTP),
        CheckSettings(CheckKind.HTTP, "/up?x=%20", "shop.example:80"),
        CheckSettings(CheckKind.HTTP, headers=(("X-Probe", " yes, really "), ("Host", "other.example"))),
    ],
)
def test_request_is_a_valid_one(settings: CheckSettings) -> None:
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(request(settings, ADDRESS))
    event = parser.next_event()
    assert isinstance(event, h11.Request)
    headers = {name.decode(): value.decode() for name, value in event.headers}
    assert event.target.decode() == settings.path
    assert headers["connection"] == "close"
    named = {name.lower(): value.strip() for name, value in settings.headers}
    assert headers["host"] == named.get("host", settings.host_header or "10.0.0.7:3000")
    assert all(headers[name] == value for name, value in named.items())
