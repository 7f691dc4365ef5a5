"""The tag by which a member offers a service: `service:web` = `3000;state=ready;weight=100;version=1.4`.

Short on purpose: all tags of a member share 512 bytes. Anyone on the network can write one, so a tag that does not
parse is refused as a whole; a word this version does not know is skipped, so that newer agents can say more.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from rumor.errors import PeerError
from rumor.model import AppState, Offer
from rumor.names import ServiceName, parse_port, parse_service_name, parse_weight

TAG_PREFIX = "service:"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,31}", re.ASCII)
_WORDS_LIMIT = 16


@lru_cache(maxsize=2048)
def parse_offer(key: str, value: str) -> Offer:
    """Parse one tag whose key begins with `service:`; a balancer reads those of all members again in each cycle.

    Raises:
        PeerError: the name, port, state, weight, version or backup is out of its range.
    """
    service = parse_service_name(key.removeprefix(TAG_PREFIX))
    port, *words = value.split(";", _WORDS_LIMIT)
    fields: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name in fields:
            raise PeerError(f"tag {key!a} is refused: {word[:40]!a} is not a word=value of its own")
        fields[name] = text
    return Offer(
        service=service,
        port=parse_port(port),
        state=_parse_state(fields.get("state", "ready")),
        weight=parse_weight(fields.get("weight", "100")),
        version=_parse_version(fields.get("version", "")),
        is_backup=_parse_backup(fields.get("backup", "0")),
    )


def format_offer(offer: Offer) -> tuple[str, str]:
    """Return the tag's key and value; what has its default value is left out."""
    words = [str(offer.port)]
    if offer.state is not AppState.READY:
        words.append(f"state={offer.state.value}")
    if offer.weight != 100:
        words.append(f"weight={offer.weight}")
    if offer.version:
        words.append(f"version={offer.version}")
    if offer.is_backup:
        words.append("backup=1")
    return f"{TAG_PREFIX}{offer.service}", ";".join(words)


def read_offers(tags: Mapping[str, str]) -> tuple[tuple[Offer, ...], tuple[PeerError, ...]]:
    """Return the offers among a member's tags, by service name, and a refusal for each tag that does not parse."""
    offers: dict[ServiceName, Offer] = {}
    refusals: list[PeerError] = []
    for key in sorted(key for key in tags if key.startswith(TAG_PREFIX)):
        try:
            offer = parse_offer(key, tags[key])
        except PeerError as error:
            refusals.append(error)
        else:
            offers[offer.service] = offer
    return tuple(offers.values()), tuple(refusals)


def _parse_state(text: str) -> AppState:
    try:
        return AppState(text)
    except ValueError as error:
        raise PeerError(f"state {text[:40]!a} is refused: say starting, ready, draining or down") from error


def _parse_backup(text: str) -> bool:
    if text not in ("0", "1"):
        raise PeerError(f"backup {text[:40]!a} is refused: say 0 or 1")
    return text == "1"


def _parse_version(text: str) -> str:
    if text and not _VERSION.fullmatch(text):
        raise PeerError(f"version {text[:40]!a} is refused: use up to 32 of A-Z a-z 0-9 _ . + -")
    return text
