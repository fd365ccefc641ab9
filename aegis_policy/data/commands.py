"""The commands about data: `aegis data inspect`, `convert`, `from-bag`. Light to import: what is heavy waits inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional


def inspect(path: Annotated[Path, Positional], *, sheet: Path | None = None) -> None:
    """Show what is in a data set of demonstrations, and refuse one that is not fit to learn from.

    Reads every number and every image of a robomimic-layout HDF5 file or a LeRobot folder (v3 or v2.1). Prints the
    episodes, cameras and instructions, and the ranges that normalisation would use, with a warning for what hardly
    varies. What is not sound (a number that is not finite, wrong lengths, missing images, displacements that were
    differenced twice) ends it with a line that says what and where.

    Args:
        path: the file or the folder.
        sheet: PNG file for a contact sheet: some episodes from start to end, as every camera saw them.
    """
    import logging

    from aegis_policy.data.inspection import inspect as run
    from aegis_policy.data.inspection import write_sheet

    log = logging.getLogger(__name__)
    found = run(path)
    print(found.text())
    for warning in found.warnings():
        log.warning(warning)
    if sheet is not None:
        write_sheet(found, sheet)
        log.info("wrote %s", sheet)


def convert(source: Annotated[Path, Positional], target: Annotated[Path, Positional]) -> None:
    """Convert demonstrations between robomimic-layout HDF5 and LeRobot v3.

    States, actions, names, units and instructions go over exactly; LeRobot's videos change images a little (see
    docs/data.md). The new data appears when it is whole. Prints its path.

    Args:
        source: HDF5 file, or LeRobot folder (v3 or v2.1).
        target: what to write: an HDF5 file if its name ends in .hdf5 or .h5, else a LeRobot v3 folder.
    """
    from aegis_policy.data.convert import convert as run

    print(run(source, target).path)


def from_bag(
    bags: Annotated[list[Path], Positional],
    *,
    robot: Path,
    output: Path,
    rate: float = 10.0,
    image_size: int = 224,
    instruction: str | None = None,
    joint_states: str = "joint_states",
    instruction_topic: str = "instruction",
) -> None:
    """Make demonstrations of ROS 2 bags, one episode of each; needs no ROS 2.

    At each tick of the control rate a step sees the newest images and joints by the stamps in their headers, never
    later ones; its action is where the joints were at the next tick, and what the gripper had been told by then. Joints
    and images older than the robot's file allows (timeouts.joints, timeouts.images) are refused, with the topic, the
    time and the age. The data appears when it is whole. Prints its path.

    Args:
        bags: folders that `ros2 bag record` made, or single .mcap or .db3 files.
        robot: YAML file with the robot's topics and joints: the parameters of policy_node, such as panda.yaml.
        output: what to write: an HDF5 file if its name ends in .hdf5 or .h5, else a LeRobot v3 folder.
        rate: control rate, actions per second.
        image_size: pixels on a side of the images; the whole picture is resized.
        instruction: what all these bags show, in place of a topic that says so.
        joint_states: topic, sensor_msgs/JointState.
        instruction_topic: topic, std_msgs/String.
    """
    from aegis_policy.data.bags import BagSource, Recording
    from aegis_policy.data.convert import refuse_existing, write
    from aegis_policy.data.robot_file import read_robot_file

    if not bags:
        raise ValueError("no bag: name at least one folder or file")
    if instruction is not None and not (instruction := instruction.strip()):
        raise ValueError("--instruction: empty; say what the bags show, or leave it out where a topic says so")
    refuse_existing(output)
    recording = Recording(read_robot_file(robot), rate, image_size, instruction, joint_states, instruction_topic)
    print(write(BagSource(bags, recording), output).path)
