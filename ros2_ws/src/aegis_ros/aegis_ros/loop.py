"""Threads that do one thing over and over: the control loop and the inference loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread

log = logging.getLogger(__name__)

LOOK = 0.002  # s of real time between two looks at a clock that may be a simulation's
JOIN = 2.0  # s of real time to wait for a step that hangs, on a server that does not answer, say
EARLY = 0.1  # of a period: a simulated clock moves in steps, and may be a rounding short of the next tick


class Loop(Thread):
    """Calls `step` until it is stopped; `step` says how long to wait before the next, s of real time.

    What `step` raises ends the loop, and `broken` is told.
    """

    def __init__(self, name: str, step: Callable[[], float], broken: Callable[[str], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._step, self._broken, self._stopped = step, broken, Event()
        self.start()

    def run(self) -> None:
        try:
            while not self._stopped.wait(self._step()):
                pass
        except Exception as error:
            log.exception("%s: ends", self.name)
            self._broken(f"{self.name}: {type(error).__name__}: {error}")

    def stop(self) -> None:
        """End after the step that is being made; if that hangs, it is left behind."""
        self._stopped.set()
        self.join(JOIN)


class Pace:
    """Calls `tick` with the time, once each `period` (s) of `clock`, whichever clock that is."""

    def __init__(self, clock: Callable[[], float], period: float, tick: Callable[[float], None]) -> None:
        self._clock, self._period, self._tick = clock, period, tick
        self._due = clock()
        self._ticked: float | None = None
        self._ticks, self._longest = 0, 0.0

    def counted(self) -> tuple[int, float]:
        """Ticks since this was asked last, and the longest time from one to the next, s of the clock."""
        found, self._ticks, self._longest = (self._ticks, self._longest), 0, 0.0
        return found

    def __call__(self) -> float:
        now = self._clock()
        early = self._due - now
        if self._period * EARLY < early <= self._period:
            return min(early, LOOK)
        # a tick that was missed is not made up for, and a clock that began anew is followed
        self._due = self._due + self._period if abs(early) < self._period else now + self._period
        if self._ticked is not None:
            self._ticks, self._longest = self._ticks + 1, max(self._longest, now - self._ticked)
        self._ticked = now
        self._tick(now)
        return 0.0
