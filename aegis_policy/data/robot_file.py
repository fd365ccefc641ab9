"""A robot's topics and joints, out of the file of parameters that `policy_node` runs with (ros2_ws/.../config).

One file for both: what is learned from bags that were read by it, fits the node that is started with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from aegis_policy.hand import Hand
from aegis_policy.policy import Feature

PARAMETERS = "ros__parameters"


@dataclass(frozen=True)
class RobotFile:
    """What a bag of this robot should have in it.

    Attributes:
        cameras: name -> topic.
        joints: of the arm, in the order of the state and the actions.
        hand, hand_topic: None for an arm without one; where its commands go. One without joints is told and not seen.
        image_age, joint_age: the oldest to go by, s.
    """

    cameras: dict[str, str]
    joints: tuple[str, ...]
    hand: Hand | None
    hand_topic: str | None
    image_age: float
    joint_age: float

    @property
    def state(self) -> tuple[Feature, ...]:
        """Positions of the joints (rad), and how far the hand is open (m)."""
        return self._joints + ((Feature("opening", "m"),) if self.hand and self.hand.joints else ())

    @property
    def actions(self) -> tuple[Feature, ...]:
        """Positions that the joints are to have (rad), and the hand: 0 open to 1 closed."""
        return self._joints + ((Feature("gripper", "1"),) if self.hand else ())

    @property
    def _joints(self) -> tuple[Feature, ...]:
        return tuple(Feature(name, "rad") for name in self.joints)


def read_robot_file(path: Path) -> RobotFile:
    """Read the parameters of one node, nested or with dots in their names, as ROS 2 has them.

    Raises:
        OSError: no such file.
        ValueError: not such a file, or a parameter is missing or of another kind; says which.
    """
    try:
        found = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    nodes = [node for node in found.values() if _has_parameters(node)] if isinstance(found, dict) else []
    if len(nodes) != 1:
        raise ValueError(f"{path}: expected one node with '{PARAMETERS}', as in aegis_ros/config, found {len(nodes)}")
    values = _Values(path, dict(_flat(nodes[0][PARAMETERS])))
    names = values.names("cameras")
    has_hand = any(f"gripper.{name}" in values.found for name in ("joints", "command_topic"))
    return RobotFile(
        cameras={name: values.text(f"camera.{name}.topic", f"{name}/image_raw") for name in names},
        joints=values.names("arm.joints"),
        hand=_hand(values) if has_hand else None,
        hand_topic=values.text("gripper.command_topic") if has_hand else None,
        image_age=values.number("timeouts.images", 0.5),
        joint_age=values.number("timeouts.joints", 0.1),
    )


def _hand(values: _Values) -> Hand:
    hand = Hand(
        joints=values.names("gripper.joints") if "gripper.joints" in values.found else (),
        scale=values.number("gripper.scale", 1.0),
        offset=values.number("gripper.offset", 0.0),
        open=values.number("gripper.open"),
        closed=values.number("gripper.closed"),
    )
    if hand.open == hand.closed:
        raise ValueError(f"{values.path}: 'gripper.open' and 'gripper.closed' are both {hand.open:g}")
    return hand


class _Values:
    """Parameters by their names with dots; without a default they must be there."""

    def __init__(self, path: Path, found: Mapping[str, Any]) -> None:
        self.path, self.found = path, found

    def names(self, key: str) -> tuple[str, ...]:
        value = self.found.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
            raise self._wrong(key, "a list of names")
        if len(set(value)) != len(value):
            raise self._wrong(key, "names that differ from one another")
        return tuple(value)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.found.get(key, default)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, "a topic")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.found.get(key, default)
        if not isinstance(value, int | float) or not np.isfinite(value):
            raise self._wrong(key, "a number")
        return float(value)

    def _wrong(self, key: str, expected: str) -> ValueError:
        return ValueError(f"{self.path}: parameter '{key}' is {self.found.get(key, 'missing')}, expected {expected}")


def _has_parameters(node: object) -> bool:
    return isinstance(node, dict) and isinstance(node.get(PARAMETERS), dict)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
