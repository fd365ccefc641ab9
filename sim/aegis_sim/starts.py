"""Where a demonstration begins, other than at home: somewhere on the way, or where a policy has got to.

The first makes more scenes per minute. The second shows what no expert would get into: demonstrations from the states
of the policy that is being taught (as in DAgger, Ross, Gordon and Bagnell, AISTATS 2011, with the expert driving on).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from aegis_policy import Policy
from aegis_sim.arm import HOME_ROTATION
from aegis_sim.driving import action_seed, for_policy
from aegis_sim.expert import Expert, funnel_height
from aegis_sim.goals import Kind
from aegis_sim.table_env import TableEnv

CARRYING = 0.5  # share of the short demonstrations of placing that begin with the object in the hand
TAKEOVER_STEPS: dict[Kind, int] = {"pick": 16, "place-on": 90, "place-beside": 90}
"""Control steps within which an expert takes over. Placing may go wrong and be tried again: nearly a whole episode."""
REPLAN_EVERY = 4


def drive(
    env: TableEnv, policy: Policy, observation: dict[str, Any], seed: int, *, until: int
) -> dict[str, Any] | None:
    """Let the policy drive from `observation` for `until` control steps; returns what is seen then, None if it is done.

    The episode's count of steps begins anew.
    """
    chunk: list[np.ndarray] = []
    for step in range(until):
        if step % REPLAN_EVERY == 0:
            seen = for_policy(policy.info, observation, env.instruction, step / env.control_hz)
            chunk = list(policy.act(seen, seed=action_seed(seed, step)).actions)
        observation, _, terminated, _, _ = env.step(chunk.pop(0))
        if terminated:
            return None
    env.begin()
    return observation


def start_on_the_way(env: TableEnv, expert: Expert, rng: np.random.Generator) -> None:
    """Put the arm, without physics, somewhere on the way: with nothing in the hand, or carrying the target."""
    carrying = env.kind != "pick" and rng.random() < CARRYING
    start = _in_the_hand if carrying else _towards_something
    while not start(env, expert, rng):
        pass
    env.begin()


def _towards_something(env: TableEnv, expert: Expert, rng: np.random.Generator) -> bool:
    """Between home and an object, touching nothing; returns whether the arm could get there."""
    table = env.table
    aim = env.target if rng.random() < 0.6 else int(rng.integers(len(table.primitives)))
    offset = rng.normal(size=2) * rng.choice([0.01, 0.03, 0.08])
    lowest = funnel_height(float(np.hypot(*offset))) if aim == env.target else 0.06
    height = lowest + abs(rng.normal() * 0.05)
    opening = 0.08 if rng.random() < 0.85 else rng.uniform(0.0, 0.08)  # sometimes after a failed grasp
    place = table.position(aim) + np.array([*offset, height])
    return table.set_arm(place, _tilt(rng) * HOME_ROTATION, opening) < 1e-3 and not table.touching()


def _in_the_hand(env: TableEnv, expert: Expert, rng: np.random.Generator) -> bool:
    """With the target in the hand, between where it stood and its place; returns whether it is held, and alone."""
    table = env.table
    table.dress(table.primitives)
    others = [i for i in range(len(table.primitives)) if i != env.target]
    before = [table.position(i) for i in others]
    offset = rng.normal(size=2) * rng.choice([0.01, 0.03, 0.10])
    height = funnel_height(float(np.hypot(*offset)), expert.hover()) + abs(rng.normal() * 0.03)
    place = env.place() + np.array([*offset, height])
    if table.set_arm(place, _tilt(rng) * HOME_ROTATION) > 1e-3 or not table.grasp(env.target):
        return False
    return all(np.linalg.norm(table.position(i) - at) < 0.002 for i, at in zip(others, before, strict=True))


def _tilt(rng: np.random.Generator) -> Rotation:
    return Rotation.from_rotvec([*rng.normal(size=2) * 0.04, rng.uniform(-1.0, 1.0)])
