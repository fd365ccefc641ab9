"""The tasks by name: which environment they are, and which seeds they may use.

Robot tasks have something to move; `splits.py` says how an evaluation of one may differ from its demonstrations.
Question tasks (`questions`, `drawn`) have scenes and questions but nothing to move, see `question_sets.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from aegis_sim.table_env import TableEnv

IMAGE_SIZE = 96
"""Pixels on a side of every camera image, of robot and question tasks alike: what aegis-tiny reads."""
QUESTION_TASKS = ("questions", "drawn")
TABLE_TASKS = ("pick", "place-on", "place-beside")
ROBOT_TASKS = TABLE_TASKS
_USES = {"record": 0, "eval": 1}


def episode_seed(use: str, seed: int, index: int) -> int:
    """Seed of episode `index` of a recording ("record") or an evaluation ("eval") that was started with `seed`.

    The last bit tells the two apart, so nothing that is evaluated was ever recorded, whatever the two seeds are.

    Raises:
        ValueError: an unknown use, or a negative seed or index.
    """
    if use not in _USES:
        raise ValueError(f"use '{use}': expected one of {', '.join(_USES)}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed {seed}, index {index}: neither may be negative")
    drawn = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)
    return int(drawn[0] >> 2) * 2 + _USES[use]


def make(task: str, split: str = "seen", **options: Any) -> TableEnv:
    """The environment of a robot task; `options` are further keyword arguments of its class.

    Raises:
        ValueError: not a robot task, or an unknown split.
    """
    if task not in ROBOT_TASKS:
        raise ValueError(f"task '{task}': expected one of {', '.join(ROBOT_TASKS)} to move the robot")
    from aegis_sim.table_env import TableEnv

    return TableEnv(task, split, **options)  # type: ignore[arg-type]
