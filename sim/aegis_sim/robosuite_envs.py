"""robosuite's own tasks as gymnasium environments with a language to them, at 20 Hz."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from aegis_sim.arm import FRONT
from aegis_sim.env import ACTION_FEATURES, CAMERAS, ArmEnv
from aegis_sim.questions import HOLDING, NOTHING, WHAT_HELD, Question, Scene, SceneObject, questions
from aegis_sim.robosuite_sims import CONTROL_HZ, CanSim, DoorSim, LiftSim, NutSim, RobosuiteSim, StackSim
from aegis_sim.tasks import ENVIRONMENTS, IMAGE_SIZE

SETTLE_STEPS = 4  # robosuite drops its objects from a centimetre up
LIFTED = 0.02  # m above where it stood: off the ground, and a picture shows that fingers hold it
CLEAR = 0.10  # m between the hand and what it could hold from which a picture shows that it holds nothing

OPEN = "open"
"""The family of questions that only a door gives rise to."""
IS_OPEN = "is the door open"
TURNED = 0.5  # rad from which a picture shows that the handle is turned
AJAR = 0.03  # rad; between here and where robosuite calls it open, a picture leaves room for argument


class RobosuiteEnv(ArmEnv):
    """`reset` places the objects, or the door, and the arm's joints as robosuite does, from the seed alone.

    Success is robosuite's. At the end of an episode that failed, `info` has "failure" in words.

    Args:
        robot: "Panda", "UR5e", "IIWA" or "Sawyer".
        image_size, cameras, max_steps, render_mode: see `ArmEnv`; `max_steps` of the task when None.

    Raises:
        ValueError: an unknown robot.
    """

    made_of: ClassVar[type[RobosuiteSim]]
    patience: ClassVar[int]  # control steps
    sim: RobosuiteSim

    def __init__(
        self,
        robot: str = "Panda",
        image_size: int = IMAGE_SIZE,
        cameras: tuple[str, ...] = tuple(CAMERAS),
        max_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.sim = self.made_of(robot)
        super().__init__(
            self.sim,
            control_hz=CONTROL_HZ,
            image_size=image_size,
            cameras=cameras,
            max_steps=self.patience if max_steps is None else max_steps,
            render_mode=render_mode,
        )

    def begin(self) -> None:
        super().begin()
        self._stood = {name: float(self.sim.position(name)[2]) for name in self.sim.things()}
        self.begun = False

    def stood(self, name: str) -> float:
        """How high a thing was as the episode began, world, m."""
        return self._stood[name]

    def height(self, name: str) -> float:
        """How far a thing is above where it stood as the episode began, m."""
        return float(self.sim.position(name)[2]) - self.stood(name)

    def held(self) -> str | None:
        """What the fingers hold."""
        return next((name for name in self.sim.things() if self.sim.held(name)), None)

    def _draw(self, rng: np.random.Generator) -> None:
        self.sim.draw(rng)
        for _ in range(SETTLE_STEPS):  # always as many: the same seed must give the same episode
            self.advance(np.zeros(len(ACTION_FEATURES)))

    def _done(self, action: np.ndarray) -> bool:
        self.begun = self.begun or self._begins()
        return self.sim.succeeded()

    def _begins(self) -> bool:
        """Whether the job is under way, as one can see."""
        return any(self.height(name) > LIFTED for name in self._stood)

    def _failure(self) -> str:
        """What went wrong, as far as the simulator's state tells."""
        if not self.begun:
            return "nothing lifted"
        return "not put down" if self.held() else "put in the wrong place"

    def _facts(self, ended: bool) -> Mapping[str, Any]:
        return {"failure": self._failure()} if ended and not self.success else {}

    def _shows_grasp(self, held: str | None) -> bool:
        """Whether the front image tells what the gripper holds: not while the fingers are around what still stands."""
        hand = self.sim.gripper_pose()[0]
        if not self.sim.shows(hand, FRONT):
            return False
        if held is not None:
            return self._hangs(held)
        return min(float(np.linalg.norm(self.sim.position(name) - hand)) for name in self._stood) > CLEAR

    def _hangs(self, held: str) -> bool:
        """Whether one sees that what is held is held."""
        return self.height(held) > LIFTED

    def _ask_held(self) -> list[Question]:
        """Of things that have no place among the coloured primitives."""
        held = self.held()
        if not self._shows_grasp(held):
            return []
        asked = [Question(HOLDING.format(a=name), "yes" if name == held else "no", "held") for name in self._stood]
        return [Question(WHAT_HELD, held or NOTHING, "held"), *asked]


