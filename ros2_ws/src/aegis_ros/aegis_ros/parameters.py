"""The policy node's parameters: declared with type, range and description, read once, when the node is configured.

All are read-only: a limit that changes under a moving arm is nobody's friend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from aegis_policy.control import Asynchronous, AxisLimits, RealTime, Scheduler, Synchronous, TemporalEnsemble

SCHEDULERS: Mapping[str, type[Scheduler]] = {
    "synchronous": Synchronous,
    "asynchronous": Asynchronous,
    "ensemble": TemporalEnsemble,
    "real-time": RealTime,
}
OUTPUTS = ("trajectory", "array", "twist")
LIMITS = {
    "velocity": "per s",
    "acceleration": "per s²",
    "jerk": "per s³",
    "jump": "the most from one action of a chunk to the next, or off the present place",
    "chunk_jerk": "the largest third difference of a chunk, per s³",
    "lower": "end of the range of commands",
    "upper": "end of the range of commands",
    "following": "the farthest that the arm may be off its command",
}
assert set(LIMITS) == {field.name for field in fields(AxisLimits)}
SECONDS = FloatingPointRange(from_value=0.001, to_value=60.0)
DEFAULTS: tuple[tuple[str, Any, str, Any], ...] = (  # name, default or type, description, range
    ("policy", "", "folder or http:// address of a server; empty for the one that ships", None),
    ("rate", 50.0, "commands per second", FloatingPointRange(from_value=5.0, to_value=1000.0)),
    ("cameras", Parameter.Type.STRING_ARRAY, "the policy's names of the cameras", None),
    ("arm.joints", Parameter.Type.STRING_ARRAY, "the joints that are commanded, as in robot_description", None),
    ("arm.base", Parameter.Type.STRING, "frame that poses are given in", None),
    ("arm.tip", Parameter.Type.STRING, "frame whose pose the policy knows", None),
    ("arm.home", [0.0, 0.0, 0.0], "roll, pitch, yaw of the tip in the base that a policy calls no rotation, rad", None),
    ("arm.output", "trajectory", f"what the arm's controller takes, see docs/ros.md: {', '.join(OUTPUTS)}", None),
    ("arm.command_topic", Parameter.Type.STRING, "to the arm's controller; of the type that arm.output says", None),
    ("arm.coasting", 0.1, "of trajectories: s that one reaches on, as long as timeouts.tick; then it brakes", SECONDS),
    ("arm.braking", 0.25, "of trajectories: s in which the arm then brakes to standstill", SECONDS),
    (
        "arm.following",
        0.3,
        "of displacements: rad that a joint may be off what it was sent (of twists, that the hand may be turned)",
        FloatingPointRange(from_value=0.01, to_value=3.2),
    ),
    (
        "arm.gain",
        4.0,
        "of twists: share of the way to where the hand is to be that is added per second to its velocity",
        FloatingPointRange(from_value=0.1, to_value=50.0),
    ),
    ("gripper.joints", Parameter.Type.STRING_ARRAY, "whose positions add up to the opening; may be left out", None),
    ("gripper.scale", 1.0, "opening (m) = offset + scale * sum of the joints' positions", None),
    ("gripper.offset", 0.0, "see gripper.scale; m", None),
    ("gripper.open", Parameter.Type.DOUBLE, "what to command for open, in the controller's unit", None),
    ("gripper.closed", Parameter.Type.DOUBLE, "what to command for closed", None),
    ("gripper.command_topic", Parameter.Type.STRING, "std_msgs/Float64MultiArray, to the hand's controller", None),
    (
        "displacements.translation",
        1.0,
        "share of a displacement in m that the arm of the demonstrations really went",
        FloatingPointRange(from_value=0.01, to_value=2.0),
    ),
    (
        "displacements.rotation",
        1.0,
        "the same of displacements in rad",
        FloatingPointRange(from_value=0.01, to_value=2.0),
    ),
    ("scheduler", "asynchronous", f"what becomes of successive chunks: {', '.join(SCHEDULERS)}", None),
    ("execute", 4, "actions of a chunk until the next is asked for", IntegerRange(from_value=1, to_value=1000)),
    ("timeouts.tick", 0.1, "s, the longest from one command to the next", SECONDS),
    ("timeouts.joints", 0.1, "s, the oldest joint states to go by", SECONDS),
    ("timeouts.images", 0.5, "s, the oldest image to go by", SECONDS),
    ("timeouts.chunk", 1.5, "s, the oldest observation whose actions are followed", SECONDS),
    ("timeouts.first_chunk", 10.0, "s, the longest from an instruction to its first actions", SECONDS),
    ("timeouts.skew", 0.05, "s, the farthest apart that images and joint states of one observation may be", SECONDS),
    ("timeouts.ahead", 0.05, "s, the farthest in the future that a stamp may be", SECONDS),
    ("timeouts.start", 10.0, "s that configuring waits for what the robot sends", SECONDS),
)


class ParameterError(ValueError):
    """A parameter is missing or impossible; says which."""


@dataclass(frozen=True)
class CameraTopic:
    """Where a camera's images come from."""

    topic: str
    compressed: bool


