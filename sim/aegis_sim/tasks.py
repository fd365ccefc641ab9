"""The tasks by name: which environment they are, and which seeds they may use.

Robot tasks have something to move. Those on the tabletop have splits, see `splits.py`: ways in which an evaluation may
differ from the demonstrations. The others are robosuite's own, with any of four arms (`make(task, robot="UR5e")`).
Question tasks (`questions`, `drawn`) have scenes and questions but nothing to move, see `question_sets.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from aegis_sim.env import ArmEnv
    from aegis_sim.expert import ScriptedExpert

IMAGE_SIZE = 96
"""Pixels on a side of every camera image, of robot and question tasks alike: what aegis-tiny reads."""
QUESTION_TASKS = ("questions", "drawn")
TABLE_TASKS = ("pick", "place-on", "place-beside")
ROBOSUITE_TASKS = ("lift", "stack", "can", "nut", "door")
ROBOT_TASKS = TABLE_TASKS + ROBOSUITE_TASKS
Robot = Literal["Panda", "UR5e", "IIWA", "Sawyer"]
"""The arms that robosuite's own tasks come with; the tabletop's is a Panda."""
ENVIRONMENTS: dict[str, str] = {
    "pick": "aegis/Pick-v0",
    "place-on": "aegis/PlaceOn-v0",
    "place-beside": "aegis/PlaceBeside-v0",
    "lift": "aegis/Lift-v0",
    "stack": "aegis/Stack-v0",
    "can": "aegis/PickPlaceCan-v0",
    "nut": "aegis/NutAssembly-v0",
    "door": "aegis/Door-v0",
}
"""Robot task -> gymnasium's name of its environment, once `table_env` and `robosuite_envs` have been imported."""
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


def check_split(task: str, split: str) -> None:
    """Raise ValueError unless that robot task has that split."""
    from aegis_sim.splits import split_named

    split_named(split)
    if split != "seen" and task not in TABLE_TASKS:
        raise ValueError(f"split '{split}': the task '{task}' has the split 'seen' alone")


def make(task: str, split: str = "seen", **options: Any) -> ArmEnv:
    """The environment of a robot task; `options` are further keyword arguments of its class.

    Raises:
        ValueError: not a robot task, an unknown split, or one that the task does not have.
    """
    if task not in ROBOT_TASKS:
        raise ValueError(f"task '{task}': expected one of {', '.join(ROBOT_TASKS)} to move the robot")
    check_split(task, split)
    if task in TABLE_TASKS:
        from aegis_sim.table_env import TableEnv

        return TableEnv(task, split, **options)  # type: ignore[arg-type]
    from aegis_sim.robosuite_envs import TASKS

    return TASKS[task](**options)


def expert(env: ArmEnv) -> ScriptedExpert:
    """The scripted expert of an environment that `make` made; call its `reset` after the environment's.

    Raises:
        ValueError: an environment that nobody wrote an expert for.
    """
    from aegis_sim.expert import Expert
    from aegis_sim.robosuite_experts import EXPERTS
    from aegis_sim.table_env import TableEnv

    if isinstance(env, TableEnv):
        return Expert(env)
    for kind, made in EXPERTS.items():
        if isinstance(env, kind):
            return made(env)
    raise ValueError(f"no expert for {type(env).__name__}")
