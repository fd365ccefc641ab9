"""One axis in continuous time: pieces of constant jerk, how far they reach, and the shortest stop.

Positions are in u, times in s, where u is m or rad. All of it is closed form on plain floats: for one number, numpy
costs more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from operator import le
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Motion:
    """Where an axis is and how it moves: position (u), velocity (u/s), acceleration (u/s²)."""

    position: float
    velocity: float = 0.0
    acceleration: float = 0.0


class Piece(NamedTuple):
    """So long (s) at this jerk (u/s³)."""

    duration: float
    jerk: float


_COASTING = Piece(inf, 0.0)


class Reach(NamedTuple):
    """The extremes over all instants of a path: of position (u), and of the sizes of the rest (u/s, u/s², u/s³)."""

    lowest: float
    highest: float
    velocity: float
    acceleration: float
    jerk: float

    def joined(self, other: Reach) -> Reach:
        """Over both paths."""
        return Reach(min(self[0], other[0]), *map(max, self[1:], other[1:]))

    def loosened(self, share: float) -> Reach:
        """The same, each number farther out by a share of itself (a position below 1: by `share`)."""
        return Reach(
            self.lowest - share * max(1.0, abs(self.lowest)),
            self.highest + share * max(1.0, abs(self.highest)),
            *(size * (1 + share) for size in self[2:]),
        )

    def within(self, other: Reach) -> bool:
        """Whether nothing here goes beyond `other`."""
        return self.lowest >= other.lowest and all(map(le, self[1:], other[1:]))


def travel(start: Motion, pieces: Sequence[Piece], duration: float) -> tuple[Motion, Reach]:
    """Where `pieces` lead in `duration` (s), going on without jerk when they end earlier; and the reach on the way."""
    p, v, a = start.position, start.velocity, start.acceleration
    lowest = highest = p
    slowest = fastest = v
    strongest, sharpest = abs(a), 0.0
    left = duration
    for length, j in (*pieces, _COASTING):
        t = length if length < left else left
        if t <= 0.0:
            continue
        p1 = p + t * (v + t * (a / 2 + t * j / 6))
        v1 = v + t * (a + t * j / 2)
        a1 = a + t * j
        turning = v - a * a / (2 * j) if a * a1 < 0.0 else v1  # the velocity's extreme, where a passes through zero
        low, high = min(v, v1, turning), max(v, v1, turning)
        if low < 0.0 < high:
            turns = [x for x in _zeros(v, a, j) if 0.0 < x < t]
            places = [p + x * (v + x * (a / 2 + x * j / 6)) for x in turns]
            lowest, highest = min(lowest, *places, p1), max(highest, *places, p1)
        elif p1 > highest:
            highest = p1
        elif p1 < lowest:
            lowest = p1
        slowest, fastest = min(slowest, low), max(fastest, high)
        strongest, sharpest = max(strongest, abs(a1)), max(sharpest, abs(j))
        p, v, a = p1, v1, a1
        left -= t
        if left <= 0.0:
            break
    return Motion(p, v, a), Reach(lowest, highest, max(-slowest, fastest), strongest, sharpest)


def stop(motion: Motion, acceleration: float, jerk: float) -> list[Piece]:
    """The shortest way to standstill with |jerk| and |acceleration| (u/s³, u/s²) at most these, wherever that ends.

    Zero the acceleration at full jerk and the velocity left is w = v + a|a| / 2J. Against w's sign, full jerk builds up
    a deceleration with the peak b = sqrt(J|v| + a²/2) (a, v seen in w's direction), holds it at the limit if b is
    beyond, and takes it back. A deceleration that is already beyond the limit is held at what it is, not raised.
    """
    v, a = motion.velocity, motion.acceleration
    left = v + a * abs(a) / (2 * jerk)
    sign = 1.0 if left > 0.0 or (left == 0.0 and a > 0.0) else -1.0
    v, a = sign * v, sign * a  # now the velocity left is not negative
    limit = max(acceleration, -a)
    peak = sqrt(max(jerk * v + a * a / 2, 0.0))
    held = 0.0
    if peak > limit:
        held = (v + a * a / (2 * jerk) - limit * limit / jerk) / limit
        peak = limit
    return [
        Piece(max(a + peak, 0.0) / jerk, -sign * jerk),
        Piece(max(held, 0.0), 0.0),
        Piece(peak / jerk, sign * jerk),
    ]


def _zeros(v: float, a: float, j: float) -> list[float]:
    """Instants at which v + a t + j t²/2 is zero."""
    if j == 0.0:
        return [-v / a] if a != 0.0 else []
    discriminant = a * a - 2 * j * v
    if discriminant < 0.0:
        return []
    q = -(a + (sqrt(discriminant) if a >= 0.0 else -sqrt(discriminant)))  # the sum that loses no digits
    return [q / j, *([2 * v / q] if q != 0.0 else [])]
