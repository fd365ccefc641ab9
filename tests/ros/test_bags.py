"""What a robot says on its topics, recorded as `ros2 bag record` would, comes back as a demonstration.

Goes by the clock, and a machine too busy to hear every image fails it: `pytest -m slow`.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")
pytest.importorskip("rosbags", reason="the extra `bags`")

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String

from aegis_policy.data.bags import BagSource, Recording
from aegis_policy.data.convert import write
from aegis_policy.data.inspection import inspect
from aegis_policy.data.robot_file import read_robot_file
from aegis_policy.inference.ros_images import image_to_numpy
from aegis_ros.conversions import to_seconds
from tests.ros.robot import TURN, Watcher, begin, trajectory

pytestmark = [pytest.mark.sim, pytest.mark.slow]

PANDA = Path(__file__).resolve().parents[2] / "ros2_ws/src/aegis_ros/config/panda.yaml"
BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TOPICS = {
    "/front/image_raw": (Image, BEST_EFFORT),
    "/wrist/image_raw": (Image, BEST_EFFORT),
    "/joint_states": (JointState, BEST_EFFORT),
    "/gripper_controller/commands": (Float64MultiArray, BEST_EFFORT),
    "/instruction": (String, LATCHED),
}


class Recorder:
    """Hears for `node`, and writes what comes as it comes, serialized, with the wall's time of receipt."""

    def __init__(self, node: Node, path: Path) -> None:
        types = get_typestore(Stores.ROS2_JAZZY)
        self._node, self._writer = node, Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._subscriptions = []
        for topic, (kind, profile) in TOPICS.items():
            name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
            connection = self._writer.add_connection(topic, name, typestore=types)

            def heard(data: bytes, connection=connection) -> None:
                self._writer.write(connection, time.time_ns(), data)

            self._subscriptions.append(node.create_subscription(kind, topic, heard, profile, raw=True))

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._writer.close()


def test_a_recorded_robot_is_a_demonstration(watcher: Watcher, tmp_path: Path) -> None:
    instruction = begin(watcher, seed=4).instruction
    watcher.wait(0.2)
    recorder = Recorder(watcher, tmp_path / "bag")
    watcher.wait(0.5)
    watcher.send(trajectory([2.0], watcher.arm()[None] + TURN, np.zeros((1, 7))))
    watcher.wait(1.0)
    watcher.move_fingers(0.0)
    watcher.wait(2.0)
    recorder.close()

    source = BagSource([tmp_path / "bag"], Recording(read_robot_file(PANDA), image_size=96))
    written = write(source, tmp_path / "demos.hdf5")
    assert inspect(written.path).instructions == {instruction: 1}
    (episode,) = written.episodes
    assert 25 <= len(episode.actions) <= 45
    assert episode.actions[-1, :7] - episode.state[0, :7] == pytest.approx(TURN, abs=0.02)
    np.testing.assert_array_equal(episode.state[1:, :7], episode.actions[:-1, :7])
    assert episode.actions[0, 7] == 0 and episode.actions[-1, 7] == 1 and (np.diff(episode.actions[:, 7]) >= 0).all()
    assert episode.state[0, 7] == pytest.approx(0.08, abs=0.005) and episode.state[-1, 7] < 0.02

    arms, times = (
        np.array([state.position[:7] for state in watcher.states]),
        np.array([to_seconds(state.header.stamp) for state in watcher.states]),
    )
    felt = times[[int(np.abs(arms - state).sum(1).argmin()) for state in episode.state[:, :7]]]
    speed = np.abs(np.diff(episode.state[:, 0]))
    moving = 1 + (np.minimum(speed[:-1], speed[1:]) > 2e-3).nonzero()[0]  # where the arm tells the time
    assert len(moving) > 10
    assert np.diff(felt[moving]) == pytest.approx(0.1)
    for camera in ("front", "wrist"):
        shown = written.images(0, camera, slice(0, len(episode.state)))
        for step, at in zip(moving, felt[moving], strict=True):  # images are taken with joint states, with their stamps
            newest = [image for image in watcher.images[camera] if to_seconds(image.header.stamp) <= at + 1e-6][-1]
            np.testing.assert_array_equal(shown[step], image_to_numpy(newest))
