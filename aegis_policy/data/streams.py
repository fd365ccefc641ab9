"""From streams that come as they like to steps at the control rate: at each tick the newest that was known by then.

All times are integers of nanoseconds of one clock, the one that stamps the messages' headers.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import numpy as np

SECOND = 1_000_000_000

T = TypeVar("T")


class Sample(NamedTuple, Generic[T]):
    """Something that was stamped at this time, ns."""

    stamp: int
    value: T


class Stream(Generic[T]):
    """What one sender said.

    Args:
        name: for people.
        max_age: the oldest to go by, s.
    """

    def __init__(self, name: str, max_age: float) -> None:
        self.name, self._max_age = name, round(max_age * SECOND)
        self._samples: list[Sample[T]] = []
        self._newest = 0

    def add(self, stamp: int, value: T) -> None:
        """The next that was received; a little out of order is put in order.

        Raises:
            ValueError: the sender's clock began anew.
        """
        if self._samples and stamp < self._newest - self._max_age:
            back = (self._newest - stamp) / SECOND
            raise ValueError(
                f"{self.name}: at {clock(self._newest)} the stamps go back by {back:.3f} s; "
                "a clock that begins anew needs a bag of its own"
            )
        self._newest = max(self._newest, stamp)
        self._samples.append(Sample(stamp, value))

    def __len__(self) -> int:
        return len(self._samples)

    def ordered(self) -> list[Sample[T]]:
        """All, by stamp; of those with the same stamp the one received last is the last."""
        return sorted(self._samples, key=lambda sample: sample.stamp)

    def at(self, ticks: np.ndarray) -> list[Sample[T]]:
        """For each of the ticks [N] the newest sample that is not newer than it.

        Raises:
            ValueError: it is too old; says when, and by how much.
        """
        samples = self.ordered()
        stamps = np.array([sample.stamp for sample in samples], np.int64)
        places = newest(stamps, ticks)
        ages = ticks - stamps[places]
        if (late := (places < 0) | (ages > self._max_age)).any():
            tick = int(np.argmax(late))
            limit = f"limit {self._max_age / SECOND:g} s"
            age = "nothing yet" if places[tick] < 0 else f"the newest is {ages[tick] / SECOND:.3f} s old, {limit}"
            raise ValueError(f"{self.name}: at {clock(ticks[tick])}: {age}")
        return [samples[place] for place in places]


def newest(stamps: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """For each of the ticks [N] the place of the last of the ascending stamps [M] that is not newer; -1 for none."""
    return np.searchsorted(stamps, ticks, side="right") - 1


def ticks_between(first: int, last: int, rate: float) -> np.ndarray:
    """`rate` ticks a second from `first` on, none later than `last`: int64 [N]."""
    count = int((last - first) * rate / SECOND) + 1
    ticks = first + np.round(np.arange(count) * (SECOND / rate)).astype(np.int64)
    return ticks[ticks <= last]


def clock(stamp: int) -> str:
    """A stamp in words."""
    return f"{stamp / SECOND:.3f} s"
