"""What MoveIt Servo makes of twists, where it cannot be had: by the description's Jacobian, with its timeout."""

from __future__ import annotations

import numpy as np
import pinocchio
from geometry_msgs.msg import TwistStamped

from aegis_ros.conversions import to_seconds

TIMEOUT = 0.1  # s, the default of its incoming_command_timeout


def numbers(message: TwistStamped) -> np.ndarray:
    """Linear, then angular velocity [6]."""
    linear, angular = message.twist.linear, message.twist.angular
    return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])


class Servo:
    """Of the simulated Panda; keeps the twists that it is given in `twists`."""

    def __init__(self, description: str) -> None:
        whole = pinocchio.buildModelFromXML(description)
        fingers = [whole.getJointId(name) for name in whole.names if "finger" in name]
        self._model = pinocchio.buildReducedModel(whole, fingers, pinocchio.neutral(whole))
        self._tip, self._data = self._model.getFrameId("panda_hand_tcp"), self._model.createData()
        self._joints: np.ndarray | None = None  # where it has sent the arm; None while it is stopped
        self._last = 0.0
        self.twists: list[TwistStamped] = []

    def step(self, now: float, measured: np.ndarray) -> list[float] | None:
        """Positions [7] to command, with the joints at `measured` [7] now (s); None without a fresh twist."""
        elapsed, self._last = now - self._last, now
        if not self.twists or now - to_seconds(self.twists[-1].header.stamp) >= TIMEOUT:
            self._joints = None
            return None
        if self._joints is None:
            self._joints = measured
            return None
        jacobian = pinocchio.computeFrameJacobian(
            self._model, self._data, self._joints, self._tip, pinocchio.ReferenceFrame.LOCAL_WORLD_ALIGNED
        )
        self._joints = self._joints + np.linalg.pinv(jacobian) @ numbers(self.twists[-1]) * elapsed
        return self._joints.tolist()
