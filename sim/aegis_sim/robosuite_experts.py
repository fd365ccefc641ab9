"""Scripted experts for robosuite's own tasks, made to be imitated.

Like the tabletop's (`expert.py`) they are functions of the simulator's state and of how long the fingers have been
closing or opening, so that they come back from wherever a disturbance has taken the arm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

import numpy as np
from scipy.spatial.transform import Rotation

from aegis_sim.arm import HOME_ROTATION
from aegis_sim.env import MAX_TRANSLATION
from aegis_sim.expert import funnel_height, over
from aegis_sim.robosuite_envs import AJAR, CanEnv, DoorEnv, LiftEnv, NutEnv, RobosuiteEnv, StackEnv

GAIN = 2.0  # robosuite's controller, a spring and a damper at 20 Hz, is then slightly underdamped
TURN = 0.2  # rad per step
HOVER = 0.09  # m above what is to be gripped
NEAR, LEVEL, ALIGNED = 0.012, 0.012, 0.12  # m beside, m above and rad off, within which the hand closes
FIRM_STEPS = 3  # control steps that both pads must have touched a thing before it is moved
CLOSE_STEPS = 30  # ... that the fingers may take to touch it; after that the hand opens and comes again
OPEN_STEPS = 12  # ... that they then take to open
CLEARANCE = 0.02  # m between what is carried and what it is carried over
SETTLED, DROP = 0.008, 0.006  # m beside and above its place, within which a thing is let go
CALM_NEAR, CALM = 0.10, 0.2  # m from where the hand goes within which disturbances shrink, in the end to this share
UP = np.array([0.0, 0.0, MAX_TRANSLATION])
UPRIGHT = Rotation.identity()

Env = TypeVar("Env", bound=RobosuiteEnv)


class RobosuiteExpert(ABC, Generic[Env]):
    """What they share: coming down on a thing, closing until it is firmly held, letting go."""

    def __init__(self, env: Env) -> None:
        self._env, self._sim = env, env.sim
        self.reset()

    def reset(self) -> None:
        """Forget the last episode."""
        self._closing = self._opening = self._touched = 0
        self._away = 0.0

    @abstractmethod
    def act(self) -> np.ndarray:
        """The next action, float32 [7], SI (`env.ACTION_FEATURES`)."""

    def exposure(self) -> float:
        """How much of a disturbance the hand should get, 0 to 1: none while its fingers move, little close by."""
        if self._opening or (self._closing and self._touched < FIRM_STEPS):
            return 0.0
        return float(np.clip(self._away / CALM_NEAR, CALM, 1.0))

    def _firm(self, name: str) -> bool:
        """Whether the thing has been held long enough to be moved; counts, so ask once a step."""
        held = self._closing > 0 and self._sim.held(name)
        self._touched = min(self._touched + 1, 2 * FIRM_STEPS) if held else max(self._touched - 1, 0)  # pads flutter
        return self._touched >= FIRM_STEPS

    def _take(self, grip: np.ndarray, aim: Rotation, lean: Rotation = UPRIGHT) -> np.ndarray:
        """To `grip` (world, m) from above, or from above as it is after `lean`, turned like `aim`, and close there."""
        position, rotation = self._sim.gripper_pose()
        way, turn = lean.inv().apply(grip - position), (aim * rotation.inv()).as_rotvec()
        beside, above = float(np.hypot(*way[:2])), -way[2]
        if self._opening:  # fingers that come down half closed push the thing away
            self._opening -= 1
            return self._action(lean.apply(UP) if above < HOVER else np.zeros(3), turn, 0.0)
        there = beside < NEAR and abs(above) < LEVEL and np.linalg.norm(turn) < ALIGNED
        if there or (self._closing and beside < 3 * NEAR and abs(above) < 3 * LEVEL):
            self._closing += 1
            if self._closing > CLOSE_STEPS:
                self._let_go()
            return self._action(lean.apply(way), turn, 1.0)
        if self._closing:
            self._let_go()
        return self._action(lean.apply(over(way, funnel_height(beside, HOVER))), turn, 0.0)

    def _let_go(self) -> None:
        self._closing, self._touched, self._opening = 0, 0, OPEN_STEPS

    def _carry(self, way: np.ndarray, hover: float, near: float = SETTLED) -> np.ndarray:
        """What is held along `way` (m), from `hover` above where it goes; let go there."""
        beside = float(np.hypot(*way[:2]))
        if beside < near and abs(way[2]) < DROP:
            self._let_go()
            return self._release()
        upright = (HOME_ROTATION * self._sim.gripper_pose()[1].inv()).as_rotvec() * (1.0, 1.0, 0.0)
        return self._action(over(way, funnel_height(beside, hover)), upright, 1.0)

    def _release(self) -> np.ndarray:
        """Open the fingers where they are; then up."""
        self._opening -= 1
        return self._action(np.zeros(3) if self._opening > OPEN_STEPS // 2 else UP, np.zeros(3), 0.0)

    def _square(self, name: str) -> Rotation:
        """Straight down, at the nearest heading that is square to a cube's faces."""
        yaw = self._sim.turned().as_rotvec()[2]
        off = self._sim.heading(name) - yaw
        return Rotation.from_euler("z", yaw + (off + np.pi / 4) % (np.pi / 2) - np.pi / 4) * HOME_ROTATION

    def _action(self, way: np.ndarray, turn: np.ndarray, gripper: float) -> np.ndarray:
        """Both cut in length, not per axis, so that the direction survives."""
        self._away = float(np.linalg.norm(way))
        way = way * min(GAIN, MAX_TRANSLATION / max(np.abs(way).max(), 1e-9))
        turn = turn * min(1.0, TURN / max(np.abs(turn).max(), 1e-9))
        return np.array([*way, *turn, gripper], np.float32)


