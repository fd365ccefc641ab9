"""What the robot has sent lately: cameras and joints, matched by their stamps, with gates on how old they may be.

No ROS in here: whoever hears something says when it was stamped and when it came, both in seconds of one clock. A
stream is fresh only if both are: the stamp alone trusts a camera whose clock is wrong, and arrival alone trusts one
that sends an old image again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

KEPT = 2.0  # s of each stream, by stamp

T = TypeVar("T")


class Sample(NamedTuple, Generic[T]):
    """Something that was stamped and arrived at these times, s."""

    stamp: float
    arrived: float
    value: T


@dataclass(frozen=True)
class Gates:
    """In s.

    Attributes:
        image_age, joint_age: the oldest that a camera's newest image and the newest joint states may be, by stamp and
            by arrival.
        skew: the farthest that what is shown to the policy at once may lie apart.
        ahead: how far a stamp may be in the future.
    """

    image_age: float
    joint_age: float
    skew: float
    ahead: float


class Health(NamedTuple):
    """Of one stream: its name, what is wrong with it, if anything, its newest sample's age, s, and how many came."""

    name: str
    wrong: str | None
    age: float
    received: int


class Stream(Generic[T]):
    """The latest of one sender, by stamp. Not locked: `Inputs` is.

    Attributes:
        name: in words.
        received: how many samples have come, old ones too.
    """

    def __init__(self, name: str, limit: float, ahead: float) -> None:
        self.name, self._limit, self._ahead = name, limit, ahead
        self.received = 0
        self._samples: deque[Sample[T]] = deque()

    @property
    def newest(self) -> Sample[T] | None:
        return self._samples[-1] if self._samples else None

    def add(self, sample: Sample[T]) -> None:
        """Keep a sample; one that is no newer than the newest says nothing new, except after the clock began anew."""
        self.received += 1
        newest = self.newest
        if newest is not None and newest.stamp - KEPT <= sample.stamp <= newest.stamp:
            return
        if newest is not None and sample.stamp < newest.stamp:
            self._samples.clear()
        self._samples.append(sample)
        while self._samples[0].stamp < sample.stamp - KEPT:
            self._samples.popleft()

    def nearest(self, stamp: float) -> Sample[T]:
        """The sample stamped closest to `stamp`; there must be one."""
        return min(self._samples, key=lambda sample: abs(sample.stamp - stamp))

    def wrong(self, now: float) -> str | None:
        """What is wrong with the newest sample's times, if anything."""
        newest = self.newest
        if newest is None:
            return f"{self.name}: nothing has come"
        age, silent, delay = now - newest.stamp, now - newest.arrived, newest.arrived - newest.stamp
        if delay > self._limit:
            return f"{self.name}: {delay:.3f} s old as it came (or its clock is another), limit {self._limit:g} s"
        if max(age, silent) > self._limit:
            return f"{self.name}: nothing new for {max(age, silent):.3f} s, limit {self._limit:g} s"
        if age < -self._ahead:
            return f"{self.name}: stamped {-age:.3f} s in the future, limit {self._ahead:g} s"
        return None


class Joints(NamedTuple):
    """Where the robot is: positions of the arm's joints [J], rad, and of the hand's, and the older one's stamp, s."""

    positions: np.ndarray
    fingers: np.ndarray
    stamp: float


class View(NamedTuple):
    """What was seen and felt at one instant: images by camera, joints, and the oldest stamp among them, s."""

    images: Mapping[str, np.ndarray]
    joints: Joints
    stamp: float


