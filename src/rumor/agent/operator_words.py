"""What people have said of servers: drain, ready, weight. Kept in a file, so that it outlives the agent.

One balancer's own: each of several is told for itself. A word stays although its server goes, since the server that
comes back is the one it was said of.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rumor.atomic_file import write_atomically
from rumor.errors import ConfigError, PeerError, Refused
from rumor.model import OperatorWord, Table, WallTime
from rumor.names import MemberName, ServiceName, parse_member_name, parse_service_name

ServerName = tuple[ServiceName, MemberName]

WEIGHT_LIMIT = 256
"""HAProxy's own."""
_WORDS_LIMIT = 10_000
_FILE_LIMIT = 16 * 1024 * 1024


class OperatorWords:
    """The words, and their file."""

    def __init__(self, path: Path) -> None:
        """Read the file if there is one.

        Raises:
            ConfigError: it is not one that this class writes.
        """
        self._path = path
        self._words: dict[ServerName, OperatorWord] = {}
        try:
            with path.open("rb") as file:
                content = file.read(_FILE_LIMIT)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        try:
            self._words = {
                (parse_service_name(service), parse_member_name(server)): _read_word(word)
                for service, servers in json.loads(content).items()
                for server, word in servers.items()
            }
        except (ValueError, AttributeError, TypeError, KeyError, PeerError) as error:
            raise ConfigError(f"{path} is damaged ({error}): delete it to forget what operators said") from error

    @property
    def words(self) -> Mapping[ServerName, OperatorWord]:
        return self._words

    def drain(self, servers: list[ServerName], by: str) -> None:
        self._change(servers, drains=True, by=by, at=_now())

    def ready(self, servers: list[ServerName], by: str) -> None:
        self._change(servers, drains=False, by="", at=WallTime(0.0))

    def weigh(self, servers: list[ServerName], weight: int | None, by: str) -> None:
        """Give a weight from 0 to 256, or None for what the node says itself.

        Raises:
            Refused: the weight is none.
        """
        if weight is not None and not 0 <= weight <= WEIGHT_LIMIT:
            raise Refused(f"a weight is a number from 0 to {WEIGHT_LIMIT}, not {weight}")
        self._change(servers, weight=weight, weight_by=by, weight_at=_now())

    def _change(self, servers: list[ServerName], **what: Any) -> None:
        words = dict(self._words)
        for server in servers:
            word = replace(words.get(server, OperatorWord()), **what)
            if word.drains or word.weight is not None:
                words[server] = word
            else:
                words.pop(server, None)
        if len(words) > _WORDS_LIMIT:
            raise Refused(f"operators' words are kept for at most {_WORDS_LIMIT} servers")
        # The file first: what was acknowledged must outlive the agent.
        try:
            write_atomically(self._path, _write(words), survives_power_cut=True)
        except OSError as error:
            raise Refused(f"the word cannot be kept in {self._path}: {error.strerror}") from error
        self._words = words


def find_servers(table: Table, words: Mapping[ServerName, OperatorWord], target: str) -> list[ServerName]:
    """Return the servers that `SERVER`, `SERVICE/SERVER` or a node's name means; a node may serve several services.

    Raises:
        Refused: it means none, or it is the name of a service.
    """
    known = {(service.name, server.name) for service in table.services for server in service.servers} | set(words)
    service, slash, server = target.rpartition("/")
    found = sorted(key for key in known if key[1] == server and (not slash or key[0] == service))
    if found:
        return found
    if any(entry.name == target for entry in table.services):
        raise Refused(f"{target} is a service: name one of its servers, as {target}/SERVER")
    names = sorted({f"{key[0]}/{key[1]}" for key in known})
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    raise Refused(f"there is no server {target}; there are {', '.join(names[:10]) or 'none'}{more}")


def _now() -> WallTime:
    return WallTime(time.time())


def _read_word(value: Mapping[str, Any]) -> OperatorWord:
    by, at = str(value["by"]), float(value["at"])
    # A file of an older rumor has one stamp for both.
    weight_by, weight_at = str(value.get("weight_by", by)), float(value.get("weight_at", at))
    word = OperatorWord(bool(value["drains"]), value["weight"], by, WallTime(at), weight_by, WallTime(weight_at))
    if word.weight is not None and (type(word.weight) is not int or not 0 <= word.weight <= WEIGHT_LIMIT):
        raise ValueError(f"weight {word.weight!r}")
    return word


def _write(words: Mapping[ServerName, OperatorWord]) -> str:
    value: dict[str, dict[str, object]] = {}
    for (service, server), word in sorted(words.items()):
        value.setdefault(service, {})[server] = {
            "drains": word.drains, "by": word.by, "at": word.at,
            "weight": word.weight, "weight_by": word.weight_by, "weight_at": word.weight_at,
        }  # fmt: skip
    return json.dumps(value, indent=2) + "\n"
