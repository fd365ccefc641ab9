"""The kinematics of a simulated Panda as URDF, read off the compiled model: a real arm's comes with its description.

Links and joints only, named as in Franka's own description, with limits; no inertias, no meshes. `panda_hand_tcp` is
the point between the finger tips whose pose environments call the state.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from aegis_sim.arm import ArmSim
from aegis_sim.joints import ARM_JOINTS, FINGER_JOINTS, FINGER_SPEED

BASE, HAND, TCP = "panda_link0", "panda_hand", "panda_hand_tcp"
ARM_LINKS = tuple(f"panda_link{i}" for i in range(1, 8))
FINGER_LINKS = ("panda_leftfinger", "panda_rightfinger")
ARM_SPEEDS = (2.175,) * 4 + (2.61,) * 3
"""rad/s that the joints of a real Panda do at most (Franka Control Interface, limits for Panda); the model has none."""


def urdf(arm: ArmSim) -> str:
    """The description of `arm`, a Panda with its own hand; lengths in m, angles in rad."""
    model, robot = arm.sim.model._model, arm.robots[0]
    root = ElementTree.Element("robot", name="panda")
    for link in (BASE, *ARM_LINKS, HAND, *FINGER_LINKS, TCP):
        ElementTree.SubElement(root, "link", name=link)
    parent, parent_body = BASE, arm.sim.model.body_name2id(robot.robot_model.root_body)
    efforts = model.actuator_ctrlrange[robot._ref_arm_joint_actuator_indexes][:, 1]  # N m
    arm_joints = zip(ARM_JOINTS, robot.robot_joints, ARM_LINKS, ARM_SPEEDS, efforts, strict=True)
    for name, modelled, link, speed, effort in arm_joints:
        index = arm.sim.model.joint_name2id(modelled)
        joint = _joint(root, name, "revolute", parent, link, _between(model, parent_body, model.jnt_bodyid[index]))
        _moves(joint, model.jnt_axis[index], model.jnt_range[index], speed, effort)
        parent, parent_body = link, model.jnt_bodyid[index]
    fingers = [arm.sim.model.joint_name2id(name) for name in robot.gripper["right"].joints]
    hand = model.body_parentid[model.jnt_bodyid[fingers[0]]]
    _joint(root, "panda_hand_joint", "fixed", parent, HAND, _between(model, parent_body, hand))
    forces = model.actuator_forcerange[robot._ref_joint_gripper_actuator_indexes["right"]][:, 1]  # N
    for name, index, link, sign, force in zip(FINGER_JOINTS, fingers, FINGER_LINKS, (1, -1), forces, strict=True):
        joint = _joint(root, name, "prismatic", HAND, link, _between(model, hand, model.jnt_bodyid[index]))
        # robosuite's second finger counts downwards
        _moves(joint, sign * model.jnt_axis[index], np.sort(sign * model.jnt_range[index]), FINGER_SPEED, force)
    ElementTree.SubElement(joint, "mimic", joint=FINGER_JOINTS[0])
    site = robot.eef_site_id["right"]
    place, turn = _between(model, hand, model.site_bodyid[site])
    tip = (place + turn.apply(model.site_pos[site]), turn * _rotation(model.site_quat[site]))
    _joint(root, "panda_hand_tcp_joint", "fixed", HAND, TCP, tip)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


def _between(model: mujoco.MjModel, ancestor: int, body: int) -> tuple[np.ndarray, Rotation]:
    """Where `body` is in the frame of `ancestor`, [3] and a rotation, with all joints at zero."""
    place, turn = np.zeros(3), Rotation.identity()
    while body != ancestor:
        outer = _rotation(model.body_quat[body])
        place, turn = model.body_pos[body] + outer.apply(place), outer * turn
        body = model.body_parentid[body]
    return place, turn


def _rotation(quaternion: np.ndarray) -> Rotation:
    """Of MuJoCo's quaternion, whose real part comes first."""
    return Rotation.from_quat(np.roll(quaternion, -1))


def _joint(
    root: ElementTree.Element, name: str, kind: str, parent: str, child: str, origin: tuple[np.ndarray, Rotation]
) -> ElementTree.Element:
    joint = ElementTree.SubElement(root, "joint", name=name, type=kind)
    place, turn = origin
    ElementTree.SubElement(joint, "origin", xyz=_numbers(place), rpy=_numbers(turn.as_euler("xyz")))
    ElementTree.SubElement(joint, "parent", link=parent)
    ElementTree.SubElement(joint, "child", link=child)
    return joint


def _moves(joint: ElementTree.Element, axis: np.ndarray, limits: np.ndarray, speed: float, effort: float) -> None:
    ElementTree.SubElement(joint, "axis", xyz=_numbers(axis))
    lower, upper = limits
    bounds = {"lower": lower, "upper": upper, "velocity": speed, "effort": effort}
    ElementTree.SubElement(joint, "limit", {name: f"{value:.6g}" for name, value in bounds.items()})


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values)