def declare(node: Node) -> None:
    """Declare what does not depend on the policy."""
    for name, default, description, limits in DEFAULTS:
        node.declare_parameter(name, default, _descriptor(description, limits))


def read(node: Node, name: str) -> Any:
    """The value of a declared parameter.

    Raises:
        ParameterError: it has no default and was not given.
    """
    value = node.get_parameter_or(name).value
    if value is None:
        raise ParameterError(f"parameter '{name}' is not set: {node.describe_parameter(name).description}")
    return value


def read_optional(node: Node, name: str, default: Any) -> Any:
    """The value of a declared parameter, or `default` where it was not given."""
    value = node.get_parameter_or(name).value
    return default if value is None else value


def read_cameras(node: Node) -> dict[str, CameraTopic]:
    """Of `cameras`: each has `camera.<name>.topic` and `camera.<name>.compressed`.

    Raises:
        ParameterError: there are none.
    """
    names = read(node, "cameras")
    for name in names:
        _declare_once(node, f"camera.{name}.topic", f"{name}/image_raw", f"images of camera '{name}'")
        _declare_once(node, f"camera.{name}.compressed", False, "whether they are sensor_msgs/CompressedImage")
    return {
        name: CameraTopic(read(node, f"camera.{name}.topic"), read(node, f"camera.{name}.compressed")) for name in names
    }


def given_limits(node: Node, actions: Sequence[str]) -> dict[str, dict[str, float]]:
    """`limits.<action>.<key>` as far as they are given, see `aegis_policy.control.read_limits`."""
    found: dict[str, dict[str, float]] = {}
    for action in actions:
        for key, description in LIMITS.items():
            _declare_once(node, f"limits.{action}.{key}", Parameter.Type.DOUBLE, f"of action '{action}': {description}")
        values = {key: read_optional(node, f"limits.{action}.{key}", None) for key in LIMITS}
        found[action] = {key: value for key, value in values.items() if value is not None}
    return found


def read_scheduler(node: Node) -> Scheduler:
    """The scheduler by `scheduler` and `execute`.

    Raises:
        ParameterError: an unknown one.
    """
    name = read(node, "scheduler")
    if name not in SCHEDULERS:
        raise ParameterError(f"parameter 'scheduler' is '{name}': expected one of {', '.join(SCHEDULERS)}")
    return SCHEDULERS[name](read(node, "execute"))


def _declare_once(node: Node, name: str, default: Any, description: str) -> None:
    if not node.has_parameter(name):
        node.declare_parameter(name, default, _descriptor(description, None))


def _descriptor(description: str, limits: Any) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=description, read_only=True)
    if isinstance(limits, FloatingPointRange):
        descriptor.floating_point_range = [limits]
    elif isinstance(limits, IntegerRange):
        descriptor.integer_range = [limits]
    return descriptor
