"""Bytes that real agents sent, and hostile ones made of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

VECTORS = Path(__file__).parents[1] / "vectors"


def _vectors(name: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((VECTORS / f"{name}.json").read_text())["vectors"]
    return found


def _hex(value: object) -> bytes:
    return bytes.fromhex(value) if isinstance(value, str) else b""


def packets() -> list[bytes]:
    """Return UDP payloads as captured: SWIM's messages, Serf's inside them, compressed and sealed ones."""
    found = [_hex(vector["hex"]) for vector in _vectors("udp")]
    found += [_hex(vector.get("sent_hex")) for name in ("behaviour_udp", "encrypted") for vector in _vectors(name)]
    return [data for data in found if data]


def streams() -> list[bytes]:
    """Return what went over TCP, one way each."""
    found = []
    for vector in _vectors("push_pull"):
        for way in ("client_to_server", "server_to_client"):
            side = vector.get(way)
            if isinstance(side, dict):
                found.append(_hex(side["hex"]))
    return [data for data in found if data]


def commands() -> list[bytes]:
    """Return what clients sent to agents over RPC, a session each."""
    sessions = []
    for vector in _vectors("rpc"):
        said = vector["messages"]
        assert isinstance(said, list)
        sessions.append(b"".join(_hex(message["hex"]) for message in said if message["dir"] == "client"))
    return [data for data in sessions if data]


def compressed() -> list[bytes]:
    """Return compressed data as real agents write it."""
    return [data for vector in _vectors("lzw") if (data := _hex(vector.get("lzw_hex")))]


def everything() -> list[bytes]:
    """Return all of it, and what lies within packets: decoders further in begin one byte later."""
    outside = packets() + streams()
    return outside + [data[1:] for data in outside] + commands() + compressed()


def mutants(originals: list[bytes], random: Random) -> Iterator[bytes]:
    """Make hostile bytes without end: flipped, cut, doubled, spliced."""
    while True:
        data = bytearray(random.choice(originals))
        for _ in range(random.randint(1, 4)):
            match random.randrange(6):
                case 0 if data:
                    data[random.randrange(len(data))] = random.randrange(256)
                case 1 if data:
                    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
                case 2:
                    del data[random.randint(0, len(data)) :]
                case 3:
                    at = random.randint(0, len(data))
                    data[at:at] = random.randbytes(random.randint(1, 8))
                case 4:
                    other = random.choice(originals)
                    data[random.randint(0, len(data)) :] = other[random.randint(0, len(other)) :]
                case _:
                    at = random.randint(0, len(data))
                    data[at : at + 4] = random.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"))
        yield bytes(data[:65_507])
