"""The URDF of the simulated arm leads to where the simulator has the hand."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aegis_sim.description import BASE, TCP, urdf
from aegis_sim.joints import ARM_JOINTS, JointServo
from aegis_sim.tasks import make

pytestmark = pytest.mark.sim


def hand(description: str, joints: dict[str, float]) -> tuple[np.ndarray, Rotation]:
    """Forward kinematics from the base to the tool, as URDF defines it."""
    parents = {joint.find("child").get("link"): joint for joint in ElementTree.fromstring(description).iter("joint")}
    link, place, turn = TCP, np.zeros(3), Rotation.identity()
    while link != BASE:
        joint = parents[link]
        origin = joint.find("origin")
        outer = Rotation.from_euler("xyz", np.fromstring(origin.get("rpy"), sep=" "))
        if joint.get("type") == "revolute":
            axis = np.fromstring(joint.find("axis").get("xyz"), sep=" ")
            outer *= Rotation.from_rotvec(axis * joints[joint.get("name")])
        place, turn = np.fromstring(origin.get("xyz"), sep=" ") + outer.apply(place), outer * turn
        link = joint.find("parent").get("link")
    return place, turn


@pytest.mark.parametrize("task", ["pick", "lift"])
def test_its_forward_kinematics_are_the_simulators(task: str) -> None:
    env = make(task, cameras=())
    env.reset(seed=1)
    description, servo = urdf(env.arm), JointServo(env.arm)
    for _ in range(3):
        servo.follow(servo.positions()[None, :7] + 0.3, np.zeros((1, 7)), 0.0)
        place, turn = hand(description, dict(zip(ARM_JOINTS, servo.positions(), strict=False)))
        position, rotation = env.arm.gripper_pose()
        assert place == pytest.approx(position - env.arm.base_position(), abs=1e-6)
        assert (turn * rotation.inv()).magnitude() < 1e-6
    env.close()


def test_limits_are_the_models() -> None:
    env = make("pick", cameras=())
    joints = {joint.get("name"): joint for joint in ElementTree.fromstring(urdf(env.arm)).iter("joint")}
    fourth, finger = joints["panda_joint4"].find("limit"), joints["panda_finger_joint2"]
    assert (float(fourth.get("lower")), float(fourth.get("upper"))) == (-3.0718, -0.0698)
    assert (float(finger.find("limit").get("lower")), float(finger.find("limit").get("upper"))) == (0.0, 0.04)
    assert (float(fourth.get("effort")), float(fourth.get("velocity"))) == (80.0, 2.175)
    assert finger.find("mimic").get("joint") == "panda_finger_joint1"
    env.close()
