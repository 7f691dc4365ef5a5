"""Which addresses a configuration is to listen on, as far as that can be said without being HAProxy. Thinks only.

A configuration that parses but cannot bind stops the service for two seconds (reference/haproxy.md, section 5), so
whatever is new is bound for a moment before a reload. What cannot be told from the text alone (a variable of HAProxy's
own environment, another network namespace) is named, so that somebody knows that it was not tried.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from rumor.errors import PeerError
from rumor.haproxy.config_text import words_of
from rumor.names import Endpoint, parse_endpoint, parse_port

ANY_HOST = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - names of "any address", bound nowhere here
Place = Endpoint | Path
"""An address, or a UNIX socket's path."""
_RANGE_LIMIT = 1024
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
# Bound with rights, or in places, that a test from here does not have.
_ELSEWHERE = frozenset({"transparent", "namespace"})


def new_binds(old_text: str, new_text: str) -> tuple[Place, ...]:
    """Return the places that only the new text binds.

    Where either text binds any address of a port, the other's addresses of that port are held by the HAProxy that
    runs: it shares them with its successor, and a test from outside would only find HAProxy itself.
    """
    old = _binds(old_text)[0]
    held = [place for place in old if isinstance(place, Endpoint)]
    return tuple(
        place
        for place in _binds(new_text)[0]
        if place not in old and not (isinstance(place, Endpoint) and any(_overlap(place, other) for other in held))
    )


def untested_binds(old_text: str, new_text: str) -> tuple[str, ...]:
    """Return what only the new text binds and nobody can try before the reload, as it is written."""
    old = _binds(old_text)[1]
    return tuple(word for word in _binds(new_text)[1] if word not in old)


def places_of(line: str) -> tuple[Place, ...]:
    """Return the places that a `bind` line names and that can be tried; none for any other line."""
    return tuple(place for place in _read_bind(words_of(line)) if not isinstance(place, str))


def _overlap(one: Endpoint, other: Endpoint) -> bool:
    return one.port == other.port and (one.host in ANY_HOST or other.host in ANY_HOST)


@lru_cache(maxsize=4)
def _binds(text: str) -> tuple[dict[Place, None], dict[str, None]]:
    """Return the places in order, and the words that name none for us."""
    places: dict[Place, None] = {}
    unread: dict[str, None] = {}
    peers: dict[str, list[str]] = {}
    local = ""
    has_prefix = False
    for line in text.splitlines():
        # Most lines of a long text are servers.
        first = line.lstrip()[:1]
        if first not in "bplu\"'":
            continue
        match words_of(line):
            case ["bind", *_] as words:
                for place in _read_bind(words):
                    if isinstance(place, str):
                        unread[place] = None
                    else:
                        places[place] = None
            case ["peer", name, address, *_]:
                peers[name] = ["bind", address]
            case ["localpeer", name, *_]:
                local = name
            case ["unix-bind", *more]:
                has_prefix = has_prefix or "prefix" in more
            case _:
                pass
    for place in _read_bind(peers.get(local, [])):
        if not isinstance(place, str):
            places[place] = None
    if has_prefix:
        # The paths of sockets are other ones than are written.
        moved = [place for place in places if isinstance(place, Path)]
        for path in moved:
            del places[path]
            unread[str(path)] = None
    return places, unread


def _read_bind(words: list[str]) -> Iterator[Place | str]:
    """Yield the places that a `bind` statement names, and as text what cannot be told."""
    if len(words) < 2 or words[0] != "bind":
        return
    if _ELSEWHERE & set(words[2:]) or "$" in words[1] or "\\" in words[1]:
        yield words[1]
        return
    for word in _QUOTED.sub(lambda match: match[1] or match[2] or "", words[1]).split(","):
        try:
            yield from _read_address(word)
        except PeerError:
            yield word


def _read_address(word: str) -> Iterator[Place]:
    """Yield what one address of a `bind` stands for.

    Raises:
        PeerError: it is none that can be bound from here.
    """
    family, at, address = word.partition("@")
    if not at:
        family, address = "", word
    if family == "unix" or (not family and address.startswith("/")):
        yield Path(address)
        return
    if family not in ("", "ipv4", "ipv6"):
        raise PeerError(f"address {word[:80]!a} is none that can be tried")
    # HAProxy takes the last colon, brackets or not.
    host, colon, ports = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]").removeprefix("*")
    if not colon:
        raise PeerError(f"address {word[:80]!a} has no port")
    if not host and family == "ipv6":
        host = "::"
    first, dash, last = ports.partition("-")
    low, high = parse_port(first), parse_port(last if dash else first)
    if high - low >= _RANGE_LIMIT:
        raise PeerError(f"address {word[:80]!a} has more than {_RANGE_LIMIT} ports")
    for port in range(low, high + 1):
        yield parse_endpoint(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
