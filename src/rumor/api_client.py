"""Ask an agent over its HTTP API: a UNIX socket, or a URL with a token. Blocking; for commands, not for agents."""

import http.client
import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rumor.errors import ConfigError, Refused, Unreachable
from rumor.model import Seconds

_DEADLINE = Seconds(5.0)
_BODY_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class AgentApi:
    """One agent's API; every call is a connection of its own."""

    socket_path: Path | None = None
    url: str = ""
    token: str = field(default="", repr=False)

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path.

        Raises:
            Unreachable: no agent answers there.
            Refused: it answers with an error; its words are in the text.
        """
        status, body = self.request("GET", path)
        return _object(status, body)

    def post(self, path: str) -> dict[str, Any]:
        """Ask for something to be done; as `get`."""
        status, body = self.request("POST", path)
        return _object(status, body)

    def request(self, method: str, path: str) -> tuple[int, bytes]:
        """Return status and body of any request.

        Raises:
            Unreachable: no agent answers there.
        """
        connection = self._connection()
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(_BODY_LIMIT)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"no agent answers at {self.where}: {_words(error)}") from error
        finally:
            connection.close()

    @property
    def where(self) -> str:
        return str(self.socket_path or self.url)

    def _connection(self) -> http.client.HTTPConnection:
        if self.socket_path is not None:
            return _UnixConnection(self.socket_path)
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--api {self.url!r} is no URL: say http://HOST:PORT")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname, parts.port, timeout=_DEADLINE)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_DEADLINE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _object(status: int, body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Refused(f"the agent's answer (status {status}) is no JSON: {body[:200]!a}") from error
    if not isinstance(value, dict):
        raise Refused(f"the agent's answer (status {status}) is no JSON object")
    if status >= 400:
        raise Refused(str(value.get("error", f"status {status}")))
    return value


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
