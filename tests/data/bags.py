"""Bags as `ros2 bag record` makes them, written by rosbags: an arm of two joints, a hand, its commands, two cameras."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

TYPES = get_typestore(Stores.ROS2_JAZZY)
MS = 1_000_000
BEGAN = 1_700_000_000 * 1000 * MS  # ns, of the headers' clock
DELAY = 7 * MS  # from a stamp to its receipt
SIZE = 16
STORAGES = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}
FRONT, WRIST, JOINTS = "/front/image_raw", "/wrist/image_raw/compressed", "/joint_states"
HAND, INSTRUCTION = "/hand/commands", "/instruction"
ROBOT = """
policy_node:
  ros__parameters:
    cameras: [front, wrist]
    camera:
      front: {topic: front/image_raw}
      wrist: {topic: wrist/image_raw}
    arm.joints: [shoulder, elbow]
    gripper: {joints: [finger], scale: 2.0, open: 0.04, closed: 0.0, command_topic: hand/commands}
    timeouts: {images: 0.2, joints: 0.05}
"""


class Heard(NamedTuple):
    """A message as it was received, ns."""

    topic: str
    received: int
    message: Any


def header(stamp: int) -> Any:
    seconds, rest = divmod(stamp, 1000 * MS)
    time = TYPES.types["builtin_interfaces/msg/Time"](seconds, rest)
    return TYPES.types["std_msgs/msg/Header"](time, "")


def joint_state(stamp: int, names: list[str], positions: Iterable[float]) -> Any:
    kind, none = TYPES.types["sensor_msgs/msg/JointState"], np.zeros(0)
    return kind(header(stamp), names, np.array(list(positions)), none, none)


def picture(number: int) -> np.ndarray:
    """A smooth one that no other number has, uint8 [SIZE, SIZE, 3]."""
    across, down = np.meshgrid(np.linspace(0, 120, SIZE), np.linspace(0, 120, SIZE))
    return np.stack([across, down + number % 97, down], -1).astype(np.uint8)


def image(stamp: int, pixels: np.ndarray, encoding: str = "rgb8") -> Any:
    height, width, channels = pixels.shape
    kind = TYPES.types["sensor_msgs/msg/Image"]
    return kind(header(stamp), height, width, encoding, 0, width * channels, pixels.reshape(-1))


def compressed(stamp: int, pixels: np.ndarray, form: str = "jpeg") -> Any:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **({"quality": 95} if form == "jpeg" else {}))
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    return TYPES.types["sensor_msgs/msg/CompressedImage"](header(stamp), f"rgb8; {form} compressed rgb8", data)


def text(words: str) -> Any:
    return TYPES.types["std_msgs/msg/String"](words)


def floats(*values: float) -> Any:
    layout = TYPES.types["std_msgs/msg/MultiArrayLayout"]([], 0)
    return TYPES.types["std_msgs/msg/Float64MultiArray"](layout, np.array(values))


def shoulder(stamp: int) -> float:
    return float(np.sin((stamp - BEGAN) / 1e9))


def recorded(seconds: float = 2.0) -> list[Heard]:
    """Joints at 100 Hz, the front camera at 30, the wrist's at 25; the hand is told to close after half the time."""

    def stamps(rate: float) -> list[int]:
        return [BEGAN + round(i * 1e9 / rate) for i in range(int(seconds * rate) + 1)]

    heard = [Heard(INSTRUCTION, BEGAN - 300 * MS, text("pick up the red cube"))]
    for at in stamps(100):
        finger = 0.04 if at < BEGAN + seconds * 0.5e9 else 0.015
        message = joint_state(at, ["elbow", "finger", "shoulder"], [0.5, finger, shoulder(at)])
        heard.append(Heard(JOINTS, at + DELAY, message))
    heard += [Heard(FRONT, at + DELAY, image(at, picture(i))) for i, at in enumerate(stamps(30))]
    heard += [Heard(WRIST, at + DELAY, compressed(at, picture(i))) for i, at in enumerate(stamps(25))]
    heard.append(Heard(HAND, BEGAN + round(seconds * 0.5e9), floats(0.0)))
    return sorted(heard, key=lambda one: one.received)


def write_bag(
    path: Path, heard: Iterable[Heard], storage: str = "mcap", silent: Iterable[tuple[str, str]] = ()
) -> Path:
    """A new bag of these messages in their order; on the `silent` topics (name, type) nobody said anything."""
    with Writer(path, version=9, storage_plugin=STORAGES[storage]) as writer:
        connections = {topic: writer.add_connection(topic, kind, typestore=TYPES) for topic, kind in silent}
        for topic, received, message in heard:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=TYPES)
            writer.write(connections[topic], received, TYPES.serialize_cdr(message, message.__msgtype__))
    return path


def write_robot(path: Path, robot: str = ROBOT) -> Path:
    path.write_text(robot)
    return path
