"""What must keep coming keeps coming: ticks, measured states, chunks, and a clock that runs forward."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite


@dataclass(frozen=True)
class Timeouts:
    """In s.

    Attributes:
        tick: the longest from one tick to the next.
        state: the oldest measured state to go by.
        chunk: the oldest observation whose chunk may still be followed.
        ahead: how far a stamp may be in the future, for clocks that differ a little.
    """

    tick: float
    state: float
    chunk: float
    ahead: float = 0.01

    def __post_init__(self) -> None:
        for field in fields(self):
            if not (isfinite(getattr(self, field.name)) and getattr(self, field.name) >= 0):
                raise ValueError(f"timeout '{field.name}' is {getattr(self, field.name)!r}: expected seconds")


class Watchdog:
    """Tells how much time to move on by, and what is wrong. The only clock it knows is the one it is told of."""

    def __init__(self, timeouts: Timeouts, period: float) -> None:
        """Expect a tick every `period` (s)."""
        if not 0 < period <= timeouts.tick:
            raise ValueError(f"ticks every {period:g} s: expected above 0 and at most the timeout, {timeouts.tick:g} s")
        self.timeouts, self._period, self._last = timeouts, period, 0.0

    def begin(self, now: float) -> None:
        """Count from `now` on."""
        self._last = now

    def elapsed(self, now: float) -> tuple[float, str | None]:
        """How far to move on (s) since the last tick, and what is wrong with the clock, if anything.

        A clock that jumped says nothing about how long the robot has moved, and a robot that got no command for long
        has stood still meanwhile. Both go on by one period: never farther in one command than in an ordinary one.
        """
        if not isfinite(now):
            return self._period, f"clock: {now} is not a time"
        dt, self._last = now - self._last, now
        if dt < 0:
            return self._period, f"clock: went back by {-dt:.3g} s"
        if dt > self.timeouts.tick:
            late = f"{dt:.3g} s after the last (late, or the clock jumped), limit {self.timeouts.tick:g} s"
            return self._period, f"tick: {late}"
        return dt, None

    def stale(self, what: str, stamp: float, now: float, limit: float) -> str | None:
        """What is wrong with the age of something stamped `stamp`, if anything."""
        age = now - stamp
        if age > limit:
            return f"{what}: stale, {age:.3g} s old, limit {limit:g} s"
        if age < -self.timeouts.ahead:
            return f"{what}: stamped {-age:.3g} s in the future, limit {self.timeouts.ahead:g} s"
        return None if isfinite(age) else f"{what}: {stamp} is not a time"