class CubesEnv(RobosuiteEnv):
    """What Lift and Stack share: coloured cubes, about which everything can be asked that the tabletop is asked."""

    def questions(self, rng: np.random.Generator) -> list[Question]:
        return questions(self.scene(), rng)

    def scene(self) -> Scene:
        """What the front camera shows at this instant, with the truth about it; needs renderings of its own."""
        objects, names = [], list(self._stood)
        for name in names:
            colour, shape = name.split()
            share = self.sim.share(name, FRONT, self.image_size)
            u, v = self.sim.project(self.sim.position(name), FRONT) if share else (0.0, 0.0)
            objects.append(SceneObject(colour, shape, u, v, share, standing=self.height(name) < LIFTED))
        held = self.held()
        index = None if held is None else names.index(held)
        return Scene(tuple(objects), index, gripper=self._shows_grasp(held))


class LiftEnv(CubesEnv):
    """The cube is to be 4 cm up. robosuite counts from the table to its centre: two centimetres will do."""

    made_of, patience = LiftSim, 150
    instruction = "lift the red cube"


class StackEnv(CubesEnv):
    """The red cube is to rest on the green one, out of the fingers."""

    made_of, patience = StackSim, 250
    instruction = "stack the red cube on the green cube"


class CanEnv(RobosuiteEnv):
    """The can is to lie in its own compartment of the other bin, with the hand away from it."""

    made_of, patience = CanSim, 300
    sim: CanSim
    instruction = "put the can in the bin"

    def questions(self, rng: np.random.Generator) -> list[Question]:
        return self._ask_held()


class NutEnv(RobosuiteEnv):
    """The named one of two nuts is to be round its own peg."""

    made_of, patience = NutSim, 300
    sim: NutSim

    @property
    def instruction(self) -> str:
        return f"put the {self.sim.named} on its peg"

    def begin(self) -> None:
        super().begin()
        self._lifted: str | None = None

    def questions(self, rng: np.random.Generator) -> list[Question]:
        return self._ask_held()

    def _done(self, action: np.ndarray) -> bool:
        if self._lifted is None:
            self._lifted = next((name for name in self._stood if self.height(name) > LIFTED), None)
        return super()._done(action)

    def _facts(self, ended: bool) -> Mapping[str, Any]:
        facts = super()._facts(ended)
        return {**facts, "right_object": (self._lifted or self._nearest()) == self.sim.named} if ended else facts

    def _failure(self) -> str:
        return "lifted wrong object" if self._lifted not in (None, self.sim.named) else super()._failure()

    def _nearest(self) -> str:
        hand = self.sim.gripper_pose()[0]
        return min(self._stood, key=lambda name: float(np.linalg.norm(self.sim.position(name) - hand)))


class DoorEnv(RobosuiteEnv):
    """The door is to be 0.3 rad open; its handle must be turned first."""

    made_of, patience = DoorSim, 300
    sim: DoorSim
    instruction = "open the door"

    def questions(self, rng: np.random.Generator) -> list[Question]:
        return [*self._ask_open(), *self._ask_held()]

    def _ask_open(self) -> list[Question]:
        if AJAR < self.sim.hinge() and not self.sim.succeeded():
            return []
        return [Question(IS_OPEN, "yes" if self.sim.succeeded() else "no", OPEN)]

    def _hangs(self, held: str) -> bool:
        return self.sim.latch() > TURNED

    def _begins(self) -> bool:
        return self.sim.latch() > TURNED

    def _failure(self) -> str:
        return "door not opened" if self.begun else "handle not turned"


TASKS: dict[str, type[RobosuiteEnv]] = {
    "lift": LiftEnv,
    "stack": StackEnv,
    "can": CanEnv,
    "nut": NutEnv,
    "door": DoorEnv,
}
"""Task -> its environment."""
for _task, _made in TASKS.items():
    gym.register(ENVIRONMENTS[_task], entry_point=f"{__name__}:{_made.__name__}")
