"""Is this chunk fit to be followed? The whole of it is looked at before any of it moves the robot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aegis_policy.control.limits import AxisLimits, Limits
from aegis_policy.control.plan import Plan
from aegis_policy.control.space import ActionSpace


@dataclass(frozen=True)
class Rejection:
    """Why a chunk is not followed.

    Attributes:
        check: which check it failed: "state", "shape", "finite", "stamp", "late", "jump" or "jerk".
        reason: what, where, how much and against which limit.
    """

    check: str
    reason: str

    def __str__(self) -> str:
        return f"chunk refused: {self.reason}"


def check_actions(space: ActionSpace, actions: np.ndarray) -> Rejection | None:
    """Whether `actions` are [H >= 1, A] finite numbers."""
    actions = np.asarray(actions)
    if actions.ndim != 2 or len(actions) == 0 or actions.shape[1] != len(space):
        return Rejection("shape", f"actions have shape {list(actions.shape)}, expected [1 or more, {len(space)}]")
    if not (np.issubdtype(actions.dtype, np.floating) or np.issubdtype(actions.dtype, np.integer)):
        return Rejection("shape", f"actions are {actions.dtype}, expected real numbers")
    if not np.isfinite(actions).all():
        i, a = np.argwhere(~np.isfinite(actions))[0]
        return Rejection("finite", f"action {i} of '{space.dimensions[a].name}' is {actions[i, a]}")
    return None


def check_plan(space: ActionSpace, plan: Plan, limits: Limits, present: np.ndarray, now: float) -> Rejection | None:
    """Whether `plan` keeps its places close together, close to `present` [A], and its jerk small."""
    for a, (dimension, limit) in enumerate(zip(space.dimensions, limits, strict=True)):
        if not isinstance(limit, AxisLimits):
            continue
        name, unit, places = dimension.name, dimension.unit, plan.places[:, a]
        off = abs(plan.at(now).position[a] - present[a])
        if not off <= limit.jump:
            return Rejection("jump", f"'{name}' is {off:.4g} {unit} off the present place, limit {limit.jump:g} {unit}")
        steps = np.abs(np.diff(places))
        i = int(steps.argmax())
        if not steps[i] <= limit.jump:
            return Rejection(
                "jump", f"action {i} of '{name}' is {steps[i]:.4g} {unit} away, limit {limit.jump:g} {unit}"
            )
        # without the place it begins at, which is the robot's and not the chunk's
        jerks = np.abs(np.diff(places[1:], n=3)) / plan.step**3
        if jerks.size and not jerks.max() <= limit.chunk_jerk:
            i = int(jerks.argmax())
            return Rejection(
                "jerk",
                f"actions {i} to {i + 3} of '{name}' have a jerk of {jerks[i]:.4g} {unit}/s³, "
                f"limit {limit.chunk_jerk:g} {unit}/s³",
            )
    return None