class Inputs:
    """All streams of one robot; heard by one thread, looked at by others.

    Args:
        cameras: camera -> what makes uint8 [H, W, 3] of its messages. That is done only for images that are looked at.
        arm, hand: names of the joints; joint states that lack some of each are no news of those.
        gates: what counts as too old, or too far apart.
    """

    def __init__(
        self,
        cameras: Mapping[str, Callable[[object], np.ndarray]],
        arm: Sequence[str],
        hand: Sequence[str],
        gates: Gates,
    ) -> None:
        self._decode, self._names, self._gates = cameras, (tuple(arm), tuple(hand)), gates
        self._images = {name: Stream[object](f"camera '{name}'", gates.image_age, gates.ahead) for name in cameras}
        self._joints = tuple(
            Stream[np.ndarray](f"joint states of the {part}", gates.joint_age, gates.ahead) for part in ("arm", "hand")
        )
        self._heard: set[str] = set()
        self._lock = Lock()

    # -- hearing -------------------------------------------------------------------------------------------------

    def add_image(self, camera: str, stamp: float, arrived: float, message: object) -> None:
        """An image as it came."""
        with self._lock:
            self._images[camera].add(Sample(stamp, arrived, message))

    def add_joints(self, names: Sequence[str], positions: Sequence[float], stamp: float, arrived: float) -> None:
        """Joint states, by name, of the arm, the hand, both, or something else altogether."""
        found = dict(zip(names, positions, strict=False))
        with self._lock:
            self._heard |= found.keys()
            for wanted, stream in zip(self._names, self._joints, strict=True):
                if wanted and found.keys() >= set(wanted):
                    stream.add(Sample(stamp, arrived, np.array([found[name] for name in wanted], np.float64)))

    # -- looking -------------------------------------------------------------------------------------------------

    def missing(self) -> list[str]:
        """What has not come at all, in words."""
        with self._lock:
            silent = [f"no image of camera '{name}'" for name, stream in self._images.items() if stream.newest is None]
            for wanted, stream in zip(self._names, self._joints, strict=True):
                if wanted and stream.newest is None:
                    lacking = [name for name in wanted if name not in self._heard]
                    heard = ", ".join(sorted(self._heard)) or "nothing"
                    what = f"no {', '.join(lacking)}" if lacking else f"never {', '.join(wanted)} in one message"
                    silent.append(f"joint states: {what}; heard: {heard}")
            return silent

    def wrong(self, now: float) -> str | None:
        """Why one should not go by what comes in, if there is a reason."""
        with self._lock:
            return next((reason for stream in self._all() if (reason := stream.wrong(now))), None)

    def health(self, now: float) -> list[Health]:
        """Of each stream."""
        with self._lock:
            return [
                Health(
                    stream.name, stream.wrong(now), now - stream.newest.stamp if stream.newest else 0.0, stream.received
                )
                for stream in self._all()
            ]

    def age(self, now: float) -> float:
        """Of the oldest of the newest samples, s; 0 while something has not come."""
        with self._lock:
            newest = [stream.newest for stream in self._all()]
            return max((now - sample.stamp for sample in newest if sample is not None), default=0.0)

    def joints(self) -> Joints | None:
        """The newest; None before they have come."""
        with self._lock:
            if any(stream.newest is None for stream in self._needed()):
                return None
            return self._joined([stream.newest for stream in self._joints])

    def view(self) -> View | str:
        """The newest instant of which everything is known; or why there is none."""
        with self._lock:
            newest = [stream.newest for stream in self._all()]
            if any(sample is None for sample in newest):
                return "something has not come at all"
            instant = min(sample.stamp for sample in newest if sample is not None)
            images = {name: stream.nearest(instant) for name, stream in self._images.items()}
            parts = [stream.nearest(instant) if stream.newest else None for stream in self._joints]
            stamps = [sample.stamp for sample in (*images.values(), *parts) if sample is not None]
            if max(stamps) - min(stamps) > self._gates.skew:
                return (
                    f"images and joint states lie {max(stamps) - min(stamps):.3f} s apart, limit {self._gates.skew:g} s"
                )
            joints = self._joined(parts)
        pictures = {name: self._decode[name](sample.value) for name, sample in images.items()}
        return View(pictures, joints, min(stamps))

    def late(self, cameras: Sequence[str], now: float) -> str | None:
        """Why the newest images of `cameras` do not show what is there now, if there is a reason."""
        with self._lock:
            streams = [self._images[name] for name in cameras if name in self._images]
            return next((reason for stream in streams if (reason := stream.wrong(now))), None)

    def pictures(self, cameras: Sequence[str]) -> tuple[dict[str, np.ndarray], float]:
        """The newest image of each of `cameras`, and the oldest stamp, s.

        Raises:
            LookupError: no such camera, or nothing has come of it.
        """
        with self._lock:
            if unknown := [name for name in cameras if name not in self._images]:
                raise LookupError(f"no camera '{unknown[0]}': there are {', '.join(self._images)}")
            samples = {name: self._images[name].newest for name in cameras}
        if silent := [name for name, sample in samples.items() if sample is None]:
            raise LookupError(f"camera '{silent[0]}': nothing has come")
        found = {name: sample for name, sample in samples.items() if sample is not None}
        images = {name: self._decode[name](sample.value) for name, sample in found.items()}
        return images, min(sample.stamp for sample in found.values())

    # -- with the lock held --------------------------------------------------------------------------------------

    def _all(self) -> list[Stream[Any]]:
        return [*self._images.values(), *self._needed()]

    def _needed(self) -> list[Stream[Any]]:
        return [stream for names, stream in zip(self._names, self._joints, strict=True) if names]

    @staticmethod
    def _joined(parts: Sequence[Sample[np.ndarray] | None]) -> Joints:
        arm, hand = parts
        assert arm is not None
        fingers = np.zeros(0) if hand is None else hand.value
        return Joints(arm.value, fingers, arm.stamp if hand is None else min(arm.stamp, hand.stamp))
