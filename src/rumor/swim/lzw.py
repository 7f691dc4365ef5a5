"""LZW as Go writes and reads it: least significant bit first, 8-bit literals, codes of 9 to 12 bits.

The one compression that memberlist knows. Output is byte for byte Go's, held by captured messages.
Facts: reference/gossip-wire.md, section 4.
"""

from rumor.errors import PeerError

_CLEAR, _END, _FIRST_FREE = 256, 257, 258
_WIDEST = 12
_FULL = (1 << _WIDEST) - 1
_LITERALS = tuple(bytes((value,)) for value in range(256))


def compress(data: bytes) -> bytes:
    """Return the compressed form, which for short or random data is longer than the data."""
    bits, count, out = _CLEAR, 9, bytearray()
    width, top, overflow = 9, _END, 512
    table: dict[int, int] = {}
    code = -1
    for byte in data:
        if code < 0:
            code = byte
            continue
        key = code << 8 | byte
        known = table.get(key)
        if known is not None:
            code = known
            continue
        bits |= code << count
        count += width
        code = byte
        top += 1
        if top == overflow:
            width += 1
            overflow <<= 1
        if top == _FULL:
            bits |= _CLEAR << count
            count += width
            width, top, overflow = 9, _END, 512
            table.clear()
        else:
            table[key] = top
        if count >= 4096:
            whole = count >> 3
            out += (bits & ((1 << (whole << 3)) - 1)).to_bytes(whole, "little")
            bits >>= whole << 3
            count &= 7
    if code >= 0:
        bits |= code << count
        count += width
        top += 1
        if top == overflow:
            width += 1
        if top == _FULL:
            bits |= _CLEAR << count
            count += width
            width = 9
    bits |= _END << count
    count += width
    return bytes(out) + bits.to_bytes((count + 7) >> 3, "little")


def decompress(data: bytes, *, limit: int) -> bytes:
    """Return the plain data.

    Raises:
        PeerError: the data is no such stream, ends too early, or holds more than `limit` bytes.
    """
    # Strings are kept whole: a table of 4,096 entries costs little, and slices are what Python is quick at.
    strings: list[bytes] = [*_LITERALS, b"", b""]
    out: list[bytes] = []
    size = 0
    width, top, overflow = 9, _END, 512
    last = b""
    bits = count = position = 0
    length = len(data)
    while True:
        while count < width:
            if position >= length:
                raise PeerError("the compressed data ends too early")
            chunk = data[position : position + 6]
            bits |= int.from_bytes(chunk, "little") << count
            count += len(chunk) << 3
            position += len(chunk)
        code = bits & ((1 << width) - 1)
        bits >>= width
        count -= width
        if code == _CLEAR:
            del strings[_FIRST_FREE:]
            width, top, overflow = 9, _END, 512
            last = b""
            continue
        if code == _END:
            return b"".join(out)
        if code < len(strings):
            text = strings[code]
        elif code == top and last:
            text = last + last[:1]
        else:
            raise PeerError("the compressed data names a string that it has not built")
        size += len(text)
        if size > limit:
            raise PeerError(f"the compressed data holds more than {limit} bytes")
        out.append(text)
        if last and top < _FULL + 1 and len(strings) == top:
            strings.append(last + text[:1])
        last = text
        top += 1
        if top >= overflow:
            if width == _WIDEST:
                last = b""
                top -= 1
            else:
                width += 1
                overflow <<= 1
