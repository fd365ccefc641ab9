"""What comes in is matched by stamps, and what is old, late, frozen or missing is named, with how much."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

import numpy as np

from aegis_ros.inputs import Gates, Inputs, View

ARM, HAND = ("a", "b"), ("finger",)


def inputs() -> Inputs:
    def picture(shade: object) -> np.ndarray:
        return np.full((2, 2, 3), shade, np.uint8)

    gates = Gates(image_age=0.5, joint_age=0.1, skew=0.03, ahead=0.02)
    return Inputs({"front": picture, "wrist": picture}, ARM, HAND, gates)


def feed(robot: Inputs, until: float, front_lag: float = 0.0, wrist_lag: float = 0.0) -> None:
    """Joints at 100 Hz and cameras at 10 Hz from 0 on; an image's shade is the tenth of a second that it shows."""
    for i in range(round(until * 100) + 1):
        robot.add_joints(("b", "finger", "a"), (i, 0.5, -i), i * 0.01, i * 0.01)
    for i in range(round(until * 10) + 1):
        for name, lag in (("front", front_lag), ("wrist", wrist_lag)):
            if i * 0.1 + lag <= until + 1e-9:
                robot.add_image(name, i * 0.1, i * 0.1 + lag, i)


def test_a_view_is_of_one_instant_however_late_a_camera_is() -> None:
    robot = inputs()
    feed(robot, 1.0, wrist_lag=0.2)
    view = robot.view()
    assert isinstance(view, View)
    assert view.stamp == pytest.approx(0.8)
    assert {name: image[0, 0, 0] for name, image in view.images.items()} == {"front": 8, "wrist": 8}
    assert view.joints.positions.tolist() == [-80, 80] and view.joints.fingers.tolist() == [0.5]
    newest = robot.joints()
    assert newest is not None and newest.stamp == pytest.approx(1.0)
    assert robot.wrong(1.0) is None


def test_what_lies_apart_is_not_shown_together() -> None:
    robot = inputs()
    feed(robot, 0.5)
    robot.add_image("front", 0.56, 0.56, 1)
    robot.add_image("wrist", 0.63, 0.63, 1)
    robot.add_joints(("a", "b", "finger"), (0, 0, 0), 0.64, 0.64)
    assert "lie 0.060 s apart, limit 0.03 s" in str(robot.view())


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (1.05, None),
        (1.2, "joint states of the arm: nothing new for 0.200 s, limit 0.1 s"),
        (1.6, "camera 'front': nothing new for 0.600 s, limit 0.5 s"),
        (0.9, "camera 'front': stamped 0.100 s in the future, limit 0.02 s"),
    ],
)
def test_what_stops_coming_is_named_with_the_time(now: float, reason: str | None) -> None:
    robot = inputs()
    feed(robot, 1.0)
    assert robot.wrong(now) == reason


def test_a_frozen_camera_that_sends_its_last_image_again_is_no_news() -> None:
    robot = inputs()
    feed(robot, 1.0)
    for i in range(7):
        robot.add_image("wrist", 1.0, 1.1 + i * 0.1, 10)
        robot.add_image("front", 1.1 + i * 0.1, 1.1 + i * 0.1, 10)
        robot.add_joints(("a", "b", "finger"), (0, 0, 0), 1.1 + i * 0.1, 1.1 + i * 0.1)
    assert robot.wrong(1.7) == "camera 'wrist': nothing new for 0.700 s, limit 0.5 s"


def test_a_clock_that_is_another_is_seen() -> None:
    robot = inputs()
    feed(robot, 1.0)
    robot.add_image("front", 1.1, 1.8, 1)
    assert robot.wrong(1.8) == "camera 'front': 0.700 s old as it came (or its clock is another), limit 0.5 s"


def test_arm_and_hand_may_speak_apart_and_missing_joints_are_named() -> None:
    robot = inputs()
    robot.add_joints(("a", "elbow"), (0, 0), 0.0, 0.0)
    assert "joint states: no b; heard: a, elbow" in robot.missing()
    robot.add_joints(ARM, (1, 2), 0.1, 0.1)
    robot.add_joints(HAND, (3,), 0.08, 0.1)
    joints = robot.joints()
    assert joints is not None and joints.stamp == 0.08 and joints.fingers.tolist() == [3]
    assert robot.missing() == ["no image of camera 'front'", "no image of camera 'wrist'"]


def test_a_clock_that_begins_anew_is_followed() -> None:
    robot = inputs()
    feed(robot, 5.0)
    feed(robot, 1.0)
    joints = robot.joints()
    assert joints is not None and joints.stamp == pytest.approx(1.0) and robot.wrong(1.0) is None


def test_pictures_are_of_known_cameras() -> None:
    robot = inputs()
    feed(robot, 0.3)
    images, stamp = robot.pictures(["wrist"])
    assert list(images) == ["wrist"] and stamp == pytest.approx(0.3)
    with pytest.raises(LookupError, match="no camera 'side': there are front, wrist"):
        robot.pictures(["side"])


def test_pictures_of_a_while_ago_are_late() -> None:
    robot = inputs()
    feed(robot, 0.3)
    assert robot.late(["wrist"], 0.4) is None
    assert "camera 'wrist': nothing new for 9.700 s" in str(robot.late(["wrist"], 10.0))
