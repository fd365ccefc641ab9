"""Bags come in as demonstrations: what was seen and felt at each tick, never later, and what it led to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rosbags", reason="the extra `bags`")

from aegis_policy.data.bags import BagSource, Recording
from aegis_policy.data.convert import write
from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.data.robot_file import read_robot_file
from aegis_policy.data.streams import Stream, ticks_between
from aegis_policy.policy import Feature
from tests.data.bags import (
    BEGAN,
    HAND,
    JOINTS,
    MS,
    ROBOT,
    SIZE,
    STORAGES,
    Heard,
    header,
    joint_state,
    picture,
    recorded,
    shoulder,
    write_bag,
    write_robot,
)
from tests.data.test_inspection import aegis

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(read_robot_file(write_robot(tmp_path / "robot.yaml")), image_size=SIZE)


@pytest.mark.parametrize("storage", STORAGES)
def test_from_the_bag_to_what_is_trained_on(tmp_path: Path, storage: str) -> None:
    bags = [write_bag(tmp_path / f"bag_{i}", recorded(2.0 + i), storage) for i in range(2)]
    robot, output = write_robot(tmp_path / "robot.yaml"), tmp_path / "demos.hdf5"
    done = aegis("data", "from-bag", *bags, "--robot", robot, "--output", output, "--image-size", str(SIZE))
    assert (done.returncode, done.stdout.strip()) == (0, str(output)), done.stderr
    inspected = aegis("data", "inspect", output)
    assert inspected.returncode == 0 and "2 x pick up the red cube" in inspected.stdout, inspected.stderr

    demonstrations = Demonstrations([output], horizon=4)
    assert demonstrations.control_hz == 10 and demonstrations.instructions == ["pick up the red cube"]
    arm = (Feature("shoulder", "rad"), Feature("elbow", "rad"))
    assert demonstrations.state_features == (*arm, Feature("opening", "m"))
    assert demonstrations.action_features == (*arm, Feature("gripper", "1"))
    assert demonstrations.episodes == 2 and len(demonstrations) == 20 + 30
    positions = np.array([shoulder(BEGAN + 100 * MS * i) for i in range(31)], np.float32)
    for first, count in ((0, 20), (20, 30)):
        rows = slice(first, first + count)
        np.testing.assert_array_equal(demonstrations.state[rows, 0], positions[:count])
        np.testing.assert_array_equal(demonstrations.actions[rows, 0], positions[1 : count + 1])  # the next tick's
        half = np.arange(count) / 10 >= count / 20
        np.testing.assert_allclose(demonstrations.state[rows, 2], np.where(half, 0.03, 0.08), rtol=1e-6)  # both fingers
        told = (np.arange(count) + 1) / 10 >= count / 20
        np.testing.assert_array_equal(demonstrations.actions[rows, 2], told)
    front, wrist = (demonstrations.gather(np.arange(20)).images[i].astype(int) for i in range(2))
    np.testing.assert_array_equal(front, [picture(3 * i) for i in range(20)])  # 30 Hz, raw
    newest = [picture(int(2.5 * i)).astype(int) for i in range(20)]  # 25 Hz, JPEG
    assert np.abs(wrist - newest).max() < 12 and np.abs(wrist - newest).mean() < 3


def test_lerobot_at_once(tmp_path: Path, recording: Recording) -> None:
    pytest.importorskip("pyarrow")
    source = BagSource([write_bag(tmp_path / "bag", recorded())], recording)
    written = write(source, tmp_path / "set")
    assert written.kind == "LeRobot v3.0" and written.layout == source.layout
    np.testing.assert_array_equal(written.episodes[0].actions, source.episodes[0].actions)


def test_a_single_file_is_a_bag_too(tmp_path: Path, recording: Recording) -> None:
    for storage, suffix in (("mcap", ".mcap"), ("sqlite3", ".db3")):
        folder = write_bag(tmp_path / storage, recorded(), storage)
        file = next(folder.glob(f"*{suffix}"))
        one, two = (BagSource([path], recording).episodes[0] for path in (folder, file))
        np.testing.assert_array_equal(one.state, two.state)


def test_images_are_resized_as_the_node_does(tmp_path: Path, recording: Recording) -> None:
    from PIL import Image

    bag = write_bag(tmp_path / "bag", recorded())
    source = BagSource([bag], Recording(recording.robot, image_size=9))
    expected = Image.fromarray(picture(0)).resize((9, 9), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(source.images(0, "front", slice(0, 1))[0], np.array(expected))


def test_the_bags_own_time_counts_only_where_headers_are_empty(tmp_path: Path, recording: Recording) -> None:
    """A simulation's clock in the headers, and a bag by the wall's; a driver that leaves its headers empty."""
    source = BagSource([write_bag(tmp_path / "wall", recorded())], recording)
    shifted = [one._replace(received=one.received + 10**15) for one in recorded()]
    other = BagSource([write_bag(tmp_path / "simulated", shifted)], recording)
    np.testing.assert_array_equal(source.episodes[0].actions, other.episodes[0].actions)
    empty = recorded()
    for one in empty:
        if hasattr(one.message, "header"):
            one.message.header = header(0)
    unstamped = BagSource([write_bag(tmp_path / "unstamped", empty)], recording)
    np.testing.assert_array_equal(source.episodes[0].state, unstamped.episodes[0].state)


def test_arm_and_hand_may_come_apart_and_others_between(tmp_path: Path, recording: Recording) -> None:
    whole = recorded()
    apart = []
    for one in whole:
        if one.topic != JOINTS:
            apart.append(one)
            continue
        found = dict(zip(one.message.name, one.message.position, strict=True))
        stamp = one.received - 7 * MS
        for names in (["shoulder", "elbow"], ["finger"], ["lift"]):
            message = joint_state(stamp, names, [found.get(name, 9.0) for name in names])
            apart.append(Heard(JOINTS, one.received, message))
    one, two = (
        BagSource([write_bag(tmp_path / name, heard)], recording).episodes[0]
        for name, heard in (("whole", whole), ("apart", apart))
    )
    np.testing.assert_array_equal(one.state, two.state)
    np.testing.assert_array_equal(one.actions, two.actions)


def test_before_the_first_command_a_hand_is_as_it_stands(tmp_path: Path, recording: Recording) -> None:
    heard = [one for one in recorded() if one.topic != HAND]
    for one in heard:
        if one.topic == JOINTS:
            one.message.position[1] = 0.001
    bag = write_bag(tmp_path / "bag", heard, silent=[(HAND, "std_msgs/msg/Float64MultiArray")])
    assert (BagSource([bag], recording).episodes[0].actions[:, 2] == 1).all()


def test_a_hand_that_is_told_and_not_seen(tmp_path: Path) -> None:
    """A vacuum gripper, say: it has no joints, and is open until it is told."""
    file = write_robot(tmp_path / "robot.yaml", ROBOT.replace("joints: [finger], scale: 2.0, ", ""))
    unseen = read_robot_file(file)
    seen = read_robot_file(write_robot(tmp_path / "seen.yaml"))
    assert [feature.name for feature in unseen.state] == ["shoulder", "elbow"]
    assert [feature.name for feature in unseen.actions] == ["shoulder", "elbow", "gripper"]
    bag = write_bag(tmp_path / "bag", recorded())
    one, other = (BagSource([bag], Recording(robot)).episodes[0] for robot in (unseen, seen))
    np.testing.assert_array_equal(one.actions, other.actions)
    np.testing.assert_array_equal(one.state, other.state[:, :2])


def test_the_robots_files_of_the_nodes_are_read() -> None:
    panda, ur5e = (read_robot_file(ROOT / f"ros2_ws/src/aegis_ros/config/{name}.yaml") for name in ("panda", "ur5e"))
    assert panda.cameras == {"front": "front/image_raw", "wrist": "wrist/image_raw"}
    assert [feature.name for feature in panda.actions] == [*(f"panda_joint{i}" for i in range(1, 8)), "gripper"]
    assert (panda.image_age, panda.joint_age) == (0.5, 0.15)
    assert panda.hand and panda.hand.opening(np.array([0.04, 0.04])) == 0.08
    assert panda.hand.closing(np.array([0.04, 0.01, 0.0, -1.0])).tolist() == [0, 0.75, 1, 1]
    assert ur5e.hand and ur5e.hand.looks_closed(np.array([0.0, 0.085])).tolist() == [True, False]


stamps = st.lists(st.integers(0, 10**10), min_size=1, max_size=60)


@given(stamps, st.floats(0.5, 200))
def test_nothing_comes_from_the_future_and_nothing_newer_is_left_out(times: list[int], rate: float) -> None:
    stream: Stream[int] = Stream("topic", max_age=100.0)
    for time in times:
        stream.add(time, time)
    ticks = ticks_between(min(times), max(times), rate)
    assert ticks[0] == min(times) and ticks[-1] <= max(times) < ticks[-1] + 1.001e9 / rate
    for tick, sample in zip(ticks, stream.at(ticks), strict=True):
        assert sample.stamp == sample.value == max(time for time in times if time <= tick)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=20), st.integers(0, 10**9), st.integers(1, 10**9))
def test_what_is_too_old_is_refused_to_the_nanosecond(times: list[int], tick: int, limit: int) -> None:
    stream: Stream[int] = Stream("topic", max_age=limit / 1e9)
    for time in sorted(times):
        stream.add(time, time)
    known = [time for time in times if time <= tick]
    if known and tick - max(known) <= limit:
        assert stream.at(np.array([tick]))[0].value == max(known)
    else:
        with pytest.raises(ValueError, match=r"topic: at .* s: (nothing yet|the newest is .* s old, limit)"):
            stream.at(np.array([tick]))
