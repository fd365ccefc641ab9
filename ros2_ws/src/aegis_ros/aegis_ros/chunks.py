"""A chunk as the policy node shows it on `~/chunk`: into the message, and back out of it."""

from __future__ import annotations

from array import array

import numpy as np
from aegis_interfaces.msg import ActionChunk

from aegis_policy import PolicyInfo
from aegis_ros.conversions import to_seconds, to_stamp
from aegis_ros.driver import Followed


def to_message(followed: Followed, info: PolicyInfo) -> ActionChunk:
    """A chunk of the policy that `info` describes."""
    return ActionChunk(
        stamp=to_stamp(round(followed.chunk.stamp * 1e9)),
        start=to_stamp(round(followed.start * 1e9)),
        latency=followed.latency,
        number=followed.number,
        control_hz=float(info.control_hz),
        names=[feature.name for feature in info.actions],
        units=[feature.unit for feature in info.actions],
        actions=array("d", followed.chunk.actions.astype(np.float64).tobytes()),
        executed_at_most=followed.most,
    )


def actions(message: ActionChunk) -> np.ndarray:
    """Its actions, float64 [H, A]."""
    return np.array(message.actions).reshape(-1, len(message.names))


def executed(message: ActionChunk, now: float) -> int:
    """How many of its actions are behind at `now`, s of the robot's clock."""
    steps = int((now - to_seconds(message.start)) * message.control_hz)
    return min(max(steps, 0), message.executed_at_most)
