"""Pick things up and place them: the tabletop of coloured primitives as a gymnasium environment, at 10 Hz."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from scipy.spatial.transform import Rotation

from aegis_sim.arm import HOME_ROTATION
from aegis_sim.env import ACTION_FEATURES, CAMERAS, ArmEnv
from aegis_sim.goals import AT_REST, LEVEL, LIFT_HEIGHT, Goal, Kind, draw_episode
from aegis_sim.questions import Question, Scene, SceneObject, questions
from aegis_sim.scenery import ODD_SHAPES, TABLE_HEIGHT, half_height
from aegis_sim.splits import split_named
from aegis_sim.tabletop import HOME_POSITION, Tabletop
from aegis_sim.tasks import ENVIRONMENTS, IMAGE_SIZE

CONTROL_HZ = 10
MAX_STEPS: dict[Kind, int] = {"pick": 60, "place-on": 100, "place-beside": 100}
LIFT_SHOWN = 0.02  # m: from here on a picture shows that an object is held, and not just stood around by fingers
GRASP_CLEAR = 0.10  # m: with no object nearer to the fingers, a picture shows that they are empty
SETTLE_STEPS = 2

_START_SPREAD = np.array([0.07, 0.11, 0.05])  # m to either side of home
_START_TURN = np.array([0.03, 0.03, 0.2])  # rad


class TableEnv(ArmEnv):
    """`reset` draws one to four objects, their places and headings, the goal and the arm's start from the seed.

    A thing is picked up when it is LIFT_HEIGHT above the table, and placed when it rests at its place, what it is
    placed by rests too, and the hand has let go of both.

    `info` has besides "target" (index of the thing to take), "reference" (of the one it is placed by, if any),
    "lifted" (index of the first object lifted, once one was), and at the end of an episode "right_object": whether the
    first object lifted is the target or, when none was, whether the hand was nearest to the target as it first closed
    (or at the end).

    Args:
        kind: of the goal.
        split: name of the split, see `splits.py`.
        image_size, cameras, max_steps, render_mode: see `ArmEnv`; `max_steps` of MAX_STEPS when None.
    """

    def __init__(
        self,
        kind: Kind = "pick",
        split: str = "seen",
        image_size: int = IMAGE_SIZE,
        cameras: tuple[str, ...] = tuple(CAMERAS),
        max_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.kind, self.split = kind, split_named(split)
        self.table = Tabletop(CONTROL_HZ)
        self.goal = Goal(kind, 0, "")
        super().__init__(
            self.table,
            control_hz=CONTROL_HZ,
            image_size=image_size,
            cameras=cameras,
            max_steps=MAX_STEPS[kind] if max_steps is None else max_steps,
            render_mode=render_mode,
        )

    @property
    def instruction(self) -> str:
        return self.goal.instruction(self.table.primitives)

    @property
    def target(self) -> int:
        """Index of the thing to take."""
        return self.goal.target

    def place(self) -> np.ndarray:
        """Where the target's centre shall come to rest, [3], world, m."""
        assert self.goal.reference is not None, "picked up, a thing may be anywhere"
        return self.goal.place(self.table.primitives, self.table.position(self.goal.reference), self.table.look)

    def begin(self) -> None:
        super().begin()
        self.lifted: int | None = None
        self._closed_on: int | None = None

    def questions(self, rng: np.random.Generator) -> list[Question]:
        return questions(self.scene(), rng)

    def scene(self, camera: str = "front") -> Scene:
        """What `camera` shows at this instant, with the truth about it; needs a rendering of its own (5 ms)."""
        table, name = self.table, CAMERAS[camera]
        owners = table.segment(name, self.image_size)
        objects, strangers = [], False
        for index, item in enumerate(table.primitives):
            share = float((owners == index).mean())
            if item.shape in ODD_SHAPES:  # they come last, and have no name
                strangers = True
                continue
            u, v = table.project(table.position(index), name) if share else (0.0, 0.0)
            standing = self._height(index) < LIFT_SHOWN
            objects.append(SceneObject(item.colour, item.shape, u, v, share, standing))
        held = next((i for i in range(len(table.primitives)) if table.held(i)), None)
        gripper = self._shows_grasp(name, held) and (held is None or held < len(objects))
        known = held if held is not None and held < len(objects) else None
        return Scene(tuple(objects), known, gripper=gripper, upright=camera == "front", strangers=strangers)

    # -- the episode ---------------------------------------------------------------------------------------------

    def _draw(self, rng: np.random.Generator) -> None:
        self.table.reset()
        self.table.set_look(self.split.look)
        primitives, self.goal = draw_episode(self.kind, self.split, rng)
        self.table.dress(primitives)
        position = HOME_POSITION + rng.uniform(-1, 1, 3) * _START_SPREAD
        turn = Rotation.from_rotvec(rng.uniform(-1, 1, 3) * _START_TURN)
        self.table.set_arm(position, turn * HOME_ROTATION)
        for _ in range(SETTLE_STEPS):  # always as many: the same seed must give the same episode
            self.advance(np.zeros(len(ACTION_FEATURES)))

    def _done(self, action: np.ndarray) -> bool:
        if action[6] >= 0.5 and self._closed_on is None:
            self._closed_on = self._nearest()
        if self.lifted is None:
            indices = range(len(self.table.primitives))
            self.lifted = next((i for i in indices if self._height(i) > LIFT_HEIGHT), None)
        return self._height(self.target) > LIFT_HEIGHT if self.kind == "pick" else self.placed()

    def placed(self) -> bool:
        """Whether the target rests at its place, what it is placed by rests too, and the hand has let go of both."""
        off = self.table.position(self.target) - self.place()
        there = np.hypot(*off[:2]) < self.goal.near and abs(off[2]) < LEVEL
        both = (self.target, self.goal.reference)
        rest = all(self.table.speed(i) < AT_REST and not self.table.touched(i) for i in both if i is not None)
        return bool(there and rest)

    def _facts(self, ended: bool) -> Mapping[str, Any]:
        facts: dict[str, Any] = {"target": self.target}  # what is not there has no key: a vector has one type for each
        facts |= {} if self.goal.reference is None else {"reference": self.goal.reference}
        facts |= {} if self.lifted is None else {"lifted": self.lifted}
        if ended:
            chosen = next(i for i in (self.lifted, self._closed_on, self._nearest()) if i is not None)
            facts["right_object"] = chosen == self.target
            if not self.success:
                facts["failure"] = self._failure(chosen == self.target)
        return facts

    def _failure(self, right_object: bool) -> str:
        """What went wrong, as far as the simulator's state tells."""
        if self.lifted is None:
            return "nothing lifted" if right_object else "went to wrong object"
        if not right_object:
            return "lifted wrong object"
        return "not put down" if self.table.touched(self.target) else "put in the wrong place"

    def _shows_grasp(self, camera: str, held: int | None) -> bool:
        """Whether an image tells what the gripper holds: not while the fingers are around what still stands."""
        hand = self.table.gripper_pose()[0]
        if not self.table.shows(hand, camera):
            return False
        if held is not None:
            return self._height(held) > LIFT_SHOWN
        return bool(np.linalg.norm(np.subtract(self._places(), hand), axis=1).min() > GRASP_CLEAR)

    def _height(self, index: int) -> float:
        """How far above where it would stand on the table, m."""
        standing = TABLE_HEIGHT + half_height(self.table.primitives[index].shape)
        return float(self.table.position(index)[2] - standing)

    def _nearest(self) -> int:
        return int(np.argmin(np.linalg.norm(np.subtract(self._places(), self.table.gripper_pose()[0]), axis=1)))

    def _places(self) -> list[np.ndarray]:
        return [self.table.position(i) for i in range(len(self.table.primitives))]


for _kind in MAX_STEPS:
    gym.register(ENVIRONMENTS[_kind], entry_point="aegis_sim.table_env:TableEnv", kwargs={"kind": _kind})