class LiftExpert(RobosuiteExpert[LiftEnv]):
    """Takes the cube, and up."""

    def act(self) -> np.ndarray:
        cube = "red cube"
        if self._firm(cube):
            return self._action(UP, np.zeros(3), 1.0)
        return self._take(self._sim.position(cube), self._square(cube))


class StackExpert(RobosuiteExpert[StackEnv]):
    """Takes the red cube, over the green one, down, and lets go."""

    RISE: ClassVar[float] = 0.045  # m from the green cube's centre to the red one's upon it

    def act(self) -> np.ndarray:
        red, green = self._sim.position("red cube"), self._sim.position("green cube")
        way = green + (0.0, 0.0, self.RISE) - red
        if self._firm("red cube"):
            return self._carry(way, self.RISE + CLEARANCE)
        if self._opening and np.hypot(*way[:2]) < 0.02:
            return self._release()
        return self._take(red, self._square("red cube"))


class CanExpert(RobosuiteExpert[CanEnv]):
    """Takes the can and carries it, low, over the bins' walls: its compartment is at the limit of the arms' reach."""

    SHORT: ClassVar[tuple[float, float]] = (0.06, 0.04)  # m before the compartment's middle, on the robot's side
    HOVER: ClassVar[float] = 0.14  # m above where it stands in the bin, to clear the walls

    def act(self) -> np.ndarray:
        can = self._sim.position("can")
        place = self._env.sim.destination() - (*self.SHORT, 0.0)
        place[2] = self._env.stood("can")
        if self._firm("can"):
            return self._carry(place - can, self.HOVER, near=0.02)
        if self._opening and np.hypot(*(place - can)[:2]) < 0.05:
            return self._release()
        yaw = self._sim.turned().as_rotvec()[2]
        return self._take(can + (0.0, 0.0, 0.01), Rotation.from_euler("z", np.clip(yaw, -0.3, 0.3)) * HOME_ROTATION)


