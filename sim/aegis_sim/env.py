"""Pick up the named object: the tabletop as a gymnasium environment, in SI units, at 10 Hz.

Observation: the front and the wrist camera (uint8 [S, S, 3], the right way up) and `STATE_FEATURES`; action:
`ACTION_FEATURES`, a displacement of the gripper in the robot's base frame over one control step, which robosuite's
operational-space controller follows with the lag of a real arm. The episode is a function of the seed alone, bit by
bit, in whatever instance or process it is played.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from scipy.spatial.transform import Rotation

from aegis_policy import Feature
from aegis_sim.questions import Scene, SceneObject, instruction
from aegis_sim.tabletop import FRONT, HOME_POSITION, HOME_ROTATION, WRIST, Look, Tabletop, random_primitives
from aegis_sim.tasks import IMAGE_SIZE

CONTROL_HZ = 10
CAMERAS = {"front": FRONT, "wrist": WRIST}  # our name -> MuJoCo's
MAX_STEPS = 60
LIFT_HEIGHT = 0.04  # m above where it stood
LIFT_SHOWN = 0.02  # m: from here on a picture shows that an object is held, and not just stood around by fingers
GRASP_CLEAR = 0.10  # m: with no object nearer to the fingers, a picture shows that they are empty
SETTLE_STEPS = 2
MAX_TRANSLATION, MAX_ROTATION = 0.05, 0.5  # m and rad per control step: robosuite's own limits

STATE_FEATURES = (
    *(Feature(name, "m") for name in ("x", "y", "z")),
    *(Feature(name, "rad") for name in ("rx", "ry", "rz")),
    Feature("opening", "m"),
)
"""Gripper site in the robot's base frame; its rotation vector relative to pointing straight down at home; fingers."""
ACTION_FEATURES = (
    *(Feature(name, "m") for name in ("dx", "dy", "dz")),
    *(Feature(name, "rad") for name in ("drx", "dry", "drz")),
    Feature("gripper", "1"),
)
"""Base frame, one control step; the gripper closes from 0.5 up and opens below."""

_SCALE = np.array([MAX_TRANSLATION] * 3 + [MAX_ROTATION] * 3)
_START_SPREAD = np.array([0.07, 0.11, 0.05])  # m to either side of home
_START_TURN = np.array([0.03, 0.03, 0.2])  # rad


