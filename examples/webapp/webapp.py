"""A small web app to put behind a balancer: it says who answered, and can be made slow.

    GET, HEAD, POST /     JSON {hello, ip, host, tag, sessionViews, id}; cookie NODESESSID, header x-backend-ip
    POST /delay           {"delay": 250}: every later answer takes 250 ms
    GET /health           200 without a session, for checks

Standard library only. Told by the environment: HOST, PORT, TAG (its name), DELAY (how many milliseconds an answer takes
from the start), REQUEST_LOG (a file, or a directory where it is named after the host: one JSON line for each request,
written the moment its head has been read, so that the file proves what had reached this process).
"""

import argparse
import itertools
import json
import os
import socket
import sys
import threading
import time
import uuid
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COOKIE = "NODESESSID"
SESSIONS_LIMIT = 10_000
BODY_LIMIT_BYTES = 64 * 1024
DELAY_LIMIT_MS = 60_000


class Sessions:
    """How often each session has been here; the oldest is forgotten when there are too many."""

    def __init__(self) -> None:
        self._views: dict[str, int] = {}
        self._lock = threading.Lock()

    def visit(self, session: str) -> int:
        with self._lock:
            views = self._views.pop(session, 0) + 1
            self._views[session] = views
            if len(self._views) > SESSIONS_LIMIT:
                del self._views[next(iter(self._views))]
            return views


class App(ThreadingHTTPServer):
    """The server, and what all its requests share."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, host: str, port: int, tag: str, request_log: str, delay_ms: float) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self.tag = tag
        self.delay_seconds = delay_ms / 1000
        self.sessions = Sessions()
        self.numbers = itertools.count(1)
        if os.path.isdir(request_log):
            request_log = os.path.join(request_log, f"{socket.gethostname()}.jsonl")
        self.log_file = os.open(request_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if request_log else -1

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up; whatever else goes wrong is told as ever."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type] # typed as any socket may be


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "webapp"
    sys_version = ""
    # One write for head and body, sent at once.
    wbufsize = -1
    disable_nagle_algorithm = True
    timeout = 60
    server: App

    def do_GET(self) -> None:
        self._note()
        if self.path == "/health":
            self._answer(200, {"status": "ok"})
        elif self.path == "/":
            self._hello()
        else:
            self._answer(404, {"error": "not found"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._note()
        body = self._body()
        if body is None:
            self.close_connection = True
            self._answer(413, {"error": f"a body has at most {BODY_LIMIT_BYTES} bytes"})
        elif self.path == "/":
            self._hello()
        elif self.path == "/delay":
            self._set_delay(body)
        else:
            self._answer(404, {"error": "not found"})

    @property
    def _ip(self) -> str:
        """The address at which this request came in."""
        return str(self.connection.getsockname()[0])

    def _note(self) -> None:
        """Write down that this request has arrived, before anything else is done about it."""
        if self.server.log_file >= 0:
            request = {
                "t": time.time(),
                "pid": os.getpid(),
                "id": self.headers.get("x-request-id", ""),
                "method": self.command,
                "path": self.path,
            }
            os.write(self.server.log_file, json.dumps(request).encode() + b"\n")

    def _body(self) -> bytes | None:
        length = self.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > BODY_LIMIT_BYTES:
            return None
        return self.rfile.read(int(length))

    def _hello(self) -> None:
        session = self._session()
        views = self.server.sessions.visit(session)
        time.sleep(self.server.delay_seconds)
        self._answer(
            200,
            {
                "hello": "world",
                "ip": self._ip,
                "host": socket.gethostname(),
                "tag": self.server.tag,
                "sessionViews": views,
                "id": next(self.server.numbers),
            },
            session,
        )

    def _session(self) -> str:
        try:
            cookie = SimpleCookie(self.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        known = cookie is not None and cookie.value.isalnum() and len(cookie.value) <= 64
        return cookie.value if cookie is not None and known else uuid.uuid4().hex

    def _set_delay(self, body: bytes) -> None:
        try:
            delay = json.loads(body)["delay"]
        except (ValueError, TypeError, KeyError):
            delay = None
        if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= DELAY_LIMIT_MS:
            self._answer(400, {"error": f'send {{"delay": MS}}, 0 to {DELAY_LIMIT_MS}'})
            return
        self.server.delay_seconds = delay / 1000
        self._answer(200, {"delay": delay})

    def _answer(self, status: int, value: dict[str, object], session: str = "") -> None:
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-backend-ip", self._ip)
        if session:
            self.send_header("set-cookie", f"{COOKIE}={session}; Path=/; HttpOnly")
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: REQUEST_LOG tells more, and stderr costs time at each request."""


def main() -> None:
    parser = argparse.ArgumentParser(description="A small web app to put behind a balancer.")
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "3000")))
    options = parser.parse_args()
    tag = os.environ.get("TAG", socket.gethostname())
    # SIGTERM ends the process at once, requests and all: an app may be that simple, since it is drained before.
    delay_ms = float(os.environ.get("DELAY", "0"))
    App(options.host, options.port, tag, os.environ.get("REQUEST_LOG", ""), delay_ms).serve_forever()


if __name__ == "__main__":
    main()
