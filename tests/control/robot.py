"""A robot to control in tests, and what it means that a command is inside its limits."""

from __future__ import annotations

import numpy as np

from aegis_policy import ActionChunk, Feature, PolicyInfo
from aegis_policy.control import (
    TOLERANCE,
    Asynchronous,
    AxisLimits,
    Controller,
    GripperLimits,
    Limits,
    Scheduler,
    Timeouts,
)

HZ = 10.0  # of chunks
CONTROL_HZ = 50.0
PERIOD = 1 / CONTROL_HZ

INFO = PolicyInfo(
    model="test",
    cameras=(),
    state=(Feature("q1", "rad"), Feature("q2", "rad"), Feature("x", "m"), Feature("opening", "m")),
    actions=(
        Feature("q1", "rad"),
        Feature("q2", "rad"),
        Feature("dx", "m"),
        Feature("drz", "rad"),
        Feature("gripper", "1"),
    ),
    horizon=8,
    control_hz=HZ,
    instructions=("go",),
    checkpoint="",
    max_delay=7,
)
LIMITS: Limits = (
    AxisLimits(1.0, 4.0, 40.0, jump=0.5, chunk_jerk=3000.0, lower=-1.5, upper=1.5, following=0.3),
    AxisLimits(2.0, 10.0, 300.0, jump=0.5, chunk_jerk=3000.0, lower=-0.2, upper=2.8, following=0.3),
    AxisLimits(0.25, 1.0, 10.0, jump=0.1, chunk_jerk=1000.0, lower=0.3, upper=0.7, following=0.2),
    AxisLimits(1.0, 5.0, 60.0, jump=0.3, chunk_jerk=3000.0),
    GripperLimits(-1.0, 1.0),
)
TIMEOUTS = Timeouts(tick=0.1, state=0.2, chunk=1.5)
HOME = np.array([0.2, 0.5, 0.5, 0.04])
GRIPPER = 4


def controller(
    scheduler: Scheduler | None = None, limits: Limits = LIMITS, timeouts: Timeouts = TIMEOUTS
) -> Controller:
    return Controller(INFO, limits, scheduler or Asynchronous(4), timeouts, CONTROL_HZ)


def chunk(*actions: list[float] | np.ndarray, stamp: float = 0.0) -> ActionChunk:
    return ActionChunk(np.array(actions, np.float32), stamp)


def steady(q1: float = 0.2, q2: float = 0.5, dx: float = 0.0, gripper: float = 0.0, stamp: float = 0.0) -> ActionChunk:
    """Eight times the same action."""
    return chunk(*[[q1, q2, dx, 0.0, gripper]] * 8, stamp=stamp)


def measured(command) -> np.ndarray:
    """The state of a robot that is where it was told to be."""
    return HOME if command is None else np.append(command.position[:3], 0.04)


def motion_of(command) -> np.ndarray:
    """[3, A]"""
    return np.array([command.position, command.velocity, command.acceleration])


def assert_inside(motion: np.ndarray, limits: Limits = LIMITS) -> None:
    """One instant [3, A] is inside, by TOLERANCE."""
    p, v, a = motion
    assert np.isfinite(motion).all()
    for i, limit in enumerate(limits):
        assert (
            limit.lower - TOLERANCE * max(1, abs(limit.lower))
            <= p[i]
            <= limit.upper + TOLERANCE * max(1, abs(limit.upper))
        )
        if isinstance(limit, AxisLimits):
            assert abs(v[i]) <= limit.velocity * (1 + TOLERANCE)
            assert abs(a[i]) <= limit.acceleration * (1 + TOLERANCE)


def assert_one_motion(before: np.ndarray, after: np.ndarray, dt: float, limits: Limits = LIMITS) -> None:
    """Two instants [3, A] are dt apart on one path without a jump, its jerk inside, by TOLERANCE."""
    for i, limit in enumerate(limits):
        if isinstance(limit, AxisLimits):
            jerk = limit.jerk * (1 + TOLERANCE)
            (p0, v0, a0), (p1, v1, a1) = before[:, i], after[:, i]
            rounding = 1e-13  # of differences of numbers around 1
            assert abs(a1 - a0) <= jerk * dt + rounding
            assert abs(v1 - v0 - a0 * dt) <= jerk * dt**2 / 2 + rounding
            assert abs(p1 - p0 - v0 * dt - a0 * dt**2 / 2) <= jerk * dt**3 / 6 + rounding
