"""Where the robot was commanded to be a moment ago: what a chunk was observed for lies in the past."""

from __future__ import annotations

from collections import deque

import numpy as np


class Track:
    """The coordinates [A] of the last `span` seconds."""

    def __init__(self, span: float) -> None:
        self._span = span
        self._points: deque[tuple[float, np.ndarray]] = deque()

    @property
    def latest(self) -> np.ndarray | None:
        """float64 [A]; None while there is nothing."""
        return self._points[-1][1] if self._points else None

    def add(self, instant: float, place: np.ndarray) -> None:
        """Remember `place` [A] at `instant` (s), which is not before any other."""
        self._points.append((instant, place))
        while self._points[0][0] < instant - self._span:
            self._points.popleft()

    def at(self, instant: float) -> np.ndarray:
        """float64 [A] at `instant`, between two remembered ones on the line; outside them the nearest.

        Raises:
            IndexError: there is nothing.
        """
        later = self._points[-1]
        for earlier in reversed(self._points):
            if earlier[0] <= instant < later[0]:
                share = (instant - earlier[0]) / (later[0] - earlier[0])
                return earlier[1] + share * (later[1] - earlier[1])
            later = earlier
        return self._points[-1][1] if instant >= self._points[-1][0] else self._points[0][1]
