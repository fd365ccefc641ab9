"""A sim_robot_node in a process of its own, and someone who listens to it and commands it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import domain_coordinator
import numpy as np
import rclpy
from aegis_interfaces.srv import NewEpisode
from ament_index_python.packages import get_package_prefix
from builtin_interfaces.msg import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from aegis_policy.inference.ros_images import image_to_numpy
from aegis_ros.conversions import to_seconds

NODE = Path(get_package_prefix("aegis_ros"), "lib/aegis_ros/sim_robot_node")
ARM = [f"panda_joint{i}" for i in range(1, 8)]
TURN = np.array([0.2, -0.1, 0.15, 0.2, -0.1, 0.2, 0.3])  # rad
WITHIN_THIS_MACHINE = {
    "FASTRTPS_DEFAULT_PROFILES_FILE": str(Path(__file__).with_name("loopback.xml")),
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",  # that of the loopback
}
RESEND = 15.0  # s until a request that nobody answered is made again
PATIENCE = 120.0  # s; two busy cores are slow


@contextmanager
def own_domain(environment: Mapping[str, str] = WITHIN_THIS_MACHINE) -> Iterator[None]:
    """ROS in a domain that nobody else on this machine uses, here and in processes that are begun meanwhile."""
    before = dict(os.environ)
    with domain_coordinator.domain_id() as domain:
        os.environ.update(environment, ROS_DOMAIN_ID=str(domain))
        rclpy.init()
        try:
            yield
        finally:
            rclpy.shutdown()
            os.environ.clear()
            os.environ.update(before)


class Process:
    """A node: `command`, then arguments after `--ros-args`."""

    def __init__(self, *arguments: str, command: Sequence[str]) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 (closed by close)
        self.process = subprocess.Popen(
            [*command, "--ros-args", *arguments], stdout=self._log, stderr=subprocess.STDOUT
        )

    def log(self) -> str:
        return Path(self._log.name).read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        finally:
            self.process.kill()
            self._log.close()


class Robot(Process):
    """The simulated robot; `command` in place of the installed node, if any."""

    def __init__(self, *arguments: str, command: Sequence[str] = (str(NODE),)) -> None:
        super().__init__(*arguments, command=command)


class Watcher(Node):
    """Keeps all it hears, in the order it arrives; `cameras` are those it listens to."""

    def __init__(self, cameras: Sequence[str] = ("front", "wrist")) -> None:
        super().__init__("watcher")
        self.clock: list[float] = []
        self.states: list[JointState] = []
        self.images: dict[str, list[Image]] = {name: [] for name in cameras}
        self.create_subscription(
            Clock, "/clock", lambda m: self.clock.append(to_seconds(m.clock)), qos_profile_sensor_data
        )
        self.create_subscription(JointState, "/joint_states", self.states.append, 100)
        for name, kept in self.images.items():
            self.create_subscription(Image, f"/{name}/image_raw", kept.append, qos_profile_sensor_data)
        self._arm = self.create_publisher(JointTrajectory, "/joint_trajectory_controller/joint_trajectory", 10)
        self._joints = self.create_publisher(Float64MultiArray, "/forward_position_controller/commands", 10)
        self._gripper = self.create_publisher(Float64MultiArray, "/gripper_controller/commands", 10)
        self.wait_for(lambda: self._arm.get_subscription_count() and self._gripper.get_subscription_count(), "a robot")

    def wait_for(self, condition: Callable[[], Any], what: str) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until, f"waited {PATIENCE:g} s for {what}"
            rclpy.spin_once(self, timeout_sec=0.1)

    def wait(self, seconds: float) -> None:
        """Of the robot's clock."""
        until = self.now() + seconds
        self.wait_for(lambda: self.now() >= until, f"the robot's clock to go {seconds:g} s on")

    def now(self) -> float:
        return to_seconds(self.states[-1].header.stamp)

    def arm(self) -> np.ndarray:
        return np.array(self.states[-1].position[:7])

    def fingers(self) -> np.ndarray:
        return np.array(self.states[-1].position[7:])

    def send(self, message: JointTrajectory) -> None:
        self._arm.publish(message)

    def move_joints(self, positions: Sequence[float]) -> None:
        self._joints.publish(Float64MultiArray(data=positions))

    def move_fingers(self, *values: float) -> None:
        self._gripper.publish(Float64MultiArray(data=values))

    def latched(self, topic: str) -> str:
        """What was said there last, before anyone listened."""
        told: list[str] = []
        profile = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        subscription = self.create_subscription(String, topic, lambda message: told.append(message.data), profile)
        self.wait_for(lambda: told, topic)
        self.destroy_subscription(subscription)
        return told[-1]

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.create_client(kind, name)
        assert client.wait_for_service(PATIENCE)
        sent, again = [client.call_async(request)], time.monotonic() + RESEND
        while not any(future.done() for future in sent):
            assert len(sent) * RESEND < PATIENCE, f"waited {PATIENCE:g} s for {name}"
            if time.monotonic() > again:  # the first went to a node that was killed, whom DDS took for alive
                sent, again = [*sent, client.call_async(request)], time.monotonic() + RESEND
            rclpy.spin_once(self, timeout_sec=0.1)
        self.destroy_client(client)
        return next(future for future in sent if future.done()).result()


def begin(watcher: Watcher, seed: int, **fields: str) -> NewEpisode.Response:
    return watcher.call(NewEpisode, "/sim_robot/new_episode", NewEpisode.Request(seed=seed, **fields))


def at(messages: list, seconds: float) -> list:
    return [message for message in messages if abs(to_seconds(message.header.stamp) - seconds) < 1e-6]


def first_moment(watcher: Watcher, seed: int, **fields: str) -> tuple[np.ndarray, ...]:
    """Images and joints as a new episode begins."""
    response = begin(watcher, seed, **fields)
    assert response.success, response.message
    began = to_seconds(response.stamp)
    streams = [watcher.images["front"], watcher.images["wrist"], watcher.states]
    watcher.wait_for(lambda: all(at(stream, began) for stream in streams), "the first moment of an episode")
    front, wrist, state = (at(stream, began)[0] for stream in streams)
    return image_to_numpy(front), image_to_numpy(wrist), np.array(state.position), np.array(state.velocity)


def trajectory(
    times: Sequence[float],
    positions: np.ndarray,
    velocities: np.ndarray | None = None,
    joints: Sequence[str] = ARM,
) -> JointTrajectory:
    """Start now; positions and velocities [N, J]."""
    message = JointTrajectory(joint_names=joints)
    for index, at in enumerate(times):
        point = JointTrajectoryPoint(positions=np.asarray(positions[index], float).tolist())
        if velocities is not None:
            point.velocities = np.asarray(velocities[index], float).tolist()
        point.time_from_start = Duration(sec=int(at), nanosec=round(at % 1 * 1e9))
        message.points.append(point)
    return message
