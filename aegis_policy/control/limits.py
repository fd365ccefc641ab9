"""How far, how fast and how sharply each action may move: plain numbers, checked once, as from a YAML file.

    q1: {velocity: 1.0, acceleration: 4.0, jerk: 40.0, jump: 0.2, chunk_jerk: 2000.0,
         lower: -2.9, upper: 2.9, following: 0.1}
    dx: {velocity: 0.25, acceleration: 1.0, jerk: 10.0, jump: 0.05, chunk_jerk: 500.0,
         lower: 0.3, upper: 0.7, following: 0.05}
    drx: {velocity: 0.8, acceleration: 4.0, jerk: 40.0, jump: 0.2, chunk_jerk: 2000.0}
    gripper: {lower: -1.0, upper: 1.0}

Nothing has a default: a limit that nobody chose protects nobody. `.inf` says that one is not wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf, isfinite, isnan
from typing import Any

from aegis_policy.control.motion import Reach
from aegis_policy.control.space import ActionSpace, Dimension


@dataclass(frozen=True)
class AxisLimits:
    """Of a position or a displacement, in u, which is m or rad.

    Attributes:
        velocity, acceleration, jerk: u/s, u/s², u/s³, of the commands; kept at every instant.
        jump: u, the most a chunk may ask for from one action to the next, or off the present place; else it is refused.
        chunk_jerk: u/s³, the largest third difference of a chunk's places; beyond it the chunk is refused.
        lower, upper: u, the range of the commanded place: joint limits, or for displacements in m the workspace.
        following: u, how far the measured place may be from the commanded one before the robot is stopped.
    """

    velocity: float
    acceleration: float
    jerk: float
    jump: float
    chunk_jerk: float
    lower: float = -inf
    upper: float = inf
    following: float = inf

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ValueError(f"lower {self.lower:g} is not below upper {self.upper:g}")
        for name in ("velocity", "acceleration", "jerk"):
            if not (getattr(self, name) > 0 and isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name):g}: expected a finite number above 0")
        for name in ("jump", "chunk_jerk", "following"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name):g}: expected a number above 0")

    @property
    def reach(self) -> Reach:
        return Reach(self.lower, self.upper, self.velocity, self.acceleration, self.jerk)


@dataclass(frozen=True)
class GripperLimits:
    """Of a gripper's command, in its own unit: it is clipped to this range."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not (self.lower <= self.upper and isfinite(self.lower) and isfinite(self.upper)):
            raise ValueError(f"lower {self.lower:g} and upper {self.upper:g}: expected finite numbers in this order")


Limits = Sequence[AxisLimits | GripperLimits]
"""One for each action, in order."""


def read_limits(space: ActionSpace, data: Mapping[str, Mapping[str, Any]]) -> tuple[AxisLimits | GripperLimits, ...]:
    """One for each action of `space` from name -> key -> number, as a YAML file gives.

    Raises:
        ValueError: an action or a key is missing or unknown, or a number is none or impossible; says which.
    """
    names = [dimension.name for dimension in space.dimensions]
    if missing := [name for name in names if name not in data]:
        raise ValueError(f"limits: missing for {', '.join(missing)}")
    if unknown := [name for name in data if name not in names]:
        raise ValueError(f"limits: the policy has no action {', '.join(unknown)}; it has {', '.join(names)}")
    return tuple(_read(dimension, data[dimension.name]) for dimension in space.dimensions)


def check_limits(space: ActionSpace, limits: Limits) -> None:
    """Raise ValueError unless `limits` are of the right kind for each action."""
    if len(limits) != len(space):
        raise ValueError(f"limits: {len(limits)} for {len(space)} actions")
    for dimension, limit in zip(space.dimensions, limits, strict=True):
        kind = AxisLimits if dimension.moves else GripperLimits
        if not isinstance(limit, kind):
            raise ValueError(f"limits of '{dimension.name}': expected {kind.__name__}, got {type(limit).__name__}")


def _read(dimension: Dimension, data: Mapping[str, Any]) -> AxisLimits | GripperLimits:
    kind = AxisLimits if dimension.moves else GripperLimits
    wanted = [field.name for field in fields(kind)]
    if dimension.moves and dimension.measured_by is None:  # there is no place to hold to a range
        wanted = [name for name in wanted if name not in ("lower", "upper", "following")]
    if set(data) != set(wanted):
        raise ValueError(
            f"limits of '{dimension.name}': expected {', '.join(wanted)}; got {', '.join(data) or 'nothing'}"
        )
    for key, value in data.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or isnan(value):
            raise ValueError(f"limits of '{dimension.name}': {key} is {value!r}: expected a number")
    try:
        return kind(**data)
    except ValueError as error:
        raise ValueError(f"limits of '{dimension.name}': {error}") from error
