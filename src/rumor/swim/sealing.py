"""Keys, and AES-GCM as memberlist seals packets and streams with them.

Sealed form: version (0 or 1), nonce of 12 bytes, ciphertext with its tag of 16. Version 0 pads the plain text to
whole blocks; it is read, and only version 1 is written. Facts: reference/gossip-wire.md, section 5.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rumor.errors import ConfigError, PeerError, Refused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_SIZES = (16, 24, 32)
NONCE_LENGTH = 12
OVERHEAD = 1 + NONCE_LENGTH + 16
"""What sealing adds to a message."""
_VERSION = 1
_PADDED_VERSION = 0
_BLOCK = 16


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of one cluster: the first seals, each of them opens. Never empty."""

    keys: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.keys or any(len(key) not in KEY_SIZES for key in self.keys):
            raise Refused("key size must be 16, 24 or 32 bytes")

    @property
    def primary(self) -> bytes:
        return self.keys[0]

    def install(self, key: bytes) -> "Keyring":
        """Add a key that opens; one that is there already is no error.

        Raises:
            Refused: it has no good length, in Serf's words, as below.
        """
        return self if key in self.keys else Keyring((*self.keys, key))

    def use(self, key: bytes) -> "Keyring":
        """Make a key the one that seals; the others go on opening.

        Raises:
            Refused: it was not installed.
        """
        if key not in self.keys:
            raise Refused("Requested key is not in the keyring")
        return Keyring((key, *(other for other in self.keys if other != key)))

    def remove(self, key: bytes) -> "Keyring":
        """Forget a key; one that is not there is no error.

        Raises:
            Refused: it is the one that seals.
        """
        if key == self.primary:
            raise Refused("Removing the primary key is not allowed")
        return Keyring(tuple(other for other in self.keys if other != key))


def parse_key(text: str) -> bytes:
    """Return a key from its base64 form. The text is a secret: no error repeats it.

    Raises:
        ConfigError: it is no base64, or the key has no good length.
    """
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError("an encryption key is base64 text, as `rumor keygen` prints it") from error
    if len(key) not in KEY_SIZES:
        raise ConfigError(
            f"an encryption key has 16, 24 or 32 bytes, this one {len(key)}: make one with `rumor keygen`"
        )
    return key


def format_key(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")


def seal(ring: Keyring, plain: bytes, extra: bytes, *, nonce: bytes) -> bytes:
    """Return the sealed form.

    Args:
        ring: its primary key seals.
        plain: what to seal.
        extra: what is not sealed but must not be changed on its way either.
        nonce: 12 bytes that no other message under this key has.
    """
    return bytes((_VERSION,)) + nonce + _cipher(ring.primary).encrypt(nonce, plain, extra)


def open_sealed(ring: Keyring, data: bytes, extra: bytes) -> bytes:
    """Return the plain text under whichever key of the ring opens it.

    Raises:
        PeerError: the form is unknown, or no key opens it.
    """
    from cryptography.exceptions import InvalidTag

    version = data[0] if data else 255
    if version not in (_VERSION, _PADDED_VERSION):
        raise PeerError(f"unsupported encryption version {version}")
    if len(data) < OVERHEAD + (_BLOCK if version == _PADDED_VERSION else 0):
        raise PeerError("the sealed message is too short")
    nonce, sealed = data[1 : 1 + NONCE_LENGTH], data[1 + NONCE_LENGTH :]
    for key in ring.keys:
        try:
            plain: bytes = _cipher(key).decrypt(nonce, sealed, extra)
        except InvalidTag:
            continue
        return plain if version == _VERSION else _without_padding(plain)
    raise PeerError("No installed keys could decrypt the message")


def _without_padding(plain: bytes) -> bytes:
    padding = plain[-1] if plain else 0
    if not 0 < padding <= min(_BLOCK, len(plain)):
        raise PeerError("the padding of the sealed message is wrong")
    return plain[:-padding]


def _cipher(key: bytes) -> "AESGCM":
    # A late import: an agent without a key does without 7 MB.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)
