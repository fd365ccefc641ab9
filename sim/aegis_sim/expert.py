"""A scripted expert for the tabletop, made to be imitated.

It is a function of the simulator's state (and of how long the hand has been closing or opening), not a script of
waypoints: from wherever the arm has got to, it says what to do next, so that states disturbed on purpose get correct
labels too. The way down is a funnel: the hand may be only as low as it is close to where it goes, which keeps it, and
what it carries, off the neighbours.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from aegis_sim.arm import HOME_ROTATION
from aegis_sim.env import MAX_TRANSLATION
from aegis_sim.scenery import half_height
from aegis_sim.table_env import TableEnv

HOVER = 0.075  # m above the object's centre: clears every neighbour
FUNNEL_START, FUNNEL_END = 0.045, 0.010  # m beside the object: hovering outside, all the way down inside
NEAR, LEVEL, ALIGNED = 0.008, 0.010, 0.12  # m beside, m above and rad off, within which the hand closes
STILL_NEAR = 0.022  # ... and within which it goes on closing
SQUEEZE_STEPS = 4  # control steps from the first closing command to a firm grip
RELEASE_STEPS = 4  # ... and from the first opening one to fingers that touch nothing
EMPTY = 0.028  # m between the fingers: narrower than any object
OPEN = 0.070
TURN = 0.25  # rad per step; faster, and the last joint's torque saturates, which drags the hand aside
GAIN = 1.3  # the arm covers some 0.6 of what is asked for in a step, and coasts on for another 0.2
CLEARANCE = 0.04  # m between what is carried and the tallest thing below it; with less, pupils knock that over
DROP = 0.005  # m above its place, within which a thing is let go
CALM_NEAR, CALM = 0.10, 0.2  # m from where it goes within which disturbances shrink, in the end to this share


def funnel_height(beside: float, hover: float = HOVER) -> float:
    """How far above where it goes (m) the hand must stay when it is `beside` m away from it, seen from above."""
    return float(np.clip((beside - FUNNEL_END) / (FUNNEL_START - FUNNEL_END), 0.0, 1.0) * hover)


class ScriptedExpert(Protocol):
    """What every expert can do; `tasks.expert` gives the one for an environment."""

    def reset(self) -> None:
        """Forget the last episode."""

    def act(self) -> np.ndarray:
        """The next action, float32 [7], SI (`env.ACTION_FEATURES`)."""

    def exposure(self) -> float:
        """How much of a disturbance the hand should get before that action, 0 to 1."""


class Expert:
    """Picks up the target of `env`, from wherever the arm is, and places it where the goal says."""

    def __init__(self, env: TableEnv) -> None:
        self._env = env
        self.reset()

    def reset(self) -> None:
        """Forget the last episode."""
        self._closing = self._opening = 0

    def act(self) -> np.ndarray:
        """The next action, float32 [7], SI (`env.ACTION_FEATURES`)."""
        if self._opening:
            return self._release()
        if self._env.kind != "pick" and self._carrying():
            return self._carry()
        return self._pick()

    def exposure(self) -> float:
        """How much of a disturbance the hand should get, 0 to 1: none while it grasps or lets go, little close by.

        A shove there moves things, and teaches nothing.
        """
        table, goal = self._env.table, self._env.table.position(self._env.target)
        if self._opening or (self._closing and not self._carrying()):
            return 0.0
        at = table.gripper_pose()[0]
        if self._carrying():
            if self._env.kind == "pick":
                return 0.0
            at, goal = goal, self._env.place()
        return float(np.clip(np.linalg.norm(at - goal) / CALM_NEAR, CALM, 1.0))

    def hover(self) -> float:
        """How far above its place (m) what is carried must be to clear everything else on the table."""
        table, target = self._env.table, self._env.target
        tops = [table.position(i)[2] + half_height(thing.shape) for i, thing in enumerate(table.primitives)]
        tallest = max(top for i, top in enumerate(tops) if i != target)
        lowest = self._env.place()[2] - half_height(table.primitives[target].shape)
        return float(tallest + CLEARANCE - lowest)

    def _carrying(self) -> bool:
        """Whether the target is firmly in the hand."""
        firm = self._closing == 0 or self._closing > SQUEEZE_STEPS  # an episode may begin with it in the hand
        return firm and self._env.table.held(self._env.target)

    def _pick(self) -> np.ndarray:
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
        return self._action(over(goal - position, height), turn, gripper=0.0)

    def _should_close(self, beside: float, above: float, turn: float, opening: float) -> bool:
        if opening < EMPTY:
            return False
        if self._closing or opening < OPEN:
            return beside < STILL_NEAR and abs(above) < 0.03 and (self._closing > 0 or above < LEVEL)
        return beside < NEAR and abs(above) < LEVEL and turn < ALIGNED

    def _carry(self) -> np.ndarray:
        """Over the neighbours to its place, down, and let go."""
        self._closing = SQUEEZE_STEPS + 1  # in the hand, however it got there
        table = self._env.table
        way = self._env.place() - table.position(self._env.target)
        if np.hypot(*way[:2]) < NEAR and -way[2] < DROP:
            return self._release()
        upright = (HOME_ROTATION * table.gripper_pose()[1].inv()).as_rotvec() * (1.0, 1.0, 0.0)
        return self._action(over(way, funnel_height(float(np.hypot(*way[:2])), self.hover())), upright, gripper=1.0)

    def _release(self) -> np.ndarray:
        """Open the fingers where they are; then up, and whatever comes next."""
        self._opening, self._closing = self._opening + 1, 0
        clear = self._opening > RELEASE_STEPS
        if clear and self._env.table.gripper_pose()[0][2] > self._env.table.position(self._env.target)[2] + HOVER:
            self._opening = 0
        return self._action(np.array([0.0, 0.0, MAX_TRANSLATION if clear else 0.0]), np.zeros(3), gripper=0.0)

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


def over(way: np.ndarray, height: float) -> np.ndarray:
    """The way [3] to `height` above where it would end; too low for where it is, it rises before it moves on."""
    too_low = (height + way[2]) / 0.04
    return np.array([*way[:2] * np.clip(1.0 - too_low, 0.1, 1.0), way[2] + height])