class NutExpert(RobosuiteExpert[NutEnv]):
    """Takes the named nut by its handle, turns that to the robot's side, threads the nut on its peg and lets go."""

    HOVER: ClassVar[float] = 0.05  # m above the peg's top, to clear both pegs
    DEPTH: ClassVar[float] = 0.03  # m below the peg's top, where the nut is let go
    TIGHT: ClassVar[float] = 0.006  # m by which the funnel is narrower: the square nut has 7 mm to either side
    SQUARE: ClassVar[float] = 0.05  # m beside, as which one rad off counts
    WRIST: ClassVar[float] = 1.9  # rad to either side that a wrist turns

    def act(self) -> np.ndarray:
        sim, nut = self._env.sim, self._env.sim.named
        way = sim.peg(nut) - (0.0, 0.0, self.DEPTH) - sim.position(nut)
        if self._firm(nut):
            return self._thread(way, sim.rotation(nut))
        if self._opening and np.hypot(*way[:2]) < 0.02:
            return self._release()
        aim = self._along(sim.heading(nut))
        off = (aim * sim.gripper_pose()[1].inv()).magnitude()  # fingers that come down unturned land on the handle
        return self._take(sim.handle(nut) + (0.0, 0.0, funnel_height(self.SQUARE * off, HOVER)), aim)

    def _thread(self, way: np.ndarray, rotation: Rotation) -> np.ndarray:
        """The nut, turned like `rotation`, along `way` (m), over its peg and down."""
        turn = (self._threaded(rotation) * rotation.inv()).as_rotvec()
        beside = float(np.hypot(*way[:2]))
        if beside < SETTLED and abs(way[2]) < DROP:
            self._let_go()
            return self._release()
        height = funnel_height(beside + self.TIGHT + self.SQUARE * abs(turn[2]), self.HOVER + self.DEPTH)
        return self._action(over(way, height), turn, 1.0)

    def _along(self, heading: float) -> Rotation:
        """Straight down, the fingers on either side of the handle; best with that on the robot's side of the hand."""
        yaw = _wrap(heading + np.pi)
        return Rotation.from_euler("z", yaw if abs(yaw) < self.WRIST else _wrap(heading)) * HOME_ROTATION

    def _threaded(self, rotation: Rotation) -> Rotation:
        """The nut's on its peg: its handle on the robot's side, or sideways where the hand holds it the other way."""
        held = self._sim.turned().inv() * rotation
        inward = held.apply((1.0, 0.0, 0.0))[0] < 0
        return Rotation.from_euler("z", np.pi if inward else np.copysign(np.pi / 2, self._sim.turned().as_rotvec()[2]))


class DoorExpert(RobosuiteExpert[DoorEnv]):
    """Grips the handle, leaning towards the door, turns it and pulls along the door's arc."""

    LEAN: ClassVar[float] = 0.3  # rad
    UNLOCKED: ClassVar[float] = 1.2  # rad from which the handle lets the door go
    STEP: ClassVar[float] = 0.05  # m ahead along the arcs, for which the hand aims
    DOWN: ClassVar[float] = 0.008  # m that it bears down as it pulls: the handle is sprung

    def act(self) -> np.ndarray:
        sim, aim = self._env.sim, self._aim()
        if not self._firm("handle"):
            return self._take(sim.position("handle"), aim, self._lean())
        position, rotation = sim.gripper_pose()
        turn = (aim * rotation.inv()).as_rotvec()
        turning = _unit(np.cross(position - sim.latch_axis(), sim.outward()))
        turning *= -np.sign(turning[2])  # down, from wherever on its arc the handle is
        if sim.latch() < self.UNLOCKED and sim.hinge() < AJAR:
            return self._action(self.STEP * turning, turn, 1.0)
        pulling = _unit(np.cross((0.0, 0.0, 1.0), position - sim.hinge_axis()))
        return self._action(self.STEP * pulling - (0.0, 0.0, self.DOWN), turn, 1.0)

    def _aim(self) -> Rotation:
        """One finger before the handle and one behind, leaning towards the door."""
        outward = self._env.sim.outward()
        yaw = np.arctan2(outward[1], outward[0]) - np.pi / 2  # at home the fingers close along the world's y
        return self._lean() * Rotation.from_euler("z", (yaw + np.pi / 2) % np.pi - np.pi / 2) * HOME_ROTATION

    def _lean(self) -> Rotation:
        return Rotation.from_rotvec(self.LEAN * np.cross((0.0, 0.0, 1.0), self._env.sim.outward()))


def _wrap(angle: float) -> float:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


EXPERTS: dict[type[RobosuiteEnv], type[RobosuiteExpert]] = {
    LiftEnv: LiftExpert,
    StackEnv: StackExpert,
    CanEnv: CanExpert,
    NutEnv: NutExpert,
    DoorEnv: DoorExpert,
}
