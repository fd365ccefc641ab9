"""The expert picks things up, from anywhere, at any heading, and leaves the rest alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from aegis_sim import tasks
from aegis_sim.arm import HOME_ROTATION
from aegis_sim.expert import Expert
from aegis_sim.goals import Goal
from aegis_sim.scenery import Primitive
from aegis_sim.table_env import TableEnv
from aegis_sim.tabletop import HOME_POSITION

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def env() -> Iterator[TableEnv]:
    made = tasks.make("pick", cameras=())
    yield made
    made.close()


def finish(env: TableEnv) -> dict:
    """Let the expert act to the end of the episode."""
    expert, ended, info = Expert(env), False, {}
    while not ended:
        action = expert.act()
        assert env.action_space.contains(action)
        *_, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    return info


def succeeded(env: TableEnv, seeds: range) -> list[bool]:
    outcomes = []
    for seed in seeds:
        env.reset(seed=seed)
        others = [i for i in range(len(env.table.primitives)) if i != env.target]
        before = [env.table.position(i) for i in others]
        outcomes.append(finish(env)["success"])
        for start, index in zip(before, others, strict=True):
            assert np.linalg.norm(env.table.position(index) - start) < 0.03, f"seed {seed}: knocked a neighbour away"
    return outcomes


def test_succeeds_on_a_dozen_seeds(env: TableEnv) -> None:
    assert sum(succeeded(env, range(1000, 1012))) >= 11


@pytest.mark.slow
@pytest.mark.parametrize("task", tasks.ROBOT_TASKS)
def test_succeeds_on_ninety_five_of_a_hundred_seeds(task: str) -> None:
    env = tasks.make(task, cameras=())
    assert sum(succeeded(env, range(100))) >= 95
    env.close()


@pytest.mark.parametrize("yaw", [-2.5, -0.7, 0.1, 0.75])
def test_takes_a_cube_square_to_its_faces(env: TableEnv, yaw: float) -> None:
    env.reset(seed=0)
    env.table.dress([Primitive("red", "cube", 0.03, 0.05, yaw)])
    env.goal = Goal("pick", 0, "pick up the {a}")
    env.begin()
    assert finish(env)["success"]
    fingers = env.table.gripper_pose()[1].as_matrix()[:, 1]
    off = np.arctan2(fingers[1], fingers[0]) - env.table.heading(0)
    assert abs((off + np.pi / 4) % (np.pi / 2) - np.pi / 4) < 0.15
    turned = abs((env.table.heading(0) - yaw + np.pi) % (2 * np.pi) - np.pi)
    assert turned < 0.2, "the cube had to turn to fit the hand"


def test_opens_and_tries_again_after_closing_on_nothing(env: TableEnv) -> None:
    env.reset(seed=3)
    env.table.set_arm(np.add(HOME_POSITION, (0.0, 0.0, -0.05)), HOME_ROTATION, opening=0.0)
    assert Expert(env).act()[6] == 0.0
    assert finish(env)["success"]


def test_goes_on_after_the_object_was_moved(env: TableEnv) -> None:
    env.reset(seed=4)
    env.table.dress([Primitive("blue", "cylinder", 0.05, 0.1)])
    env.goal = Goal("pick", 0, "pick up the {a}")
    env.begin()
    expert = Expert(env)
    for _ in range(5):
        env.step(expert.act())
    env.table.dress([Primitive("blue", "cylinder", -0.08, -0.1)])
    assert finish(env)["success"]
