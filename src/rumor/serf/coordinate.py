"""Network coordinates (Vivaldi), as Serf computes them: how far two members are apart, without asking either.

Every answered probe pulls or pushes this node's coordinate a little. Distances are round-trip times in seconds.
Facts: reference/gossip-wire.md, section 9.9.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from rumor.errors import PeerError
from rumor.model import Seconds
from rumor.swim.fields import Fields, pack, unpack

DIMENSIONS = 8
VERSION = 1
_ERROR_MAX = 1.5
_ERROR_WEIGHT = 0.25
_FORCE_WEIGHT = 0.25
_HEIGHT_MIN = 1e-5
_ZERO = 1e-6
_GRAVITY = 150.0
_ADJUSTMENTS = 20
_LATENCIES = 3
_RTT_LIMIT = 10.0
_LARGEST = 1e6
_MEMBERS_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A place in eight dimensions, with a height for the last mile and an adjustment for what does not fit."""

    vec: tuple[float, ...] = (0.0,) * DIMENSIONS
    error: float = _ERROR_MAX
    adjustment: float = 0.0
    height: float = _HEIGHT_MIN

    def distance(self, other: "Coordinate") -> Seconds:
        """Return the round-trip time to expect."""
        raw = self.raw_distance(other)
        adjusted = raw + self.adjustment + other.adjustment
        return Seconds(adjusted if adjusted > 0 else raw)

    def raw_distance(self, other: "Coordinate") -> float:
        return math.dist(self.vec, other.vec) + self.height + other.height

    @property
    def is_valid(self) -> bool:
        """Whether every number is one that a network can have; larger ones would overflow further on."""
        return all(abs(number) < _LARGEST for number in (*self.vec, self.error, self.adjustment, self.height))


def encode_coordinate(coordinate: Coordinate) -> bytes:
    """Return a coordinate as it goes with an answer to a ping."""
    return bytes((VERSION,)) + pack(
        {
            "Adjustment": coordinate.adjustment,
            "Error": coordinate.error,
            "Height": coordinate.height,
            "Vec": list(coordinate.vec),
        }
    )


def decode_coordinate(payload: bytes) -> Coordinate:
    """Return the coordinate in an answer to a ping.

    Raises:
        PeerError: another version, another number of dimensions, or numbers that are none.
    """
    if payload[:1] != bytes((VERSION,)):
        raise PeerError("coordinate of an unknown version")
    fields = Fields(unpack(payload[1:]))
    vec = fields.items(b"Vec")
    if len(vec) != DIMENSIONS or not all(type(number) in (float, int) for number in vec):
        raise PeerError(f"a coordinate has {DIMENSIONS} numbers")
    found = Coordinate(
        tuple(float(number) for number in vec),
        fields.real(b"Error"),
        fields.real(b"Adjustment"),
        fields.real(b"Height"),
    )
    if not found.is_valid:
        raise PeerError("a coordinate with numbers that no network has")
    return found


@dataclass(slots=True)
class CoordinateClient:
    """This node's coordinate, and what it knows of the others'."""

    random: Random
    own: Coordinate = Coordinate()
    resets: int = 0
    others: dict[str, Coordinate] = field(default_factory=dict)
    _latencies: dict[str, deque[float]] = field(default_factory=dict)
    _adjustments: deque[float] = field(default_factory=lambda: deque([0.0] * _ADJUSTMENTS, maxlen=_ADJUSTMENTS))

    def update(self, name: str, other: Coordinate, rtt: float) -> None:
        """Take in one answered probe; a time out of 0..10 s is left alone."""
        is_known = name in self.others or len(self.others) < _MEMBERS_LIMIT
        if not 0 <= rtt <= _RTT_LIMIT or not other.is_valid or not is_known:
            return
        self.others[name] = other
        latencies = self._latencies.setdefault(name, deque(maxlen=_LATENCIES))
        latencies.append(rtt)
        rtt = sorted(latencies)[len(latencies) // 2]
        moved = self._attract(self._adjust(self._pull(self.own, other, max(rtt, _ZERO)), other, rtt))
        if moved.is_valid:
            self.own = moved
        else:
            self.own, self.resets = Coordinate(), self.resets + 1

    def forget(self, name: str) -> None:
        self.others.pop(name, None)
        self._latencies.pop(name, None)

    def _pull(self, own: Coordinate, other: Coordinate, rtt: float) -> Coordinate:
        distance = own.distance(other)
        wrongness = abs(distance - rtt) / rtt
        weight = own.error / max(own.error + other.error, _ZERO)
        error = min(_ERROR_MAX, _ERROR_WEIGHT * weight * wrongness + own.error * (1 - _ERROR_WEIGHT * weight))
        moved = self._apply_force(own, other, _FORCE_WEIGHT * weight * (rtt - distance))
        return Coordinate(moved.vec, error, own.adjustment, moved.height)

    def _adjust(self, own: Coordinate, other: Coordinate, rtt: float) -> Coordinate:
        self._adjustments.append(rtt - own.raw_distance(other))
        adjustment = sum(self._adjustments) / (2 * _ADJUSTMENTS)
        return Coordinate(own.vec, own.error, adjustment, own.height)

    def _attract(self, own: Coordinate) -> Coordinate:
        """Pull a little towards the origin, so that the whole cluster does not drift away."""
        origin = Coordinate()
        force = -((own.distance(origin) / _GRAVITY) ** 2)
        moved = self._apply_force(own, origin, force)
        return Coordinate(moved.vec, own.error, own.adjustment, moved.height)

    def _apply_force(self, own: Coordinate, other: Coordinate, force: float) -> Coordinate:
        direction, distance = self._direction(own.vec, other.vec)
        vec = tuple(place + part * force for place, part in zip(own.vec, direction, strict=True))
        height = own.height
        if distance > _ZERO:
            height = max(_HEIGHT_MIN, (own.height + other.height) * force / distance + own.height)
        return Coordinate(vec, own.error, own.adjustment, height)

    def _direction(self, to: Sequence[float], from_: Sequence[float]) -> tuple[tuple[float, ...], float]:
        """Return the unit vector from the other to us, and their distance; a random one where both are one place."""
        difference = [a - b for a, b in zip(to, from_, strict=True)]
        length = math.hypot(*difference)
        if length > _ZERO:
            return tuple(part / length for part in difference), length
        while True:
            random = [self.random.random() - 0.5 for _ in to]
            length = math.hypot(*random)
            if length > _ZERO:
                return tuple(part / length for part in random), 0.0
