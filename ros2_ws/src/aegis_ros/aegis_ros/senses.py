"""What the policy node hears, on a thread of its own: cameras, joints, the description, the clock, and the stop button.

A ROS node apart, because whatever else the policy node is busy with (loading a model, a transition, a goal) must
neither age what comes in nor delay an emergency stop.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from aegis_policy import Camera
from aegis_policy.inference.ros_images import compressed_to_numpy, image_to_numpy, resized
from aegis_ros.conversions import to_seconds
from aegis_ros.inputs import Inputs
from aegis_ros.loop import Loop
from aegis_ros.parameters import CameraTopic
from aegis_ros.qos import LATCHED

TURN = 0.1  # s at most until a request to end is seen


def decoder(camera: Camera, compressed: bool) -> Callable[[Any], Any]:
    """What makes of a camera's messages the images that the policy wants, uint8 [height, width, 3]."""
    to_numpy = compressed_to_numpy if compressed else image_to_numpy
    return lambda message: resized(to_numpy(message), camera.height, camera.width)


class Senses(Node):
    """Hears for `owner`, on whose name and namespace everything here is based.

    Attributes:
        description: URDF; None until it came.

    Args:
        owner: the policy node.
        inputs: what to fill.
        cameras: where images come from, by camera.
        stop, reset: what the services `~/estop` and `~/reset` do; what `reset` raises is answered.
        broken: told what went wrong in a callback.
    """

    def __init__(
        self,
        owner: Node,
        inputs: Inputs,
        cameras: Mapping[str, CameraTopic],
        stop: Callable[[str], None],
        reset: Callable[[], None],
        broken: Callable[[str], None],
    ) -> None:
        name = f"{owner.get_name()}_senses"
        super().__init__(
            name,
            namespace=owner.get_namespace(),
            cli_args=["--ros-args", "-r", f"__node:={name}"],  # or a name given to the process would be this one's too
            parameter_overrides=[Parameter("use_sim_time", value=owner.get_parameter("use_sim_time").value)],
        )
        self._inputs, self._stop, self._reset, self._broken = inputs, stop, reset, broken
        self.description: str | None = None
        for camera, source in cameras.items():
            kind = CompressedImage if source.compressed else Image
            heard = self._guarded(functools.partial(self._on_image, camera))
            self.create_subscription(kind, source.topic, heard, qos_profile_sensor_data)
        self.create_subscription(JointState, "joint_states", self._guarded(self._on_joints), qos_profile_sensor_data)
        self.create_subscription(String, "robot_description", self._guarded(self._on_description), LATCHED)
        prefix = owner.get_fully_qualified_name()
        self.create_service(Trigger, f"{prefix}/estop", self._guarded(self._on_estop))
        self.create_service(Trigger, f"{prefix}/reset", self._guarded(self._on_reset))
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)
        self._loop = Loop("senses", self._spin, broken)

    def seconds(self) -> float:
        """The node's clock: the simulation's if `use_sim_time`."""
        return self.get_clock().now().nanoseconds * 1e-9

    def close(self) -> None:
        """Hear nothing more."""
        self._loop.stop()
        self._spinner.shutdown()
        self.destroy_node()

    def _spin(self) -> float:
        try:
            self._spinner.spin_once(timeout_sec=TURN)
        except ExternalShutdownException:
            return TURN
        return 0.0

    def _guarded(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """Whatever a callback raises is logged, and the arm stops."""

        def guarded(*arguments: Any) -> Any:
            try:
                return callback(*arguments)
            except Exception as error:
                self.get_logger().error(f"senses: {traceback.format_exc()}")
                self._broken(f"senses: {type(error).__name__}: {error}")
                return arguments[-1]

        return guarded

    def _on_image(self, camera: str, message: Image | CompressedImage) -> None:
        self._inputs.add_image(camera, to_seconds(message.header.stamp), self.seconds(), message)

    def _on_joints(self, message: JointState) -> None:
        stamp = to_seconds(message.header.stamp)
        self._inputs.add_joints(message.name, message.position, stamp, self.seconds())

    def _on_description(self, message: String) -> None:
        self.description = message.data

    def _on_estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stop("emergency stop: asked for")
        self.get_logger().warning("emergency stop: nothing is commanded until ~/reset")
        response.success = True
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            self._reset()
        except RuntimeError as error:
            response.success, response.message = False, str(error)
            return response
        response.success = True
        return response
