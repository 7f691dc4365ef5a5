"""What is wrapped around messages on their way: compression, checksum, encryption, label, in memberlist's order.

Facts: reference/gossip-wire.md, sections 2.1, 4, 5 and 6.1.
"""

from dataclasses import dataclass

from rumor.errors import PeerError
from rumor.swim.codec import ENCRYPT, LABEL, StreamDecoder, encode_compressed, with_crc
from rumor.swim.messages import StreamMessage
from rumor.swim.sealing import OVERHEAD, Keyring, open_sealed, seal

SEALED_LIMIT = 16 * 1024 * 1024
_SEALED_HEAD = 5
_COMPRESSED_LIMIT_BYTES = 128 * 1024
"""A longer message goes as it is: to compress it would hold up everything else for longer than it saves."""


@dataclass(frozen=True, slots=True)
class Wire:
    """How one node wraps what it sends, and what it asks of what it gets."""

    keyring: Keyring | None = None
    """With keys everything is sealed, and what is not is refused."""
    label: bytes = b""
    """Only packets and streams with the same label are taken; serf's own agent has none."""
    compresses: bool = False
    """Compressed messages are read in any case."""

    @property
    def overhead(self) -> int:
        """The bytes that a packet must leave free."""
        return (len(self.label) + 2 if self.label else 0) + (OVERHEAD if self.keyring else 0)

    def wrap_packet(self, data: bytes, nonce: bytes, *, has_crc: bool) -> bytes:
        """Wrap what goes into one packet; `nonce` is used only with keys, and must then be new."""
        if self.compresses:
            compressed = encode_compressed(data)
            data = compressed if len(compressed) < len(data) else data
        if has_crc:
            data = with_crc(data)
        if self.keyring is not None:
            data = seal(self.keyring, data, self.label, nonce=nonce)
        return self._label_head() + data

    def unwrap_packet(self, data: bytes) -> bytes:
        """Take label and seal off a packet.

        Raises:
            PeerError: they are not ours; the first word says which.
        """
        parts = split_label(data)
        if parts is None:
            raise PeerError("label: cut short")
        label, data = parts
        if label != self.label:
            raise PeerError("label: not ours")
        if self.keyring is None:
            return data
        try:
            return open_sealed(self.keyring, data, self.label)
        except PeerError as error:
            raise PeerError(f"seal: {error}") from error

    def wrap_stream(self, message: bytes, nonce: bytes, *, is_dialling: bool) -> bytes:
        """Wrap the one message that goes one way on a stream; only who dials says the label."""
        if self.compresses and len(message) <= _COMPRESSED_LIMIT_BYTES:
            message = encode_compressed(message)
        if self.keyring is not None:
            head = bytes((ENCRYPT,)) + (len(message) + OVERHEAD).to_bytes(4, "big")
            message = head + seal(self.keyring, message, head + self.label, nonce=nonce)
        return (self._label_head() if is_dialling else b"") + message

    def _label_head(self) -> bytes:
        return bytes((LABEL, len(self.label))) + self.label if self.label else b""


PLAIN = Wire()


def split_label(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the label, empty for none, and the rest; None as long as more bytes are needed to know.

    Raises:
        PeerError: a label without a length.
    """
    if not data or data[0] != LABEL:
        return b"", data
    if len(data) < 2:
        return None
    if not data[1]:
        raise PeerError("label: empty")
    return None if len(data) < 2 + data[1] else (data[2 : 2 + data[1]], data[2 + data[1] :])


class StreamReader:
    """Reads the one message of a stream through label and seal, however its bytes are cut."""

    def __init__(self, wire: Wire, *, local_port: int, is_dialled: bool) -> None:
        """Prepare to read; `is_dialled` says that the other side opened the stream, and so says its label."""
        self._wire = wire
        self._decoder = StreamDecoder(local_port=local_port)
        self._awaits_label = is_dialled
        self._awaits_kind = True
        self._sealed: bytearray | None = None
        self._head = b""

    def feed(self, data: bytes) -> StreamMessage | None:
        """Return the message once it is whole, None before.

        Raises:
            PeerError: the stream is not one we read; nothing after it will be. Its words are memberlist's where it
                has some for the case.
        """
        if self._awaits_label:
            self._head += data
            parts = split_label(self._head)
            if parts is None or not self._head:
                return None
            self._awaits_label = False
            label, data = parts
            if label != self._wire.label:
                raise PeerError("label: not ours")
        if not data:
            return None
        if self._awaits_kind:
            self._awaits_kind = False
            if data[0] == ENCRYPT and self._wire.keyring is None:
                raise PeerError("Remote state is encrypted and encryption is not configured")
            if data[0] != ENCRYPT and self._wire.keyring is not None:
                raise PeerError("Encryption is configured but remote state is not encrypted")
            self._sealed = bytearray() if self._wire.keyring is not None else None
        if self._sealed is None:
            return self._decoder.feed(data)
        self._sealed += data
        return self._open(self._sealed)

    def _open(self, sealed: bytearray) -> StreamMessage | None:
        if len(sealed) < _SEALED_HEAD:
            return None
        length = int.from_bytes(sealed[1:_SEALED_HEAD], "big")
        if length > SEALED_LIMIT:
            raise PeerError(f"a sealed stream of more than {SEALED_LIMIT} bytes")
        if len(sealed) < _SEALED_HEAD + length or self._wire.keyring is None:
            return None
        head = bytes(sealed[:_SEALED_HEAD])
        plain = open_sealed(
            self._wire.keyring, bytes(sealed[_SEALED_HEAD : _SEALED_HEAD + length]), head + self._wire.label
        )
        message = self._decoder.feed(plain)
        if message is None:
            raise PeerError("the sealed message is cut short")
        return message
