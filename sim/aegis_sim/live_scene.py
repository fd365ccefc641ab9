"""What a robot in real time stands in: a task's environment without an end, looked at by people too."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from aegis_sim import tasks
from aegis_sim.arm import FRONT
from aegis_sim.env import ACTION_FEATURES, STATE_FEATURES
from aegis_sim.film import encode_png
from aegis_sim.goals import find_goal, possible_goals
from aegis_sim.table_env import TableEnv

SCENE_PX = 352  # side of the picture for people, of the camera "scene": the front camera's, larger
SCENE_QUALITY = 85  # of its JPEG
SETTLE_STEPS = 10  # control steps that things are given to come to rest; then time stands still until something is done
MIN_THINGS = 3
_STILL = np.zeros(len(ACTION_FEATURES))


class LiveScene:
    """One scene after another, each until `draw`.

    Attributes:
        observation: of this instant, as `ArmEnv` gives it.
        success: whether what was asked for is done; None for a request that the simulator cannot judge.
    """

    def __init__(self, task: str, seed: int) -> None:
        self.task, self.env = task, tasks.make(task)
        self._seed, self._index = seed, 0
        self._kind = self.env.kind if isinstance(self.env, TableEnv) else None
        self.draw()

    def draw(self) -> None:
        """The next scene; on a table, one with something to choose from."""
        if isinstance(self.env, TableEnv) and self._kind:
            self.env.kind = self._kind
        while True:
            seed = tasks.episode_seed("eval", self._seed, self._index)
            self._index += 1
            self.observation, info = self.env.reset(seed=seed)
            if not isinstance(self.env, TableEnv) or len(self.env.table.primitives) >= MIN_THINGS:
                break
        self._own_instruction = info["instruction"]
        self._suggestions = self._suggest()
        self.success: bool | None = None
        self._hand = 0.0
        self._left = 0
        self._frames: dict[str, bytes] | None = None

    def begin(self, instruction: str) -> None:
        """From now on, judge by `instruction`."""
        known = instruction.strip().lower() == self._own_instruction.lower()
        if isinstance(self.env, TableEnv):
            goal = find_goal(instruction, self.env.table.primitives)
            known = goal is not None
            if goal:
                self.env.kind, self.env.goal = goal.kind, goal
        self.env.begin()
        self.success = False if known else None

    def move(self, action: np.ndarray) -> None:
        """One control step of an action [7]. Raises ValueError for one that is not finite."""
        self.observation, _, _, _, info = self.env.step(action)
        if self.success is not None:
            self.success = bool(info["success"])
        self._hand, self._left, self._frames = float(action[-1]), SETTLE_STEPS, None

    def hold(self) -> None:
        """One control step of standing still, the hand as it was."""
        if self._left:
            self._left -= 1
            self.env.advance(np.append(_STILL[:-1], self._hand))
            self.observation, self._frames = self.env.observe(), None

    def frames(self) -> dict[str, bytes]:
        """Camera -> file: what the policy sees as PNG, without loss, and a larger picture for people."""
        if self._frames is None:
            scene = io.BytesIO()
            picture = Image.fromarray(self.env.arm.render_camera_image(FRONT, SCENE_PX))
            picture.save(scene, "JPEG", quality=SCENE_QUALITY)
            seen = {name: encode_png(image) for name, image in self.observation["images"].items()}
            self._frames = {"scene": scene.getvalue(), **seen}
        return self._frames

    def describe(self, horizon: int) -> dict[str, Any]:
        """What a robot in this scene with chunks of `horizon` actions says of itself; see the server's `/v1/robot`."""
        sizes = {"scene": SCENE_PX, **dict.fromkeys(self.env.cameras, self.env.image_size)}
        return {
            "name": f"simulated Panda, {self.task}",
            "cameras": [{"name": name, "height": size, "width": size} for name, size in sizes.items()],
            "state": [{"name": feature.name, "unit": feature.unit} for feature in STATE_FEATURES],
            "actions": [{"name": feature.name, "unit": feature.unit} for feature in ACTION_FEATURES],
            "horizon": horizon,
            "control_hz": float(self.env.control_hz),
            "instructions": self._suggestions,
        }

    def close(self) -> None:
        self.env.close()

    def _suggest(self) -> list[str]:
        """What can be asked for; this scene's own instruction first, things of the same kind next."""
        if not isinstance(self.env, TableEnv):
            return [self._own_instruction]
        primitives = self.env.table.primitives
        own = replace(self.env.goal, wording="")
        goals = [goal for goal in possible_goals(primitives, self.env.split.look) if replace(goal, wording="") != own]
        goals.sort(key=lambda goal: goal.kind != own.kind)
        return [self._own_instruction, *(goal.instruction(primitives) for goal in goals)]
