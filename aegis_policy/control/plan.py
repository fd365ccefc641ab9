"""A chunk as a path in time, which a control loop of any rate can read."""

from __future__ import annotations

import numpy as np

from aegis_policy.control.limiter import Target
from aegis_policy.control.space import ActionSpace


class Plan:
    """H actions laid out in time: action i (from 0) is in force from start + i*step, and reached one step later.

    Between two places runs a cubic, and where two cubics meet, velocity and acceleration agree: the cubic spline. The
    last place is reached at rest, so that whoever has no next chunk comes to a stop there.
    A gripper's command is held for its step: halfway between open and closed is neither.

    Attributes:
        start, step: s, of the caller's clock.
        actions: [H, A], as they were given.
        places: coordinates, float64 [H+1, A], the first at `start`.
        stamp: of the observation that the chunk answers.
        behind: how many of the chunk's actions were due before `start`; below zero where others come before its first.
    """

    def __init__(
        self,
        space: ActionSpace,
        actions: np.ndarray,
        *,
        start: float,
        anchor: np.ndarray,
        stamp: float,
        behind: int = 0,
    ) -> None:
        """Lay out `actions` [H, A] from `start` (s) and coordinates `anchor` [A]."""
        self.start, self.step, self.stamp = start, 1 / space.control_hz, stamp
        self.actions, self.behind = actions, behind
        self.places = space.waypoints(actions, anchor)
        self.moving = space.moving
        p, v = self.places, _spline_velocities(self.places, self.step) * self.step  # per step: u runs from 0 to 1
        p0, p1, v0, v1 = p[:-1], p[1:], v[:-1], v[1:]
        cubics = np.stack([p0, v0, 3 * (p1 - p0) - 2 * v0 - v1, 2 * (p0 - p1) + v0 + v1], axis=1)
        held = np.stack([p1, *3 * [np.zeros_like(p1)]], axis=1)
        self._coefficients = np.where(self.moving, cubics, held)  # [H, 4, A], of 1, u, u², u³

    @property
    def end(self) -> float:
        """When its last place is reached, s."""
        return self.start + (len(self.places) - 1) * self.step

    def at(self, instant: float) -> Target:
        """Where to be at `instant`; before its start that is its first place, after its end its last, at rest."""
        steps = (instant - self.start) / self.step
        i = min(max(int(steps), 0), len(self._coefficients) - 1)
        u = min(max(steps - i, 0.0), 1.0)
        position = np.array([1.0, u, u * u, u * u * u]) @ self._coefficients[i]
        if not self.start <= instant < self.end:
            return Target(position, np.zeros_like(position))
        return Target(position, np.array([0.0, 1.0, 2 * u, 3 * u * u]) @ self._coefficients[i] / self.step)


def _spline_velocities(places: np.ndarray, step: float) -> np.ndarray:
    """Velocities [N, A] of the cubic spline through `places` [N, A]: no acceleration at the first, rest at the last."""
    n = len(places)
    system, right = 4 * np.eye(n) + np.eye(n, k=1) + np.eye(n, k=-1), np.zeros_like(places)
    right[1:-1] = 3 / step * (places[2:] - places[:-2])
    system[0, :2], right[0] = (2, 1), 3 / step * (places[1] - places[0])
    system[-1, -2:] = 0, 1
    return np.linalg.solve(system, right)
