"""An arm and a job for it as a gymnasium environment, in SI units.

Observation: the front and the wrist camera (uint8 [S, S, 3], the right way up) and `STATE_FEATURES`; action:
`ACTION_FEATURES`, a displacement of the gripper in the robot's base frame over one control step, which robosuite's
operational-space controller follows with the lag of a real arm. The episode is a function of the seed alone, bit by
bit, in whatever instance or process it is played.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from aegis_policy import Feature
from aegis_sim.arm import FRONT, HOME_ROTATION, WRIST, ArmSim
from aegis_sim.questions import Question

CAMERAS = {"front": FRONT, "wrist": WRIST}  # our name -> MuJoCo's
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


class ArmEnv(gym.Env[dict[str, Any], np.ndarray], ABC):
    """What all tasks share: spaces, units, cameras, counting steps and ending.

    An episode terminates with success and is truncated after `max_steps`. The reward is 1 on success, else 0. `info` of
    reset and step has "instruction" and "success"; when an episode has ended without success, "failure" says in words
    what went wrong; a task adds what else it knows.

    Args:
        arm: the robosuite environment; closed with this one.
        control_hz: its rate.
        image_size: S, pixels.
        cameras: names out of CAMERAS; fewer are faster, none leaves the state alone.
        max_steps: control steps until truncation.
        render_mode: "rgb_array" or None.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's)
    action_space: spaces.Box

    def __init__(
        self,
        arm: ArmSim,
        *,
        control_hz: float,
        image_size: int,
        cameras: tuple[str, ...],
        max_steps: int,
        render_mode: str | None,
    ) -> None:
        if unknown := set(cameras) - set(CAMERAS):
            raise ValueError(f"cameras: no '{min(unknown)}' here; there are {', '.join(CAMERAS)}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode: '{render_mode}' is not one of {self.metadata['render_modes']}")
        self.arm = arm
        self.control_hz = control_hz
        self.metadata = {**self.metadata, "render_fps": control_hz}
        self.image_size = image_size
        self.cameras = cameras
        self.max_steps = max_steps
        self.render_mode = render_mode
        self.steps, self.success = 0, False
        image = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        reach = np.array([2.0] * 3 + [np.pi] * 3 + [0.2], np.float32)
        state = spaces.Box(-reach, reach, dtype=np.float32)
        self.observation_space = spaces.Dict({"images": spaces.Dict(dict.fromkeys(cameras, image)), "state": state})
        limits = np.array([*_SCALE, 1.0], np.float32)
        self.action_space = spaces.Box(np.array([*-_SCALE, 0.0], np.float32), limits, dtype=np.float32)

    # -- what a task says ----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def instruction(self) -> str:
        """What this episode's robot is told."""

    @abstractmethod
    def _draw(self, rng: np.random.Generator) -> None:
        """Set up an episode; all its randomness comes from `rng`."""

    @abstractmethod
    def _done(self, action: np.ndarray) -> bool:
        """Whether the job is done, after `action`; called once a step."""

    @abstractmethod
    def questions(self, rng: np.random.Generator) -> list[Question]:
        """Everything that can be asked about the front image at this instant, with the true answers."""

    def _facts(self, ended: bool) -> Mapping[str, Any]:
        """What else goes into `info`; at the end of an episode that failed, with "failure"."""
        return {"failure": "not done in time"} if ended and not self.success else {}

    def begin(self) -> None:
        """Start counting steps and watching from the scene as it is now."""
        self.steps, self.success = 0, False

    # -- gymnasium -----------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._draw(self.np_random)
        self.begin()
        return self.observe(), self._info(ended=False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        terminated, truncated, info = self.move(action)
        return self.observe(), float(terminated), terminated, truncated, info

    def render(self) -> np.ndarray | None:
        """The front camera at four times the observation's size, uint8 [4S, 4S, 3]."""
        if self.render_mode != "rgb_array":
            return None
        return self.arm.render_camera_image(FRONT, 4 * self.image_size)

    def close(self) -> None:
        self.arm.close()

    # -- what else one may want to know --------------------------------------------------------------------------

    def observe(self) -> dict[str, Any]:
        """The observation of this instant."""
        images = {name: self.arm.render_camera_image(CAMERAS[name], self.image_size) for name in self.cameras}
        return {"images": images, "state": self.state()}

    def state(self) -> np.ndarray:
        """float32 [7], see STATE_FEATURES."""
        position, rotation = self.arm.gripper_pose()
        turned = (rotation * HOME_ROTATION.inv()).as_rotvec()
        place = position - self.arm.base_position()
        return np.concatenate([place, turned, [self.arm.opening()]]).astype(np.float32)

    def move(self, action: np.ndarray) -> tuple[bool, bool, dict[str, Any]]:
        """A `step` without its pictures, which take longer than the motion; returns terminated, truncated and info."""
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"action: expected {len(ACTION_FEATURES)} finite numbers, got {action!r}")
        self.advance(action)
        info = self.count(action)
        return self.success, not self.success and self._out_of_time(), info

    def advance(self, action: np.ndarray) -> None:
        """One control step of an SI action [7], within the limits; counts for nothing."""
        motion = np.clip(action[:6] / _SCALE, -1.0, 1.0)
        self.arm.step(np.append(motion, 1.0 if action[6] >= 0.5 else -1.0))

    def count(self, action: np.ndarray) -> dict[str, Any]:
        """Judge a control step that has just been made, whoever moved the arm; returns what `step` calls `info`.

        Args:
            action: what was done [7]; only the gripper's part is looked at.
        """
        self.steps += 1
        self.success = self._done(action) or self.success
        return self._info(ended=self.success or self._out_of_time())

    def _out_of_time(self) -> bool:
        return self.steps >= self.max_steps

    def _info(self, ended: bool) -> dict[str, Any]:
        return {"instruction": self.instruction, "success": self.success, **self._facts(ended)}
