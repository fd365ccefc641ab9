"""`sim_robot_node`: a simulated arm behind the topics of a real one with ros2_control, cameras and a simulated clock.

Everything runs in one thread, in which a timer keeps the simulation's pace. What a callback raises is logged, and the
arm holds; what physics or drawing raises ends the process, as there is nothing left to hold with.
"""

from __future__ import annotations

import functools
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import rclpy
from aegis_interfaces.srv import NewEpisode
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from aegis_ros.conversions import numpy_to_image, to_stamp
from aegis_ros.qos import LATCHED, RELIABLE
from aegis_ros.sim_robot import JOINTS, SimRobot
from aegis_sim.tasks import ROBOT_TASKS

CLOCK = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # what rclpy subscribes to /clock with
MOST_LATE = 0.5  # s of simulated time that a late simulation tries to make up for
TURN = 0.01  # s between two looks at the clock
LONGEST_TURN = 0.1  # s of simulated time between two looks at what has arrived


def holding(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Whatever a callback raises is logged, and the arm holds; a service answers with what was raised."""

    @functools.wraps(callback)
    def guarded(self: SimRobotNode, *arguments: Any) -> Any:
        try:
            return callback(self, *arguments)
        except Exception as error:
            self.robot.hold()
            self.get_logger().error(f"{callback.__name__}: the arm holds\n{traceback.format_exc()}")
            *_, response = arguments
            if hasattr(response, "success"):
                response.success, response.message = False, f"{type(error).__name__}: {error}"
            return response

    return guarded


class SimRobotNode(Node):
    """See the file's docstring; topics, services and parameters are in docs/ros.md."""

    def __init__(self) -> None:
        super().__init__("sim_robot")
        task = self._declare("task", "pick", f"of the first episode: {', '.join(ROBOT_TASKS)}")
        split = self._declare("split", "seen", "of the first episode, see docs/arena.md")
        seed = self._declare("seed", 0, "of the first episode", integer_range=[IntegerRange(to_value=2**63 - 1)])
        self._rate = self._declare(
            "rate",
            1.0,
            "seconds of simulated time per second, at most; more than the machine can do is as fast as it can",
            floating_point_range=[FloatingPointRange(from_value=0.01, to_value=10.0)],
        )
        size = self._declare(
            "image_size",
            96,
            "pixels on a side of the cameras' images",
            integer_range=[IntegerRange(from_value=16, to_value=1024)],
        )
        self.robot = SimRobot(task, split, seed, size)
        self._clock_topic = self.create_publisher(ClockMessage, "/clock", CLOCK)
        self._joint_states = self.create_publisher(JointState, "joint_states", RELIABLE)
        self._description = self.create_publisher(String, "robot_description", LATCHED)
        self._instruction = self.create_publisher(String, "instruction", LATCHED)
        self._cameras: dict[str, Publisher] = {
            name: self.create_publisher(Image, f"{name}/image_raw", qos_profile_sensor_data)
            for name in self.robot.env.cameras
        }
        self.create_subscription(
            JointTrajectory, "joint_trajectory_controller/joint_trajectory", self._on_trajectory, RELIABLE
        )
        self.create_subscription(Float64MultiArray, "forward_position_controller/commands", self._on_array, RELIABLE)
        self.create_subscription(Float64MultiArray, "gripper_controller/commands", self._on_gripper, RELIABLE)
        self.create_service(NewEpisode, "~/new_episode", self._on_new_episode)
        self.create_service(Trigger, "~/success", self._on_success)
        self._description.publish(String(data=self.robot.description()))
        self._announce()
        # The simulation makes the robot's time, so it goes by the machine's.
        self.create_timer(TURN, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _declare(self, name: str, default: Any, description: str, **limits: Any) -> Any:
        descriptor = ParameterDescriptor(description=description, read_only=True, **limits)
        return self.declare_parameter(name, default, descriptor).value

    # -- commands ------------------------------------------------------------------------------------------------

    @holding
    def _on_trajectory(self, message: JointTrajectory) -> None:
        self._obey(self.robot.command, message, "refused a trajectory")

    @holding
    def _on_array(self, message: Float64MultiArray) -> None:
        self._obey(self.robot.move_joints, message.data)

    @holding
    def _on_gripper(self, message: Float64MultiArray) -> None:
        self._obey(self.robot.move_fingers, message.data)

    def _obey(self, move: Callable[[Any], None], command: Any, refused: str = "refused") -> None:
        """As the real controllers, which go on with what they were doing where a command is no good."""
        try:
            move(command)
        except ValueError as error:
            self.get_logger().error(f"{refused}: {error}")

    @holding
    def _on_new_episode(self, request: NewEpisode.Request, response: NewEpisode.Response) -> NewEpisode.Response:
        task, split = request.task or self.robot.task, request.split or "seen"
        try:
            self.robot.begin(task, split, request.seed)
        except ValueError as error:
            response.success, response.message = False, str(error)
            return response
        self._announce()
        response.success, response.instruction = True, self.robot.info["instruction"]
        response.stamp = to_stamp(self.robot.time_ns)
        return response

    @holding
    def _on_success(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        info = self.robot.info
        response.success = bool(info["success"])
        response.message = "done" if info["success"] else info.get("failure", "not done yet")
        return response

    # -- time ----------------------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        """Catch up with the time that the simulation ought to show by now."""
        update = self.robot.update_ns * 1e-9
        late = (time.monotonic() - self._began) * self._rate - (self.robot.time_ns - self._began_ns) * 1e-9
        if late > MOST_LATE:
            self._keep_pace()
            self.get_logger().warning(
                f"the simulation is slower than rate {self._rate:g}: it lags, and nothing is lost",
                throttle_duration_sec=10.0,
            )
        for _ in range(int(min(late, LONGEST_TURN) / update)):
            pictures = self.robot.update()
            self._publish(pictures)

    def _keep_pace(self) -> None:
        """Count time from here on."""
        self._began, self._began_ns = time.monotonic(), self.robot.time_ns

    # -- sensors -------------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Say that there is a new episode, and show its first moment."""
        self.get_logger().info(f"{self.robot.task}: {self.robot.info['instruction']}")
        self._instruction.publish(String(data=self.robot.info["instruction"]))
        self._publish(pictures=True)
        self._keep_pace()

    def _publish(self, pictures: bool) -> None:
        stamp = to_stamp(self.robot.time_ns)
        self._clock_topic.publish(ClockMessage(clock=stamp))
        positions, velocities = self.robot.joint_states()
        message = JointState(name=JOINTS, position=positions.tolist(), velocity=velocities.tolist())
        message.header.stamp = stamp
        self._joint_states.publish(message)
        if pictures:
            for name, image in self.robot.images().items():
                self._cameras[name].publish(numpy_to_image(image, stamp, f"{name}_camera"))


def main() -> None:
    rclpy.init()
    try:
        rclpy.spin(SimRobotNode())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # how one stops it
    except Exception:
        if rclpy.ok():  # else a signal came in the middle of publishing
            rclpy.logging.get_logger("sim_robot").fatal(traceback.format_exc())
            sys.exit(1)
    finally:
        rclpy.try_shutdown()
