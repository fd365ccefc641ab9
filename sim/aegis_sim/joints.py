"""The joints of a simulated Panda, driven as ros2_control drives a real one's: positions and velocities to be at.

robosuite's controllers take displacements of the gripper, or joint targets that they reach late. This one follows a
trajectory: computed torque, that is the inertia times a PD law on the error, plus what gravity and the motion itself
ask for (Siciliano et al., Robotics, 2009, 8.5.2). It works beside `ArmSim.step` on the same arm: who calls, drives.
"""

from __future__ import annotations

import mujoco
import numpy as np
from robosuite.models.grippers.panda_gripper import PandaGripperBase
from robosuite.models.robots import Panda

from aegis_sim.arm import ArmSim

ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("panda_finger_joint1", "panda_finger_joint2")
"""Names as in Franka's own description of the Panda."""

STIFFNESS = 900.0  # 1/s^2: an error decays with a time constant of 1/30 s, critically damped
DAMPING = 2 * np.sqrt(STIFFNESS)
FINGER_SPEED = 0.08  # m/s each, like the tabletop's hand
FINGER_TRAVEL = 0.04  # m each


class JointServo:
    """Drives the joints of `arm`, and reads them.

    Raises:
        ValueError: not a Panda with its own hand.
    """

    def __init__(self, arm: ArmSim) -> None:
        robot = arm.robots[0]
        if not (isinstance(robot.robot_model, Panda) and isinstance(robot.gripper["right"], PandaGripperBase)):
            raise ValueError(f"robot '{robot.name}': only a Panda with its own hand is driven by its joints")
        self._arm = arm
        self._model, self._data = arm.sim.model._model, arm.sim.data._data
        self._positions = np.array([*robot._ref_joint_pos_indexes, *robot._ref_gripper_joint_pos_indexes["right"]])
        self._velocities = np.array([*robot._ref_joint_vel_indexes, *robot._ref_gripper_joint_vel_indexes["right"]])
        self._dofs = self._velocities[:7]
        self._motors = np.array(robot._ref_arm_joint_actuator_indexes)
        self._finger_motors = np.array(robot._ref_joint_gripper_actuator_indexes["right"])
        self._inertia = np.zeros((self._model.nv, self._model.nv))

    @property
    def period(self) -> float:
        """Of one physics step, s."""
        return float(self._model.opt.timestep)

    def positions(self) -> np.ndarray:
        """Of ARM_JOINTS (rad), then FINGER_JOINTS (m, 0 closed), float64 [9]."""
        return self._mirrored(self._data.qpos[self._positions])

    def velocities(self) -> np.ndarray:
        """As `positions`, per second."""
        return self._mirrored(self._data.qvel[self._velocities])

    def finger_target(self) -> float:
        """Where the fingers are told to be now, m each."""
        return float(self._data.ctrl[self._finger_motors[0]])

    def follow(self, positions: np.ndarray, velocities: np.ndarray, fingers: float) -> None:
        """N physics steps, at whose ends the arm is to be at `positions` [N, 7] with `velocities` [N, 7] (rad, rad/s).

        Meanwhile the fingers go towards `fingers` (m each).
        """
        model, data = self._model, self._data
        low, high = model.actuator_ctrlrange[self._motors].T
        target = float(np.clip(fingers, 0.0, FINGER_TRAVEL))
        reach = FINGER_SPEED * self.period
        for position, velocity in zip(positions, velocities, strict=True):
            mujoco.mj_step1(model, data)
            error = position - data.qpos[self._positions[:7]]
            wanted = STIFFNESS * error + DAMPING * (velocity - data.qvel[self._dofs])
            mujoco.mj_fullM(model, self._inertia, data.qM)
            torque = self._inertia[np.ix_(self._dofs, self._dofs)] @ wanted + data.qfrc_bias[self._dofs]
            data.ctrl[self._motors] = np.clip(torque, low, high)
            now = self.finger_target()
            finger = now + float(np.clip(target - now, -reach, reach))
            data.ctrl[self._finger_motors] = (finger, -finger)  # robosuite's second finger counts downwards
            mujoco.mj_step2(model, data)
        self._arm.catch_up()

    @staticmethod
    def _mirrored(values: np.ndarray) -> np.ndarray:
        return values * np.array([1.0] * 8 + [-1.0])
