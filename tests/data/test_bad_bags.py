"""A bag that is not fit to learn from is refused, with the bag, the topic and the time, and leaves no half file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="the extra `bags`")

from aegis_policy.data.bags import BagSource, Recording
from aegis_policy.data.convert import write
from aegis_policy.data.robot_file import read_robot_file
from tests.data.bags import (
    BEGAN,
    FRONT,
    HAND,
    INSTRUCTION,
    JOINTS,
    MS,
    ROBOT,
    SIZE,
    WRIST,
    Heard,
    compressed,
    floats,
    image,
    joint_state,
    picture,
    recorded,
    text,
    write_bag,
    write_robot,
)
from tests.data.test_inspection import aegis

LATE = BEGAN + 1000 * MS


def without(topic: str) -> list[Heard]:
    return [one for one in recorded() if one.topic != topic]


def silent_from(topic: str, begin: int, end: int) -> list[Heard]:
    return [one for one in recorded() if one.topic != topic or not begin <= one.received < end]


def plus(topic: str, message: object, received: int = LATE + 8 * MS) -> list[Heard]:
    return sorted([*recorded(), Heard(topic, received, message)], key=lambda one: one.received)


def joints(names: list[str], value: float = 0.0) -> list[Heard]:
    return [
        one._replace(message=joint_state(one.received, names, [value] * len(names))) if one.topic == JOINTS else one
        for one in recorded()
    ]


def cut(message: object) -> object:
    message.data = message.data[: len(message.data) // 2]
    return message


AT = r"at 1700000001\.\d+ s"
BAD: dict[str, tuple[Callable[[], list[Heard]], str]] = {
    "no camera": (lambda: without(FRONT), f"no topic {FRONT}; it has {HAND}, {INSTRUCTION}, {JOINTS}, {WRIST}"),
    "no joints": (lambda: without(JOINTS), f"no topic {JOINTS}"),
    "no commands": (lambda: without(HAND), f"no topic {HAND}"),
    "no instruction topic": (lambda: without(INSTRUCTION), f"no topic {INSTRUCTION}"),
    "an empty instruction": (
        lambda: [Heard(INSTRUCTION, BEGAN, text(" ")), *without(INSTRUCTION)],
        f"{INSTRUCTION}: no instruction; give one",
    ),
    "another instruction": (
        lambda: plus(INSTRUCTION, text("lift it")),
        f"{INSTRUCTION}: {AT} the instruction changes from 'pick up the red cube' to 'lift it'",
    ),
    "not an image": (
        lambda: [Heard(FRONT, BEGAN, text("x")), *without(FRONT)],
        f"{FRONT} is of type std_msgs/msg/String, expected sensor_msgs/msg/Image or",
    ),
    "a joint that is not there": (
        lambda: joints(["shoulder", "finger"]),
        f"{JOINTS}: no elbow; it has finger, shoulder",
    ),
    "joints without positions": (lambda: joints([]), f"{JOINTS}: no shoulder, elbow; it has no names"),
    "a joint that is not a number": (
        lambda: plus(JOINTS, joint_state(LATE, ["shoulder", "elbow", "finger"], [0, np.nan, 0])),
        f"{JOINTS}: {AT}: position of 'elbow' is nan, not a finite number",
    ),
    "a camera that falls silent": (
        lambda: silent_from(FRONT, LATE, LATE + 500 * MS),
        f"{FRONT}: at 1700000001.200 s: the newest is 0.233 s old, limit 0.2 s",
    ),
    "a camera that dies": (
        lambda: silent_from(WRIST, LATE, LATE + 10**10),
        f"{WRIST}: at 1700000001.200 s: the newest is 0.240 s old, limit 0.2 s",
    ),
    "joints that fall silent": (
        lambda: silent_from(JOINTS, LATE, LATE + 200 * MS),
        f"{JOINTS}: at 1700000001.100 s: the newest is 0.110 s old, limit 0.05 s",
    ),
    "a clock that begins anew": (
        lambda: plus(FRONT, image(BEGAN, picture(0))),
        f"{FRONT}: {AT} the stamps go back by 1.000 s",
    ),
    "depth": (
        lambda: plus(FRONT, image(LATE, np.zeros((SIZE, SIZE, 2), np.uint8), "16UC1")),
        f"{FRONT}: {AT}: image encoding '16UC1': expected one of rgb8",
    ),
    "half an image": (
        lambda: plus(FRONT, cut(image(LATE, picture(0)))),
        f"{FRONT}: {AT}: image data: expected 16 rows",
    ),
    "half a JPEG": (
        lambda: plus(WRIST, cut(compressed(LATE, picture(0)))),
        f"{WRIST}: {AT}: compressed image: not a readable JPEG or PNG",
    ),
    "two numbers for a hand": (lambda: plus(HAND, floats(0, 1)), rf"{HAND}: {AT}: \[.*\], expected one finite number"),
    "a hand told nan": (lambda: plus(HAND, floats(np.nan)), rf"{HAND}: {AT}: \[.*nan.*\], expected one finite number"),
    "a moment": (
        lambda: [one for one in recorded(0.05) if one.received < BEGAN + 60 * MS],
        "less than one step of the control rate",
    ),
}


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(read_robot_file(write_robot(tmp_path / "robot.yaml")), image_size=SIZE)


@pytest.mark.parametrize("what", BAD)
def test_refused(what: str, tmp_path: Path, recording: Recording) -> None:
    heard, reason = BAD[what]
    bags = [write_bag(tmp_path / "good", recorded()), write_bag(tmp_path / "bad", heard())]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"{tmp_path}/bad: .*{reason}"):
        write(BagSource(bags, recording), tmp_path / "demos.hdf5")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_bag_cut_short(tmp_path: Path, recording: Recording, storage: str, share: float) -> None:
    file = next(write_bag(tmp_path / "bag", recorded(), storage).glob("bag.*"))
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"{tmp_path}/bag: (not a whole ROS 2 bag|damaged after or at)"):
        BagSource([tmp_path / "bag"], recording)


def test_a_bag_that_lost_messages(tmp_path: Path, recording: Recording) -> None:
    """As one does whose last file is from an earlier moment than its metadata."""
    long, short = write_bag(tmp_path / "long", recorded(3.0)), write_bag(tmp_path / "short", recorded(2.0))
    (short / "short.mcap").replace(long / "long.mcap")
    with pytest.raises(ValueError, match=f"long: {FRONT}: 61 messages, but 91 were recorded"):
        BagSource([long], recording)


def test_a_message_that_is_cut(tmp_path: Path, recording: Recording) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer

    from tests.data.bags import TYPES

    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, received, message in recorded():
            kind = message.__msgtype__
            known = {connection.topic: connection for connection in writer.connections}
            connection = known.get(topic) or writer.add_connection(topic, kind, typestore=TYPES)
            data = TYPES.serialize_cdr(message, kind)
            writer.write(connection, received, data[:30] if topic == JOINTS and received > LATE else data)
    with pytest.raises(ValueError, match=f"bag: damaged after or at {JOINTS}, received at 1700000001.007 s"):
        BagSource([tmp_path / "bag"], recording)


def test_what_is_no_bag(tmp_path: Path, recording: Recording) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such bag"):
        BagSource([tmp_path / "nowhere"], recording)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mcap").write_text("not a bag")
    for name in ("empty", "text.mcap", "robot.yaml"):
        with pytest.raises(ValueError, match=f"{name}: not a whole ROS 2 bag"):
            BagSource([tmp_path / name], recording)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("policy_node:", "policy_node: [", "not YAML"),
        ("ros__parameters", "parameters", "expected one node with 'ros__parameters'"),
        ("cameras: [front, wrist]", "cameras: front", "'cameras' is front, expected a list of names"),
        ("arm.joints: [shoulder, elbow]", "arm.home: [0, 0, 0]", "'arm.joints' is missing"),
        ("[shoulder, elbow]", "[elbow, elbow]", "expected names that differ"),
        ("open: 0.04", "open: wide", "'gripper.open' is wide, expected a number"),
        ("open: 0.04", "open: 0.0", "'gripper.open' and 'gripper.closed' are both 0"),
        (", command_topic: hand/commands", "", "'gripper.command_topic' is missing"),
    ],
)
def test_a_robots_file_that_does_not_say_enough(tmp_path: Path, old: str, new: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"robot.yaml: .*{reason}"):
        read_robot_file(write_robot(tmp_path / "robot.yaml", ROBOT.replace(old, new)))


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    robot, output = write_robot(tmp_path / "robot.yaml"), tmp_path / "demos.hdf5"
    done = aegis("data", "from-bag", "--robot", robot, "--output", output)
    assert done.returncode == 2 and "no bag: name at least one" in done.stderr and "Traceback" not in done.stderr
    done = aegis("data", "from-bag", tmp_path, "--robot", robot, "--output", output, "--instruction", " ")
    assert done.returncode == 2 and "--instruction: empty" in done.stderr
    bag = write_bag(tmp_path / "bag", without(FRONT))
    done = aegis("data", "from-bag", bag, "--robot", robot, "--output", output)
    assert done.returncode == 2 and f"aegis: error: {bag}: no topic {FRONT}" in done.stderr
    assert not output.exists() and not list(tmp_path.glob(".*"))
    output.write_text("mine")
    done = aegis("data", "from-bag", bag, "--robot", robot, "--output", output)
    assert done.returncode == 2 and "there already" in done.stderr and output.read_text() == "mine"
    output.unlink()
    (bag / "metadata.yaml").unlink()
    done = aegis("data", "from-bag", bag, "--robot", robot, "--output", output, "--rate", "0")
    assert done.returncode == 2 and "rate 0.0" in done.stderr
