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

    def astray(self, positions: np.ndarray) -> str:
        """How far the arm, its joints at `positions` [J], rad, is off what was sent last; "" if that is near enough.

        Of what the controller cannot compare with its commands: joints that inverse kinematics found, turns of a hand.
        """


class _JointOutput:
    """What is the same where joints are commanded.

    Args:
        translator: between the policy's numbers and the arm's joints.
        following: rad, the farthest that a joint may be off what was sent.
    """

    def __init__(self, translator: Translator, following: float) -> None:
        self._translator, self._arm, self._following = translator, translator.arm, following
        self._follower: Follower | None = None
        self._sent: np.ndarray | None = None
        self._reach = self._arm.range()

    def begin(self, positions: np.ndarray) -> None:
        self._follower, self._sent = self._translator.follower(positions), None
        lower, upper = self._arm.range()  # who begins outside comes back as the limits say, not at one stroke
        self._reach = np.minimum(lower, positions), np.maximum(upper, positions)

    def astray(self, positions: np.ndarray) -> str:
        if not self._translator.cartesian:  # a policy's own joints have limits of their own
            return ""
        if self._sent is None or not np.isfinite(positions).all():  # which the controller sees
            return ""
        off = np.abs(positions - self._sent)
        worst = int(off.argmax())
        if off[worst] <= self._following:
            return ""
        return (
            f"following: joint '{self._arm.joints[worst]}' is {off[worst]:.4g} rad off its command, "
            f"limit {self._following:g} rad"
        )

    def _target(self, command: Command, dt: float) -> JointTarget:
        assert self._follower is not None
        target = self._follower.follow(command.position, command.velocity, dt)
        self._sent = target.positions
        return target


class TrajectoryOutput(_JointOutput):
    """Joint trajectories that are safe to be the last, see `to_trajectory`.

    Args:
        translator, following: as `_JointOutput`.
        coasting, braking: s.
    """

    message_type = JointTrajectory

    def __init__(self, translator: Translator, following: float, coasting: float, braking: float) -> None:
        super().__init__(translator, following)
        self._coasting, self._braking = coasting, braking

    def message(self, command: Command, positions: np.ndarray, dt: float, braking: bool) -> JointTrajectory:
        target = self._target(command, dt)
        message = to_trajectory(
            self._arm.joints, target.positions, target.velocities, self._reach, self._coasting, self._braking
        )
        message.header.stamp = to_stamp(round(command.stamp * 1e9))
        return message


class ArrayOutput(_JointOutput):
    """Joint positions alone, in the order of the arm's joints, inside their range. Args: as `_JointOutput`."""

    message_type = Float64MultiArray

    def message(self, command: Command, positions: np.ndarray, dt: float, braking: bool) -> Float64MultiArray:
        return Float64MultiArray(data=np.clip(self._target(command, dt).positions, *self._reach).tolist())


class TwistOutput:
    """The velocity of the hand: of the tip's origin and about it, both along the axes of the arm's base.

    Velocities alone would drift from the commanded place by all that the arm does late, or not quite. So a share of
    the way from where the hand is to where it is to be is added, and the sum kept within the limits of speed. Not while
    braking: an arm that is held, or whose joints are not seen any more (or are no numbers), would be pushed on by a way
    that does not end.
    There is no inverse kinematics in here, nor the joints' limits: those are MoveIt Servo's affair.

    Args:
        translator: between the policy's numbers and the arm's joints.
        limits: of the policy's actions.
        following: rad, the farthest that the hand may be turned off what was sent.
        gain: 1/s, the share of that way per second.

    Raises:
        MismatchError: the policy commands joints.
    """

    message_type = TwistStamped

    def __init__(self, translator: Translator, limits: Limits, following: float, gain: float) -> None:
        if not translator.cartesian:
            raise MismatchError(
                "parameter 'arm.output' is 'twist', a velocity of the hand, but the policy's actions are positions of "
                "joints: choose trajectory or array"
            )
        self._arm, self._moving, self._following, self._gain = translator.arm, translator.moving, following, gain
        self._fastest = np.array([limits[index].velocity for index in self._moving])  # type: ignore[union-attr]
        self._path: HandPath | None = None
        self._sent: np.ndarray | None = None  # the orientation

    def begin(self, positions: np.ndarray) -> None:
        self._path, self._sent = HandPath(self._arm, positions), None

    def astray(self, positions: np.ndarray) -> str:
        if self._sent is None or not np.isfinite(positions).all():  # which the controller sees
            return ""
        off = float(np.linalg.norm(pinocchio.log3(self._sent @ self._arm.pose(positions).rotation.T)))
        if off <= self._following:
            return ""
        return f"following: the hand is turned {off:.4g} rad off its command, limit {self._following:g} rad"

    def message(self, command: Command, positions: np.ndarray, dt: float, braking: bool) -> TwistStamped:
        assert self._path is not None
        place, velocity = command.position[self._moving], command.velocity[self._moving]
        wanted = self._path.pose(place[:3], place[3:])
        self._sent = wanted.rotation
        if not braking:
            here = self._arm.pose(positions)
            way = [*(wanted.translation - here.translation), *pinocchio.log3(wanted.rotation @ here.rotation.T)]
            velocity = velocity + self._gain * np.array(way)
        twist = np.clip(velocity, -self._fastest, self._fastest)
        message = TwistStamped(twist=Twist(linear=_vector(twist[:3]), angular=_vector(twist[3:])))
        message.header.stamp, message.header.frame_id = to_stamp(round(command.stamp * 1e9)), self._arm.base
        return message


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = values.tolist()
    return Vector3(x=x, y=y, z=z)
