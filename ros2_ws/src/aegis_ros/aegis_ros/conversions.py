"""Between ROS messages and what the rest of this repository speaks: numpy arrays, and seconds as floats."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from sensor_msgs.msg import Image
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aegis_policy.inference.ros_images import ConversionError


def numpy_to_image(pixels: np.ndarray, stamp: Time, frame_id: str) -> Image:
    """The message, encoding "rgb8", of uint8 [H, W, 3].

    Raises:
        ConversionError: another dtype or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ConversionError(f"pixels: expected uint8 [H, W, 3], got {pixels.dtype}{list(pixels.shape)}")
    height, width, _ = pixels.shape
    message = Image(height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width)
    message.header.stamp, message.header.frame_id = stamp, frame_id
    message.data = array("B", pixels.tobytes())  # rclpy checks bytes one by one, but takes an array as it is
    return message


def to_seconds(stamp: Time) -> float:
    """A Time or a Duration as seconds; its nanoseconds stay told apart for 104 days of clock."""
    return stamp.sec + stamp.nanosec * 1e-9


def to_stamp(nanoseconds: int) -> Time:
    """Time since the clock's zero, in nanoseconds, as a message."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)


def to_duration(seconds: float) -> Duration:
    """A Duration of so many seconds, which must not be negative."""
    whole, rest = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(sec=whole, nanosec=rest)


def to_trajectory(
    names: Sequence[str],
    positions: np.ndarray,
    velocities: np.ndarray,
    limits: tuple[np.ndarray, np.ndarray],
    coasting: float,
    braking: float,
) -> JointTrajectory:
    """A command that is safe to be the last: on at its velocity for a moment, then evenly down to standstill.

    Where the end of a joint's range is nearer than that, it passes the first point slower: a controller lays a cubic
    through both, which at more than three times the mean speed between them would run past the second and back.

    Args:
        names: of the J joints.
        positions, velocities: where they are to be now, [J], rad and rad/s.
        limits: lower and upper ends of their range, [J] each: the way to standstill does not lead beyond.
        coasting, braking: s.
    """
    ahead = np.clip(positions + velocities * coasting, *limits)
    stopped = np.clip(ahead + velocities * braking / 2, *limits)
    most = 3 * np.abs(stopped - ahead) / braking
    velocities = np.clip(velocities, -most, most)
    message = JointTrajectory(joint_names=list(names))
    message.points = [
        JointTrajectoryPoint(
            positions=ahead.tolist(), velocities=velocities.tolist(), time_from_start=to_duration(coasting)
        ),
        JointTrajectoryPoint(
            positions=stopped.tolist(), velocities=[0.0] * len(names), time_from_start=to_duration(coasting + braking)
        ),
    ]
    return message
