"""What the arm's controller is sent for a command, and how the arm comes to rest when nothing more is sent.

trajectory   JointTrajectory     joint_trajectory_controller   each ends in standstill, smoothly
array        Float64MultiArray   forward_command_controller    holds the last: the arm stops where that is, at once
twist        TwistStamped        MoveIt Servo                  goes on, then stops, after its incoming_command_timeout
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pinocchio
from geometry_msgs.msg import Twist, TwistStamped, Vector3
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from aegis_policy.control import Command, Limits
from aegis_ros.arm import Follower, HandPath, JointTarget, MismatchError, Translator
from aegis_ros.conversions import to_stamp, to_trajectory


class Output(Protocol):
    """From commands to messages of `message_type`."""

    message_type: type

    def begin(self, positions: np.ndarray) -> None:
        """The next message is the first of a motion, with the arm's joints at `positions` [J], rad."""

    def message(self, command: Command, positions: np.ndarray, dt: float, braking: bool) -> Any:
        """For a command.

        Args:
            positions: the arm's joints as last measured [J], rad.
            dt: s since the command before.
            braking: to standstill, after which nothing more is sent.

        Raises:
            KinematicsError: there is no way there.
        """


class _JointOutput:
    """What is the same where joints are commanded."""

    def __init__(self, translator: Translator) -> None:
        self._translator, self._arm = translator, translator.arm
        self._follower: Follower | None = None

    def begin(self, positions: np.ndarray) -> None:
        self._follower = self._translator.follower(positions)

    def _target(self, command: Command, dt: float) -> JointTarget:
        assert self._follower is not None
        return self._follower.follow(command.position, command.velocity, dt)


class TrajectoryOutput(_JointOutput):
    """Joint trajectories that are safe to be the last, see `to_trajectory`.

    Args:
        translator: between the policy's numbers and the arm's joints.
        coasting, braking: s.
    """

    message_type = JointTrajectory

    def __init__(self, translator: Translator, coasting: float, braking: float) -> None:
        super().__init__(translator)
        self._coasting, self._braking = coasting, braking

    def message(self, command: Command, positions: np.ndarray, dt: float, braking: bool) -> JointTrajectory:
        target, reach = self._target(command, dt), self._arm.range()
        message = to_trajectory(
            self._arm.joints, target.positions, target.velocities, reach, self._coasting, self._braking
        )
        message.header.stamp = to_stamp(round(command.stamp * 1e9))
        return message


class ArrayOutput(_JointOutput):
    """Joint positions alone, in the order of the arm's joints, inside their range.

    Args:
        translator: between the policy's numbers and the arm's joints.
    """

    message_type = Float64MultiArray

    def message(self, command: Command, positions: np.ndarray, dt: float, braking: bool) -> Float64MultiArray:
        return Float64MultiArray(data=np.clip(self._target(command, dt).positions, *self._arm.range()).tolist())


class TwistOutput:
    """The velocity of the hand: of the tip's origin and about it, both along the axes of the arm's base.

    Velocities alone would drift from the commanded place by all that the arm does late, or not quite. So a share of
    the way from where the hand is to where it is to be is added, and the sum kept within the limits of speed. Not while
    braking: an arm that is held, or whose joints are not seen any more, would be pushed on by a way that does not end.
    There is no inverse kinematics in here, nor the joints' limits: those are MoveIt Servo's affair.

    Args:
        translator: between the policy's numbers and the arm's joints.
        limits: of the policy's actions.
        gain: 1/s, the share of that way per second.

    Raises:
        MismatchError: the policy commands joints.
    """

    message_type = TwistStamped

    def __init__(self, translator: Translator, limits: Limits, gain: float) -> None:
        if not translator.cartesian:
            raise MismatchError(
                "parameter 'arm.output' is 'twist', a velocity of the hand, but the policy's actions are positions of "
                "joints: choose trajectory or array"
            )
        self._arm, self._moving, self._gain = translator.arm, translator.moving, gain
        self._fastest = np.array([limits[index].velocity for index in self._moving])  # type: ignore[union-attr]
        self._path: HandPath | None = None

    def begin(self, positions: np.ndarray) -> None:
        self._path = HandPath(self._arm, positions)

    def message(self, command: Command, positions: np.ndarray, dt: float, braking: bool) -> TwistStamped:
        assert self._path is not None
        place, velocity = command.position[self._moving], command.velocity[self._moving]
        wanted, here = self._path.pose(place[:3], place[3:]), self._arm.pose(positions)
        way = [*(wanted.translation - here.translation), *pinocchio.log3(wanted.rotation @ here.rotation.T)]
        gain = 0.0 if braking else self._gain
        twist = np.clip(velocity + gain * np.array(way), -self._fastest, self._fastest)
        message = TwistStamped(twist=Twist(linear=_vector(twist[:3]), angular=_vector(twist[3:])))
        message.header.stamp, message.header.frame_id = to_stamp(round(command.stamp * 1e9)), self._arm.base
        return message


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = values.tolist()
    return Vector3(x=x, y=y, z=z)
