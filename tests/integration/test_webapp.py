"""The example app, as its own process: what it answers, what it remembers, what it writes down."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

WEBAPP = Path(__file__).parents[2] / "examples" / "webapp" / "webapp.py"


@pytest.fixture
def port(free_port: Callable[[], int], tmp_path: Path) -> Iterator[int]:
    number = free_port()
    environ = {
        **os.environ,
        "HOST": "127.0.0.1",
        "PORT": str(number),
        "TAG": "one",
        "REQUEST_LOG": str(tmp_path / "log"),
    }
    with subprocess.Popen([sys.executable, str(WEBAPP)], env=environ) as process:
        deadline = time.monotonic() + 10
        while not answers(number):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield number
        process.terminate()


def answers(port: int) -> bool:
    try:
        return ask(port, "GET", "/health")[0] == 200
    except OSError:
        return False


def ask(
    port: int, method: str, path: str = "/", *, body: bytes | None = None, cookie: str = ""
) -> tuple[int, http.client.HTTPMessage, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, body, {"cookie": cookie} if cookie else {})
        response = connection.getresponse()
        text = response.read()
        return response.status, response.headers, json.loads(text) if text else None


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_it_says_who_answered(port: int, method: str) -> None:
    status, headers, value = ask(port, method)
    assert (status, headers["x-backend-ip"]) == (200, "127.0.0.1")
    assert set(value) == {"hello", "ip", "host", "tag", "sessionViews", "id"}
    assert (value["ip"], value["tag"]) == ("127.0.0.1", "one")
    assert "NODESESSID=" in headers["set-cookie"]


def test_head_has_the_same_head_and_no_body(port: int) -> None:
    status, headers, value = ask(port, "HEAD")
    assert (status, value) == (200, None)
    assert int(headers["content-length"]) > 0


def test_a_session_is_known_by_its_cookie(port: int) -> None:
    cookie = ask(port, "GET")[1]["set-cookie"].partition(";")[0]
    assert [ask(port, "GET", cookie=cookie)[2]["sessionViews"] for _ in range(2)] == [2, 3]
    assert ask(port, "GET")[2]["sessionViews"] == 1
    assert ask(port, "GET", cookie="NODESESSID=no good!")[2]["sessionViews"] == 1


def test_a_delay_slows_every_later_answer_but_not_health(port: int) -> None:
    assert ask(port, "POST", "/delay", body=b'{"delay": 300}')[2] == {"delay": 300}
    start = time.monotonic()
    ask(port, "GET", "/health")
    health = time.monotonic() - start
    start = time.monotonic()
    ask(port, "GET")
    assert time.monotonic() - start >= 0.3
    assert health < 0.3


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"[]", b'{"delay": -1}', b'{"delay": 1e9}', b'{"delay": true}'])
def test_a_bad_delay_is_refused(port: int, body: bytes) -> None:
    status, _, value = ask(port, "POST", "/delay", body=body)
    assert status == 400
    assert "delay" in value["error"]


def test_what_is_not_there_is_404_and_what_is_too_long_is_413(port: int) -> None:
    assert ask(port, "GET", "/nowhere")[0] == 404
    assert ask(port, "POST", "/nowhere")[0] == 404
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("POST", "/", None, {"content-length": "100000000"})
        response = connection.getresponse()
        response.read()
        assert response.status == 413


def test_the_request_log_proves_what_arrived(port: int, tmp_path: Path) -> None:
    ask(port, "POST", "/delay", body=b'{"delay": 60000}')
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("POST", "/", headers={"x-request-id": "abc"})
        deadline = time.monotonic() + 10
        while not (found := [row for row in rows(tmp_path / "log") if row["id"] == "abc"]):
            assert time.monotonic() < deadline, "a request is written down before it is answered"
            time.sleep(0.01)
    assert (found[0]["method"], found[0]["path"]) == ("POST", "/")


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
