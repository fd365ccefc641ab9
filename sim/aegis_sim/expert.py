"""A scripted expert for `PickEnv`, made to be imitated.

It is a function of the simulator's state (and of how long the hand has been closing), not a script of waypoints: from
wherever the arm has got to, it says what to do next, so that states disturbed on purpose get correct labels too. The
way down is a funnel: the hand may be only as low as it is close to the object, which keeps it off the neighbours.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from aegis_sim.env import MAX_TRANSLATION, PickEnv
from aegis_sim.tabletop import HOME_ROTATION

HOVER = 0.075  # m above the object's centre: clears every neighbour
FUNNEL_START, FUNNEL_END = 0.045, 0.010  # m beside the object: hovering outside, all the way down inside
NEAR, LEVEL, ALIGNED = 0.008, 0.010, 0.12  # m beside, m above and rad off, within which the hand closes
STILL_NEAR = 0.022  # ... and within which it goes on closing
SQUEEZE_STEPS = 4  # control steps from the first closing command to a firm grip
EMPTY = 0.028  # m between the fingers: narrower than any object
OPEN = 0.070
TURN = 0.25  # rad per step; faster, and the last joint's torque saturates, which drags the hand aside
GAIN = 1.3  # the arm covers some 0.6 of what is asked for in a step, and coasts on for another 0.2


def funnel_height(beside: float) -> float:
    """How far above an object's centre (m) the hand must stay when it is `beside` m away from it, seen from above."""
    return float(np.clip((beside - FUNNEL_END) / (FUNNEL_START - FUNNEL_END), 0.0, 1.0) * HOVER)


class Expert:
    """Picks up the target of `env`, from wherever the arm is."""

    def __init__(self, env: PickEnv) -> None:
        self._env = env
        self._closing = 0

    def reset(self) -> None:
        """Forget the last episode."""
        self._closing = 0

    def act(self) -> np.ndarray:
        """The next action, float32 [7], SI (`env.ACTION_FEATURES`)."""
        table, target = self._env.table, self._env.target
        position, rotation = table.gripper_pose()
        goal, opening = table.position(target), table.opening()
        turn = self._turn(rotation)
        beside = float(np.hypot(*(goal - position)[:2]))
        above = position[2] - goal[2]

        if self._should_close(beside, above, float(np.linalg.norm(turn)), opening):
            self._closing += 1
            lifting = self._closing > SQUEEZE_STEPS
            way = np.array([0.0, 0.0, MAX_TRANSLATION]) if lifting else np.array([*(goal - position)[:2] * 0.5, 0.0])
            return self._action(way, turn if not lifting else turn * 0.5, gripper=1.0)

        self._closing = 0
        height = funnel_height(beside)
        if opening < OPEN:  # never come down on the object with half-closed fingers
            height = max(height, min(above + 0.02, HOVER))
        way = goal - position
        way[2] += height
        # too low for where it is: rise before moving on
        way[:2] *= np.clip(1.0 - (height - above) / 0.04, 0.1, 1.0)
        return self._action(way, turn, gripper=0.0)

    def _should_close(self, beside: float, above: float, turn: float, opening: float) -> bool:
        if opening < EMPTY:
            return False
        if self._closing or opening < OPEN:
            return beside < STILL_NEAR and abs(above) < 0.03 and (self._closing > 0 or above < LEVEL)
        return beside < NEAR and abs(above) < LEVEL and turn < ALIGNED

    def _turn(self, rotation: Rotation) -> np.ndarray:
        """Rotation vector (base frame) to pointing straight down at the heading that fits the object.

        For a cube that is the nearest one square to its faces, for the round ones home.
        """
        table, target = self._env.table, self._env.target
        yaw = (rotation * HOME_ROTATION.inv()).as_rotvec()[2]
        wanted = 0.0
        if table.primitives[target].shape == "cube":
            off = table.heading(target) - yaw
            wanted = yaw + (off + np.pi / 4) % (np.pi / 2) - np.pi / 4
        down = Rotation.from_euler("z", wanted) * HOME_ROTATION
        return (down * rotation.inv()).as_rotvec()

    def _action(self, way: np.ndarray, turn: np.ndarray, gripper: float) -> np.ndarray:
        """Both cut in length, not per axis, so that the direction survives."""
        way = way * min(GAIN, MAX_TRANSLATION / max(np.abs(way).max(), 1e-9))
        turn = turn * min(GAIN, TURN / max(np.abs(turn).max(), 1e-9))
        return np.array([*way, *turn, gripper], np.float32)
