"""What ros2_control's joint_trajectory_controller (Jazzy) makes of a trajectory: which it refuses, and the motion.

As configured in robots' usual bring-up files: splines, no partial goals, a velocity allowed at the end
(`allow_nonzero_velocity_at_trajectory_end`, which streamed chunks need), interpolation from the desired state
(`interpolate_from_desired_state`). A new trajectory replaces the old one at once, whatever its start; until its first
point the arm goes there from where it was to be. Points in the past count for nothing but the interpolation that
leads away from them. After the last point the arm holds there.
(https://control.ros.org/jazzy/doc/ros2_controllers/joint_trajectory_controller/doc/trajectory.html)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aegis_ros.conversions import to_seconds


class TrajectoryError(ValueError):
    """A trajectory that the controller refuses; says why."""


class Trajectory:
    """Joint positions and velocities over time: linear between points, or cubic where they have velocities.

    Args:
        times: [N], s of the robot's clock, ascending.
        positions: [N, J], rad.
        velocities: [N, J], rad/s; None for straight lines.
    """

    def __init__(self, times: np.ndarray, positions: np.ndarray, velocities: np.ndarray | None) -> None:
        self._times, self._positions, self._velocities = times, positions, velocities

    @classmethod
    def hold(cls, positions: np.ndarray) -> Trajectory:
        """Stay at `positions` [J]."""
        return cls(np.zeros(1), positions[None], None)

    @property
    def end(self) -> float:
        """When the last point is reached, s."""
        return float(self._times[-1])

    def sample(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the joints are to be at `times` [T], and how fast: two arrays [T, J].

        Before the first point and after the last they are there, at rest.
        """
        inside = (times >= self._times[0]) & (times < self.end)
        positions = np.where((times < self._times[0])[:, None], self._positions[0], self._positions[-1])
        velocities = np.zeros_like(positions)
        if inside.any():
            positions[inside], velocities[inside] = self._between(times[inside])
        return positions, velocities

    def _between(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        after = np.searchsorted(self._times, times, side="right")
        before = after - 1
        span = (self._times[after] - self._times[before])[:, None]
        s = (times - self._times[before])[:, None] / span
        start, travel = self._positions[before], self._positions[after] - self._positions[before]
        if self._velocities is None:
            return start + s * travel, travel / span
        # cubic Hermite: p = start + v0 s + (3 d - 2 v0 - v1) s^2 + (v0 + v1 - 2 d) s^3, with s in [0, 1]
        v0, v1 = self._velocities[before] * span, self._velocities[after] * span
        square, cube = 3 * travel - 2 * v0 - v1, v0 + v1 - 2 * travel
        return start + s * (v0 + s * (square + s * cube)), (v0 + s * (2 * square + s * 3 * cube)) / span


def plan(
    message: JointTrajectory, joints: Sequence[str], now: float, position: np.ndarray, velocity: np.ndarray
) -> Trajectory:
    """The trajectory that takes over from where the arm is to be `now`.

    Accelerations and efforts are left aside.

    Args:
        joints: the controller's J joints, in the order of the result.
        now: s of the robot's clock.
        position, velocity: the desired state [J] now, rad and rad/s.

    Raises:
        TrajectoryError: joints missing or unknown, no points, numbers missing, too many or not finite, times that do
            not ascend, an end in the past.
    """
    _check_joints(message.joint_names, joints)
    if not message.points:
        raise TrajectoryError("no points")
    order = [message.joint_names.index(name) for name in joints]
    starts = to_seconds(message.header.stamp) or now
    times = starts + np.array([to_seconds(point.time_from_start) for point in message.points])
    if times[0] < starts or (np.diff(times) <= 0).any():
        raise TrajectoryError("time_from_start: expected ascending times from 0 up")
    if times[-1] < now:
        raise TrajectoryError(f"it ends at {times[-1]:.3f} s, {now - times[-1]:.3f} s ago")
    positions = _rows(message.points, "positions", len(joints))[:, order]
    velocities = None
    if any(point.velocities for point in message.points):
        velocities = _rows(message.points, "velocities", len(joints))[:, order]
    if times[0] > now:
        times, positions = np.append(now, times), np.vstack([position, positions])
        velocities = None if velocities is None else np.vstack([velocity, velocities])
    return Trajectory(times, positions, velocities)


def _check_joints(given: Sequence[str], joints: Sequence[str]) -> None:
    unknown = [name for name in given if name not in joints]
    missing = [name for name in joints if name not in given]
    if unknown or missing or len(given) != len(joints):
        wrong = [f"unknown: {', '.join(unknown)}"] * bool(unknown) + [f"missing: {', '.join(missing)}"] * bool(missing)
        raise TrajectoryError(f"joint names {'; '.join(wrong) or 'repeated'}; expected {', '.join(joints)}")


def _rows(points: Sequence[JointTrajectoryPoint], what: str, joints: int) -> np.ndarray:
    """`what` of all points, float64 [N, J]."""
    rows = [getattr(point, what) for point in points]
    for index, row in enumerate(rows):
        if len(row) != joints or not np.isfinite(row).all():
            raise TrajectoryError(f"{what} of point {index}: expected {joints} finite numbers, got {list(row)}")
    return np.array(rows, np.float64)
