"""Demonstrations out of ROS 2 bags, without ROS 2. Needs the extra `bags`.

A bag is an episode. Everything is brought to the control rate: at each tick a step sees the newest of each camera and
of the joints, by the stamps in their headers, that is not newer than the tick. Its action is where the arm's joints
were at the next tick, and what the hand had been told by then.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from aegis_policy.data.robot_file import RobotFile
from aegis_policy.data.rosbag import Bag
from aegis_policy.data.source import Episode, Layout
from aegis_policy.data.streams import SECOND, Sample, Stream, clock, newest, ticks_between
from aegis_policy.inference.ros_images import ConversionError, compressed_to_numpy, image_to_numpy, resized

log = logging.getLogger(__name__)

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINT_STATE, FLOATS, STRING = "sensor_msgs/msg/JointState", "std_msgs/msg/Float64MultiArray", "std_msgs/msg/String"


@dataclass(frozen=True)
class Recording:
    """How bags were recorded, and what to make of them.

    Attributes:
        robot: its topics and joints.
        rate: control rate, actions per second.
        image_size: pixels on a side of the images; the whole picture is resized to it, as the robot's node does.
        instruction: what all bags show; None where a topic says so.
        joint_states, instruction_topic: topics that a robot's file does not name.
    """

    robot: RobotFile
    rate: float = 10.0
    image_size: int = 224
    instruction: str | None = None
    joint_states: str = "joint_states"
    instruction_topic: str = "instruction"


class BagSource:
    """One episode for each bag; a `Source`.

    Images are read when they are asked for: a bag with the images of a minute does not fit into memory.

    Raises:
        FileNotFoundError: there is no such bag.
        ValueError: a bag cannot be read or is not fit to learn from; says which bag, which topic and when.
    """

    kind = "ROS 2 bag"

    def __init__(self, bags: Sequence[Path], recording: Recording) -> None:
        if not (np.isfinite(recording.rate) and recording.rate > 0 and recording.image_size > 0):
            raise ValueError(f"rate {recording.rate} and image size {recording.image_size}: expected positive numbers")
        self.path, self._size = bags[0], recording.image_size
        robot = recording.robot
        cameras = dict.fromkeys(sorted(robot.cameras), (self._size, self._size))
        self.layout = Layout(cameras, robot.state, robot.actions, recording.rate)
        self._heard = [_Heard(Bag(path), recording) for path in tqdm(bags, desc="read bags", unit="bag")]
        self.episodes = [heard.episode() for heard in self._heard]

    def images(self, episode: int, camera: str, steps: slice) -> np.ndarray:
        """See `Source.images`."""
        return self._heard[episode].images(camera, steps, self._size)


class _Heard:
    """What was recorded in one bag, without the images.

    Attributes:
        ticks: int64 [T + 1], ns: of the T steps, and of the one after the last.
    """

    def __init__(self, bag: Bag, recording: Recording) -> None:
        self._bag, self._recording = bag, recording
        robot = recording.robot
        self._cameras = {name: self._camera_topic(topic) for name, topic in robot.cameras.items()}
        self._joints = self._require(recording.joint_states, JOINT_STATE)
        self._images = {name: self._stream(topic, robot.image_age) for name, topic in self._cameras.items()}
        parts = [robot.joints, *([robot.hand.joints] if robot.hand and robot.hand.joints else [])]
        self._positions = {names: self._stream(self._joints, robot.joint_age) for names in parts}
        self._commands: list[Sample[float]] = []
        self._instructions: list[Sample[str]] = []
        self._hand_topic = self._require(robot.hand_topic, FLOATS) if robot.hand_topic else None
        self._text_topic = None if recording.instruction else self._require(recording.instruction_topic, STRING)
        self._listen()
        self.ticks = self._ticks()

    # -- listening -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        cameras = {topic: name for name, topic in self._cameras.items()}
        unstamped = [topic for topic in (self._hand_topic, self._text_topic) if topic]
        waiting: list[tuple[str, Any]] = []
        names: set[str] = set()
        now = 0
        for topic, received, message in self._bag.messages([*cameras, self._joints, *unstamped]):
            if topic in unstamped:
                waiting.append((topic, message))
                continue
            stamp = _stamp(message, received)
            if topic in cameras:
                self._images[cameras[topic]].add(stamp, None)
                continue
            names.update(message.name)
            self._hear_joints(stamp, message)
            # What has no header has the stamp of the joint states after it: the clock of the headers (a simulation's,
            # another machine's) need not be the one that the bag goes by, and later is no look into the future.
            now = max(now, stamp)
            for other, earlier in waiting:
                self._hear_unstamped(other, now, earlier)
            waiting.clear()
        self._check_all_came(names)

    def _hear_joints(self, stamp: int, message: Any) -> None:
        """Of the arm, the hand, both or something else, as `policy_node` hears them."""
        found = dict(zip(message.name, message.position, strict=False))
        for wanted, stream in self._positions.items():
            if not found.keys() >= set(wanted):
                continue
            positions = np.array([found[name] for name in wanted], np.float64)
            if not np.isfinite(positions).all():
                name = wanted[int(np.argmin(np.isfinite(positions)))]
                raise self._wrong(self._joints, stamp, f"position of '{name}' is {found[name]}, not a finite number")
            stream.add(stamp, positions)

    def _hear_unstamped(self, topic: str, stamp: int, message: Any) -> None:
        if topic == self._text_topic:
            if text := message.data.strip():
                self._instructions.append(Sample(stamp, text))
        elif len(message.data) != 1 or not np.isfinite(message.data).all():
            raise self._wrong(topic, stamp, f"{list(message.data)}, expected one finite number")
        else:
            self._commands.append(Sample(stamp, float(message.data[0])))

    def _check_all_came(self, names: set[str]) -> None:
        for stream in self._images.values():
            if not len(stream):
                raise ValueError(f"{stream.name}: no messages")
        for wanted, stream in self._positions.items():
            if not len(stream):
                lacking = ", ".join(name for name in wanted if name not in names)
                what = f"no {lacking}" if lacking else f"never positions of {', '.join(wanted)} in one message"
                raise ValueError(f"{stream.name}: {what}; it has {', '.join(sorted(names)) or 'no names'}")

    def _ticks(self) -> np.ndarray:
        """From when everything has come once until the last of everything."""
        streams = [*self._images.values(), *self._positions.values()]
        ends = [(samples[0].stamp, samples[-1].stamp) for samples in (stream.ordered() for stream in streams)]
        begin, end = max(first for first, _ in ends), max(last for _, last in ends)
        ticks = ticks_between(begin, end, self._recording.rate)
        if len(ticks) < 2:
            raise ValueError(f"{self._bag.path}: everything together for less than one step of the control rate")
        skipped = (begin - min(first for first, _ in ends)) / SECOND
        log.info("%s: %d steps, from %.1f s on, when all had come", self._bag.path, len(ticks) - 1, skipped)
        return ticks

    # -- what is learned from ------------------------------------------------------------------------------------

    def episode(self) -> Episode:
        robot = self._recording.robot
        arm = self._at_ticks(robot.joints)
        columns = [arm[:-1]], [arm[1:]]
        if hand := robot.hand:
            before = np.zeros(len(self.ticks))  # an unseen hand is open until it is told
            if hand.joints:
                opening = hand.opening(self._at_ticks(hand.joints))
                before = hand.looks_closed(opening)
                columns[0].append(opening[:-1, None])
            told = newest(np.array([sample.stamp for sample in self._commands], np.int64), self.ticks)
            commands = np.array([sample.value for sample in self._commands] or [hand.open])
            closing = np.where(told < 0, before, hand.closing(commands[told]))
            columns[1].append(closing[1:, None])
        for stream in self._images.values():
            stream.at(self.ticks[:-1])
        state, actions = (np.concatenate(parts, axis=1).astype(np.float32) for parts in columns)
        return Episode(self._bag.path.name, state, actions, self._instruction())

    def _at_ticks(self, joints: tuple[str, ...]) -> np.ndarray:
        """Positions [T + 1, J]."""
        return np.stack([sample.value for sample in self._positions[joints].at(self.ticks)])

    def _instruction(self) -> str:
        """An episode shows one thing."""
        if self._recording.instruction:
            return self._recording.instruction
        where = f"{self._bag.path}: {self._text_topic}"
        said = [sample for sample in self._instructions if sample.stamp <= self.ticks[-1]]
        before = max(0, int(newest(np.array([sample.stamp for sample in said], np.int64), self.ticks[:1])[0]))
        if not said:
            raise ValueError(f"{where}: no instruction; give one for all bags by --instruction")
        for sample in said[before:]:
            if sample.value != said[before].value:
                raise ValueError(
                    f"{where}: at {clock(sample.stamp)} the instruction changes from '{said[before].value}' to "
                    f"'{sample.value}'; record a bag for each episode"
                )
        return said[before].value

    def images(self, camera: str, steps: slice, size: int) -> np.ndarray:
        topic = self._cameras[camera]
        wanted = [sample.stamp for sample in self._images[camera].at(self.ticks[:-1])[steps]]
        missing, pixels = set(wanted), {}
        decode = image_to_numpy if self._bag.topics[topic] == IMAGE else compressed_to_numpy
        for _, received, message in self._bag.messages([topic]):
            stamp = _stamp(message, received)
            if stamp in missing:
                try:
                    pixels[stamp] = resized(decode(message), size, size)
                except ConversionError as error:
                    raise self._wrong(topic, stamp, str(error)) from error
        return np.stack([pixels[stamp] for stamp in wanted])

    # -- topics --------------------------------------------------------------------------------------------------

    def _camera_topic(self, name: str) -> str:
        """A camera's, or, where only that was recorded, image_transport's of the same pictures as JPEG or PNG."""
        topic, compressed = _absolute(name), f"{_absolute(name)}/compressed"
        if topic not in self._bag.topics and compressed in self._bag.topics:
            topic = compressed
        return self._require(topic, IMAGE, COMPRESSED)

    def _require(self, name: str, *kinds: str) -> str:
        topic = _absolute(name)
        found = self._bag.topics.get(topic)
        if found is None:
            raise ValueError(f"{self._bag.path}: no topic {topic}; it has {', '.join(sorted(self._bag.topics))}")
        if found not in kinds:
            raise ValueError(f"{self._bag.path}: {topic} is of type {found}, expected {' or '.join(kinds)}")
        return topic

    def _stream(self, topic: str, max_age: float) -> Stream[Any]:
        return Stream(f"{self._bag.path}: {topic}", max_age)

    def _wrong(self, topic: str, stamp: int, what: str) -> ValueError:
        return ValueError(f"{self._bag.path}: {topic}: at {clock(stamp)}: {what}")


def _absolute(topic: str) -> str:
    return topic if topic.startswith("/") else f"/{topic}"


def _stamp(message: Any, received: int) -> int:
    """Of a message's header, ns; when it was received, where its sender left the header empty."""
    stamp = message.header.stamp
    return stamp.sec * SECOND + stamp.nanosec or received
