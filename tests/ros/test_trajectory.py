"""Trajectories are refused, replaced and interpolated as joint_trajectory_controller does it."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

import numpy as np
from builtin_interfaces.msg import Duration, Time
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline
from trajectory_msgs.msg import JointTrajectory

from aegis_ros.trajectory import Trajectory, TrajectoryError, plan
from tests.ros.robot import trajectory

JOINTS = ["one", "two"]
HERE, MOVING = np.array([0.5, -0.5]), np.array([0.1, 0.2])


def planned(message: JointTrajectory, now: float = 10.0) -> Trajectory:
    return plan(message, JOINTS, now, HERE, MOVING)


def numbers(rows: int) -> st.SearchStrategy[np.ndarray]:
    row = st.lists(st.floats(-3, 3), min_size=2, max_size=2)
    return st.lists(row, min_size=rows, max_size=rows).map(np.array)


@given(numbers(3), numbers(3), st.lists(st.floats(0.05, 2), min_size=3, max_size=3))
def test_points_with_velocities_make_a_cubic_spline_from_where_the_arm_is(
    positions: np.ndarray, velocities: np.ndarray, spans: list[float]
) -> None:
    times = np.cumsum(np.round(spans, 6))
    made = planned(trajectory(times, positions, velocities, JOINTS))
    truth = CubicHermiteSpline(
        np.append(10.0, 10.0 + times), np.vstack([HERE, positions]), np.vstack([MOVING, velocities])
    )
    at = np.linspace(10.0, made.end - 1e-6, 50)
    place, speed = made.sample(at)
    np.testing.assert_allclose(place, truth(at), atol=1e-6)
    np.testing.assert_allclose(speed, truth(at, 1), atol=1e-4)


@given(numbers(2))
def test_points_without_velocities_are_joined_by_straight_lines(positions: np.ndarray) -> None:
    made = planned(trajectory([1.0, 2.0], positions, joints=JOINTS))
    place, speed = made.sample(np.array([10.0, 10.5, 11.25]))
    np.testing.assert_allclose(place[0], HERE, atol=1e-9)
    np.testing.assert_allclose(place[1], (HERE + positions[0]) / 2, atol=1e-9)
    np.testing.assert_allclose(speed[2], positions[1] - positions[0], atol=1e-6)


def test_after_the_last_point_the_arm_holds_even_if_it_was_to_move() -> None:
    made = planned(trajectory([1.0], np.array([[1.0, 2.0]]), np.array([[3.0, 3.0]]), JOINTS))
    place, speed = made.sample(np.array([11.0, 99.0]))
    assert place.tolist() == [[1.0, 2.0]] * 2 and not speed.any()


def test_joints_are_matched_by_name() -> None:
    made = planned(trajectory([1.0], np.array([[1.0, 2.0]]), joints=["two", "one"]))
    assert made.sample(np.array([11.0]))[0].tolist() == [[2.0, 1.0]]


def test_what_a_late_trajectory_says_about_the_past_is_dropped() -> None:
    message = trajectory([0.0, 1.0, 2.0], np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), joints=JOINTS)
    message.header.stamp = Time(sec=8, nanosec=500_000_000)  # now is 10: between the second point and the third
    assert planned(message).sample(np.array([10.0]))[0][0] == pytest.approx([1.5, 1.5])


def test_until_the_first_point_the_arm_goes_there_from_where_it_was_to_be() -> None:
    message = trajectory([0.0], np.array([[1.5, 0.5]]), joints=JOINTS)
    message.header.stamp = Time(sec=12)
    assert planned(message).sample(np.array([11.0]))[0][0] == pytest.approx((HERE + [1.5, 0.5]) / 2)


def late() -> JointTrajectory:
    message = trajectory([1.0], np.zeros((1, 2)), joints=JOINTS)
    message.header.stamp = Time(sec=8)
    return message


def before_its_start() -> JointTrajectory:
    message = trajectory([1.0], np.zeros((1, 2)), joints=JOINTS)
    message.points[0].time_from_start = Duration(sec=-1)
    return message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            trajectory([1.0], np.zeros((1, 2)), joints=["one", "elbow"]),
            "unknown: elbow; missing: two; expected one, two",
        ),
        (trajectory([1.0], np.zeros((1, 1)), joints=["one"]), "missing: two"),
        (trajectory([1.0], np.zeros((1, 3)), joints=["one", "two", "two"]), "repeated"),
        (trajectory([], np.zeros((0, 2)), joints=JOINTS), "no points"),
        (trajectory([1.0, 1.0], np.zeros((2, 2)), joints=JOINTS), "ascending"),
        (before_its_start(), "ascending"),
        (trajectory([1.0], np.zeros((1, 1)), joints=JOINTS), "positions of point 0: expected 2"),
        (trajectory([1.0, 2.0], np.array([[0, 0], [0, np.nan]]), joints=JOINTS), "positions of point 1"),
        (trajectory([1.0, 2.0], np.zeros((2, 2)), [[0, 0], []], JOINTS), "velocities of point 1"),
        (late(), "ends at 9.000 s, 1.000 s ago"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(message: JointTrajectory, reason: str) -> None:
    with pytest.raises(TrajectoryError, match=reason):
        planned(message)