class PickEnv(gym.Env[dict[str, Any], np.ndarray]):
    """`reset` draws one to four objects, their places and headings, the target and the arm's start from the seed.

    The episode terminates with success, when the named object is LIFT_HEIGHT above where it stood, and is truncated
    after `max_steps`. The reward is 1 on success, else 0.

    `info` of reset and step: "instruction", "target" (index of the object named), "success", "lifted" (index of the
    first object lifted, or None), and at the end of an episode "right_object": whether the first object lifted is the
    target or, when none was, whether the hand was nearest to the target as it first closed (or at the end).

    Args:
        look: the room; the nominal one by default.
        image_size: S, pixels.
        cameras: names out of CAMERAS; fewer are faster, none leaves the state alone.
        max_steps: control steps until truncation.
        render_mode: "rgb_array" or None.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012 (gymnasium's)
    action_space: spaces.Box

    def __init__(
        self,
        look: Look | None = None,
        image_size: int = IMAGE_SIZE,
        cameras: tuple[str, ...] = tuple(CAMERAS),
        max_steps: int = MAX_STEPS,
        render_mode: str | None = None,
    ) -> None:
        self.look = look or Look()
        self.image_size = image_size
        self.cameras = cameras
        self.max_steps = max_steps
        self.render_mode = render_mode
        self.table = Tabletop(CONTROL_HZ)
        self.target = 0
        image = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        reach = np.array([2.0] * 3 + [np.pi] * 3 + [0.1], np.float32)
        state = spaces.Box(-reach, reach, dtype=np.float32)
        self.observation_space = spaces.Dict({"images": spaces.Dict(dict.fromkeys(cameras, image)), "state": state})
        limits = np.array([*_SCALE, 1.0], np.float32)
        self.action_space = spaces.Box(np.array([*-_SCALE, 0.0], np.float32), limits, dtype=np.float32)

    # -- gymnasium -----------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        rng = self.np_random
        self.table.reset()
        self.table.set_look(self.look)
        self.table.dress(random_primitives(rng))
        self.target = int(rng.integers(len(self.table.primitives)))
        position = HOME_POSITION + rng.uniform(-1, 1, 3) * _START_SPREAD
        turn = Rotation.from_rotvec(rng.uniform(-1, 1, 3) * _START_TURN)
        self.table.set_arm(position, turn * HOME_ROTATION)
        for _ in range(SETTLE_STEPS):  # always as many: the same seed must give the same episode
            self._advance(np.zeros(len(ACTION_FEATURES)))
        self.begin()
        return self.observe(), self._info(ended=False)

    def begin(self) -> None:
        """Start counting steps and watching heights from the scene as it is now."""
        self.steps = 0
        self.success = False
        self.lifted: int | None = None
        self._closed_on: int | None = None
        self._start_heights = [self.table.position(i)[2] for i in range(len(self.table.primitives))]

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action: expected {len(ACTION_FEATURES)} finite numbers, got {action!r}")
        self._advance(action)
        self.steps += 1
        if action[6] >= 0.5 and self._closed_on is None:
            self._closed_on = self._nearest()
        if self.lifted is None:
            self.lifted = next((i for i in range(len(self._start_heights)) if self._height(i) > LIFT_HEIGHT), None)
        self.success = self.success or self._height(self.target) > LIFT_HEIGHT
        truncated = not self.success and self.steps >= self.max_steps
        info = self._info(ended=self.success or truncated)
        return self.observe(), float(self.success), self.success, truncated, info

    def render(self) -> np.ndarray | None:
        """The front camera at four times the observation's size, uint8 [4S, 4S, 3]."""
        if self.render_mode != "rgb_array":
            return None
        return self.table.render_camera_image(FRONT, 4 * self.image_size)

    def close(self) -> None:
        self.table.close()

    # -- what else one may want to know --------------------------------------------------------------------------

    def observe(self) -> dict[str, Any]:
        """The observation of this instant."""
        images = {name: self.table.render_camera_image(CAMERAS[name], self.image_size) for name in self.cameras}
        return {"images": images, "state": self.state()}

    def state(self) -> np.ndarray:
        """float32 [7], see STATE_FEATURES."""
        position, rotation = self.table.gripper_pose()
        turned = (rotation * HOME_ROTATION.inv()).as_rotvec()
        place = position - self.table.base_position()
        return np.concatenate([place, turned, [self.table.opening()]]).astype(np.float32)

    @property
    def instruction(self) -> str:
        target = self.table.primitives[self.target]
        return instruction(target.colour, target.shape)

    def scene(self, camera: str = "front") -> Scene:
        """What `camera` shows at this instant, with the truth about it; needs a rendering of its own (5 ms)."""
        name = CAMERAS[camera]
        owners = self.table.segment(name, self.image_size)
        shares = [float((owners == index).mean()) for index in range(len(self.table.primitives))]
        objects = []
        for index, (item, share) in enumerate(zip(self.table.primitives, shares, strict=True)):
            u, v = self.table.project(self.table.position(index), name) if share else (0.0, 0.0)
            objects.append(SceneObject(item.colour, item.shape, u, v, share))
        held = next((i for i in range(len(objects)) if self.table.held(i)), None)
        return Scene(tuple(objects), held, gripper=self._shows_grasp(name, held), upright=camera == "front")

    def _shows_grasp(self, camera: str, held: int | None) -> bool:
        """Whether an image tells what the gripper holds: not while the fingers are around what still stands."""
        hand = self.table.gripper_pose()[0]
        u, v = self.table.project(hand, camera)
        if not (0 < u < 1 and 0 < v < 1):
            return False
        if held is not None:
            return self._height(held) > LIFT_SHOWN
        places = [self.table.position(i) for i in range(len(self.table.primitives))]
        return bool(np.linalg.norm(np.subtract(places, hand), axis=1).min() > GRASP_CLEAR)

    def _advance(self, action: np.ndarray) -> None:
        """One control step of an SI action, within the limits."""
        motion = np.clip(action[:6] / _SCALE, -1.0, 1.0)
        self.table.step(np.append(motion, 1.0 if action[6] >= 0.5 else -1.0))

    def _height(self, index: int) -> float:
        return float(self.table.position(index)[2] - self._start_heights[index])

    def _nearest(self) -> int:
        gripper = self.table.gripper_pose()[0]
        places = [self.table.position(i) for i in range(len(self.table.primitives))]
        return int(np.argmin(np.linalg.norm(np.subtract(places, gripper), axis=1)))

    def _info(self, ended: bool) -> dict[str, Any]:
        info: dict[str, Any] = {
            "instruction": self.instruction,
            "target": self.target,
            "success": self.success,
            "lifted": self.lifted,
        }
        if ended:
            chosen = next(i for i in (self.lifted, self._closed_on, self._nearest()) if i is not None)
            info["right_object"] = chosen == self.target
        return info


gym.register("aegis/Pick-v0", entry_point="aegis_sim.env:PickEnv")
