"""Members and table -> any file, by a template of the operator's.

Names and addresses are strict types by now. Tags are what nodes say of themselves, free text from the network, which
refuses to be printed but through `word`, `json` or `shell`, according to what reads the file.
"""

import ipaddress
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from rumor.render.free_text import FreeTags, text_of
from rumor.render.sandbox import Filters, render_text
from rumor.render.words import duration, word


@dataclass(frozen=True, slots=True)
class MemberView:
    """A member as templates see it."""

    name: str
    host: str
    port: int
    """Where it gossips."""
    status: str
    """alive, suspect, leaving or failed."""
    tags: FreeTags = field(repr=False)
    is_balancer: bool

    @property
    def is_alive(self) -> bool:
        return self.status in ("alive", "suspect")


@dataclass(frozen=True, slots=True)
class ServerView:
    """A server as templates see it."""

    name: str
    host: str
    port: int
    state: str
    """ready, drain or maint."""
    weight: int
    version: str
    is_backup: bool

    @property
    def address(self) -> str:
        """HOST:PORT, with brackets around IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service as templates see it, its servers in order of their names."""

    name: str
    servers: tuple[ServerView, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """What a template is told; everything in order of names, so that equal pictures give equal files."""

    cluster: str
    node: str
    """This node's own name."""
    members: tuple[MemberView, ...]
    services: tuple[ServiceView, ...]

    @property
    def balancers(self) -> tuple[MemberView, ...]:
        return tuple(member for member in self.members if member.is_balancer)


def render_file(name: str, source: str, picture: Picture) -> str:
    """Return what comes out of a template.

    Raises:
        Refused: with the template, its line, and what is wrong there.
    """
    values = {
        "cluster": picture.cluster,
        "node": picture.node,
        "members": picture.members,
        "services": {service.name: service for service in picture.services},
        "balancers": picture.balancers,
    }
    return render_text(name, source, _FILTERS, values)


def _json(value: object) -> str:
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: object) -> object:
    text = text_of(value)
    if text is not None:
        return text
    if isinstance(value, Mapping):
        return {text_of(key) or "": _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _word(value: object) -> str:
    text = text_of(value)
    return word(value if text is None else text)


def _shell(value: object) -> str:
    """Print a value as one word for a shell."""
    said = text_of(value)
    text = str(value) if said is None else said
    if not text.isprintable():
        raise ValueError(f"{text[:80]!a} holds a control character")
    return shlex.quote(text)


def _host(value: object) -> str:
    """Print a host as URLs have it: IPv6 in brackets."""
    address = ipaddress.ip_address(str(value))
    return f"[{address}]" if address.version == 6 else str(address)


_FILTERS: Filters = (("word", _word), ("json", _json), ("shell", _shell), ("host", _host), ("duration", duration))
