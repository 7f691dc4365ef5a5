"""A member's tags as Serf lays them into the meta of a SWIM member.

Facts: reference/gossip-wire.md, section 9.1.
"""

from collections.abc import Mapping

import msgpack

from rumor.errors import ConfigError, PeerError

META_LIMIT = 512
_TAGS_MARK = b"\xff"
_TAGS_LIMIT = 256


def encode_tags(tags: Mapping[str, str]) -> bytes:
    """Return the meta that carries these tags, in order of their names.

    Raises:
        ConfigError: they need more than Serf's 512 bytes.
    """
    encoded: bytes = msgpack.packb(dict(sorted(tags.items())), use_bin_type=False, unicode_errors="surrogateescape")
    if len(encoded) + 1 > META_LIMIT:
        raise ConfigError(
            f"the tags of this node need {len(encoded) + 1} bytes, and Serf's limit is {META_LIMIT}: "
            "shorten names or versions, or offer fewer services on one node"
        )
    return _TAGS_MARK + encoded


def decode_tags(meta: bytes) -> dict[str, str]:
    """Return the tags in a member's meta; anything but a tag map is the old form, a bare role.

    Raises:
        PeerError: a tag map that does not parse.
    """
    if not meta.startswith(_TAGS_MARK):
        return {"role": meta.decode("utf-8", "surrogateescape")}
    try:
        tags = msgpack.unpackb(
            meta[1:], raw=True, strict_map_key=False, max_map_len=_TAGS_LIMIT, max_array_len=0, max_ext_len=0
        )
    except Exception as error:
        raise PeerError("the tags are no msgpack map") from error
    if not isinstance(tags, dict) or not all(isinstance(text, bytes) for pair in tags.items() for text in pair):
        raise PeerError("the tags are no map of text to text")
    return {
        key.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape") for key, value in tags.items()
    }
