"""The tasks by name: which environment they are, and which seeds they may use.

Robot tasks (`pick`, `pick-moved-camera`) are one environment in different rooms. Question tasks (`questions`, `drawn`)
have scenes and questions but nothing to move, see `question_sets.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from aegis_sim.env import PickEnv

IMAGE_SIZE = 96
"""Pixels on a side of every camera image, of robot and question tasks alike: what aegis-tiny reads."""
QUESTION_TASKS = ("questions", "drawn")
ROBOT_TASKS = ("pick", "pick-moved-camera")
_SPLITS = {"record": 0, "eval": 1}


def episode_seed(split: str, seed: int, index: int) -> int:
    """Seed of episode `index` of a recording ("record") or an evaluation ("eval") that was started with `seed`.

    The last bit tells the splits apart, so nothing that is evaluated was ever recorded, whatever the two seeds are.

    Raises:
        ValueError: an unknown split, or a negative seed or index.
    """
    if split not in _SPLITS:
        raise ValueError(f"split '{split}': expected one of {', '.join(_SPLITS)}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed {seed}, index {index}: neither may be negative")
    drawn = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)
    return int(drawn[0] >> 2) * 2 + _SPLITS[split]


def environment_options(task: str) -> dict[str, Any]:
    """Keyword arguments of `PickEnv` that make it this task.

    Raises:
        ValueError: not a robot task.
    """
    from aegis_sim.tabletop import CameraView, Look

    if task == "pick":
        return {}
    if task == "pick-moved-camera":
        # 35 degrees around the table's middle, a little lower, and another table: what a policy trained on `pick` has
        # never seen, though a person would hardly hesitate.
        moved = CameraView(position=(0.42, 0.30, 1.24), target=(-0.01, 0.0, 0.85), fovy=38.0)
        return {"look": Look(front=moved, table_texture="light-wood")}
    raise ValueError(f"task '{task}': expected one of {', '.join(ROBOT_TASKS)} to move the robot")


def make(task: str, **options: Any) -> PickEnv:
    """The environment of a robot task; `options` are further keyword arguments of `PickEnv`."""
    from aegis_sim.env import PickEnv

    return PickEnv(**environment_options(task), **options)
