"""robosuite's own tasks: what they promise gymnasium, that a seed is an episode, and that all they say is true."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import get_args

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from aegis_policy import ActionChunk, Camera, Observation, PolicyInfo
from aegis_sim import tasks
from aegis_sim.arm import FRONT
from aegis_sim.env import ACTION_FEATURES, STATE_FEATURES
from aegis_sim.evaluate import evaluate
from aegis_sim.questions import NOTHING, WHAT_HELD
from aegis_sim.robosuite_envs import IS_OPEN, CanEnv, DoorEnv, LiftEnv, NutEnv, RobosuiteEnv, StackEnv
from aegis_sim.robosuite_sims import CONTROL_HZ

pytestmark = pytest.mark.sim

ROOT = Path(__file__).parents[2]
ROBOTS = get_args(tasks.Robot)
UNABLE = {("door", "UR5e"), ("door", "IIWA"), ("door", "Sawyer"), ("stack", "UR5e"), ("can", "IIWA")}
"""They lose the door's handle more often than not; stack and can miss ninety, see benchmarks/results/arena.json."""
UNTRIED = {("nut", "UR5e"), ("nut", "IIWA"), ("nut", "Sawyer")}
ABLE = [(task, robot) for task in tasks.ROBOSUITE_TASKS for robot in ROBOTS if (task, robot) not in UNABLE | UNTRIED]
SEED = 11


@pytest.fixture(scope="module")
def envs() -> Iterator[dict[str, RobosuiteEnv]]:
    """One of each, with cameras."""
    made = {task: tasks.make(task) for task in tasks.ROBOSUITE_TASKS}
    yield made
    for env in made.values():
        env.close()


def play(env: RobosuiteEnv, seed: int, steps: int = 6) -> list[str]:
    """A digest of everything observed at each step."""
    actions = np.random.default_rng(0).uniform(env.action_space.low, env.action_space.high, (steps, 7))
    seen = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
    return [
        hashlib.sha256(b"".join([*map(bytes, one["images"].values()), bytes(one["state"])])).hexdigest() for one in seen
    ]


def finish(env: RobosuiteEnv, seed: int) -> dict:
    """Let the expert act to the end of the episode."""
    info = env.reset(seed=seed)[1]
    expert, ended = tasks.expert(env), False
    while not ended:
        action = expert.act()
        assert env.action_space.contains(action) and 0 <= expert.exposure() <= 1
        *_, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    return info


def holding(env: RobosuiteEnv) -> set[str]:
    """What is said to be in the hand, whenever it is asked; the tabletop's questions ask it seldom."""
    pools = [env.questions(np.random.default_rng(seed)) for seed in range(24)]
    return {question.answer for pool in pools for question in pool if question.text == WHAT_HELD}


@pytest.mark.parametrize("task", tasks.ROBOSUITE_TASKS)
def test_gymnasium_accepts_it(task: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(tasks.ENVIRONMENTS[task], render_mode="rgb_array").unwrapped)


def test_a_seed_is_one_episode_after_any_other_and_in_another_process(envs: dict[str, RobosuiteEnv]) -> None:
    here = {task: play(env, SEED) for task, env in envs.items()}
    program = (
        "from aegis_sim import tasks\nfrom tests.sim.test_robosuite_tasks import play, SEED\n"
        "for task in tasks.ROBOSUITE_TASKS: print(task, *play(tasks.make(task), SEED))"
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    for task, env in envs.items():
        assert not set(play(env, SEED + 1)) & set(here[task]), task
        assert play(env, SEED) == here[task], f"{task}: the episode before left its mark"
    there = {task: digests for task, *digests in map(str.split, other.communicate()[0].splitlines())}
    assert other.returncode == 0 and there == here


def test_without_a_seed_episodes_differ(envs: dict[str, RobosuiteEnv]) -> None:
    envs["lift"].reset(seed=SEED)
    states = [envs["lift"].reset()[0]["state"] for _ in range(2)]
    assert not np.array_equal(*states)


@pytest.mark.parametrize("task", ["lift", "stack", "can", "nut"])
def test_things_are_drawn_where_they_are(envs: dict[str, RobosuiteEnv], task: str) -> None:
    env = envs[task]
    env.reset(seed=SEED)
    for name, thing in env.sim.things().items():
        geoms = [env.sim.sim.model.geom_name2id(geom) for geom in thing.visual_geoms]
        rows, columns = np.nonzero(np.isin(env.sim.geoms_seen(FRONT, 192), geoms))
        drawn = (columns.mean() + 0.5) / 192, (rows.mean() + 0.5) / 192
        assert env.sim.project(env.sim.position(name), FRONT) == pytest.approx(drawn, abs=0.02)


def test_pictures_are_the_right_way_up(envs: dict[str, RobosuiteEnv]) -> None:
    env = envs["lift"]
    env.reset(seed=SEED)
    u, v = env.sim.project(env.sim.position("red cube"), FRONT)
    red, green, blue = np.moveaxis(env.observe()["images"]["front"].astype(int), -1, 0)
    rows, columns = np.nonzero((red > 2 * green) & (red > 2 * blue))
    size = env.image_size
    assert (columns.mean() / size, rows.mean() / size) == pytest.approx((u, v), abs=0.05)
    assert abs(v - 0.5) > 0.06 or abs(u - 0.5) > 0.06, "upside down would look the same"


@pytest.mark.parametrize("robot", ROBOTS)
def test_every_arm_starts_pointing_down_and_its_fingers_open_and_close(robot: str) -> None:
    env = LiftEnv(robot=robot, cameras=())
    state = env.reset(seed=SEED)[0]["state"]
    assert np.linalg.norm(state[3:6]) < 0.25
    for _ in range(12):
        env.advance(np.zeros(7))
    openings = [env.sim.opening()]
    for _ in range(20):
        openings.append(float(env.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))[0]["state"][6]))
    assert openings[0] > 0.05, "a cube fits between them"
    assert all(later < earlier + 2e-3 for earlier, later in pairwise(openings)) and 0 <= openings[-1] < 0.02
    env.close()


def test_an_axis_of_the_action_is_the_same_axis_of_the_state() -> None:
    env = LiftEnv(cameras=())
    for axis in range(6):
        before = env.reset(seed=SEED)[0]["state"]
        action = np.zeros(7)
        action[axis] = env.action_space.high[axis] * (0.5 if axis < 3 else 0.2)
        for _ in range(6):
            after = env.step(action)[0]["state"]
        moved = after - before
        asked = 6 * action[axis]
        others = np.delete(moved[:3] if axis < 3 else moved[3:6], axis % 3)
        assert 0.15 * asked < moved[axis] < 1.1 * asked and np.abs(others).max() < 0.25 * asked, STATE_FEATURES[
            axis
        ].name
    env.close()


@pytest.mark.parametrize(("kind", "seen", "steps"), [(LiftEnv, "red cube", 4), (StackEnv, NOTHING, 16)])
def test_what_the_hand_holds_is_answered_as_the_expert_acts(kind: type[RobosuiteEnv], seen: str, steps: int) -> None:
    env = kind(cameras=())
    info = finish(env, SEED)
    assert info["success"] and "failure" not in info
    for _ in range(steps):
        env.advance(np.array([0, 0, 0.03, 0, 0, 0, float(kind is LiftEnv)]))
    assert holding(env) == {seen}
    env.close()


def test_the_can_is_held_on_the_way_and_then_no_more() -> None:
    env = CanEnv(cameras=())
    env.reset(seed=SEED)
    expert, said = tasks.expert(env), []
    while not env.success and env.steps < env.max_steps:
        env.step(expert.act())
        said += [question.answer for question in env.questions(np.random.default_rng(0)) if question.text == WHAT_HELD]
    assert env.success and {NOTHING, "can"} == set(said)
    env.close()


@pytest.mark.parametrize(("seed", "nut"), [(SEED, "round nut"), (SEED + 6, "square nut")])
def test_the_expert_puts_the_named_nut_on_its_peg(seed: int, nut: str) -> None:
    env = NutEnv(cameras=())
    info = finish(env, seed)
    assert info["instruction"] == f"put the {nut} on its peg" and env.sim.named == nut
    assert info["success"] and info["right_object"]
    env.close()


@pytest.mark.parametrize("right", [True, False])
def test_only_the_named_nut_counts(right: bool) -> None:
    env = NutEnv(cameras=(), max_steps=20)
    env.reset(seed=SEED)
    nut = next(name for name in env.sim.things() if (name == env.sim.named) == right)
    joint = env.sim.things()[nut].joints[0]
    env.sim.sim.data.set_joint_qpos(joint, [*env.sim.peg(nut), 1, 0, 0, 0])  # from there, it falls
    ended = False
    while not ended:
        *_, terminated, truncated, info = env.step(np.zeros(7))
        ended = terminated or truncated
    assert np.linalg.norm((env.sim.position(nut) - env.sim.peg(nut))[:2]) < 0.02
    assert info["success"] == info["right_object"] == right
    assert info.get("failure") == (None if right else "lifted wrong object")
    env.close()


def test_the_door_is_open_when_robosuite_says_so() -> None:
    env = DoorEnv(cameras=())
    env.reset(seed=SEED)
    said = {question.text: question.answer for question in env.questions(np.random.default_rng(0))}
    assert said[IS_OPEN] == "no"
    assert finish(env, SEED)["success"] and env.sim.hinge() > 0.3
    said = {question.text: question.answer for question in env.questions(np.random.default_rng(0))}
    assert said[IS_OPEN] == "yes"
    env.close()


@pytest.mark.parametrize(
    ("task", "failure"),
    [
        ("lift", "nothing lifted"),
        ("stack", "nothing lifted"),
        ("can", "nothing lifted"),
        ("nut", "nothing lifted"),
        ("door", "handle not turned"),
    ],
)
def test_an_episode_that_failed_says_why(task: str, failure: str) -> None:
    env = tasks.make(task, cameras=(), max_steps=2)
    _, info = env.reset(seed=SEED)
    assert info == {"instruction": env.instruction, "success": False}
    assert "failure" not in env.step(np.zeros(7))[-1]
    *_, terminated, truncated, info = env.step(np.zeros(7))
    assert truncated and not terminated and info["failure"] == failure
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize(("task", "robot"), ABLE)
@pytest.mark.timeout(3600)
def test_the_expert_succeeds_on_ninety_of_a_hundred_seeds(task: str, robot: str) -> None:
    env = tasks.make(task, robot=robot, cameras=())
    assert sum(finish(env, seed)["success"] for seed in range(100)) >= 90
    env.close()


def test_what_these_tasks_do_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="the task 'lift' has the split 'seen' alone"):
        tasks.make("lift", "distractors")
    with pytest.raises(ValueError, match="split 'unheard-of': expected one of"):
        tasks.make("lift", "unheard-of")
    with pytest.raises(ValueError, match="robot 'Baxter': expected one of Panda, UR5e"):
        tasks.make("lift", robot="Baxter")


class Idle:
    """A policy that stays where it is and says yes."""

    def __init__(self, control_hz: float) -> None:
        cameras = (Camera("front", 48, 48),)
        self.info = PolicyInfo("idle", cameras, STATE_FEATURES, ACTION_FEATURES, 60, control_hz, (), "0" * 64)

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        return ActionChunk(np.zeros((60, 7), np.float32), observation.stamp)

    def ask(self, images: dict[str, np.ndarray], question: str) -> Iterator[str]:
        yield "yes"


def test_any_policy_that_fits_can_be_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DoorEnv, "patience", 10)
    found = evaluate(partial(Idle, CONTROL_HZ), "door", 1, 0, replan_every=60)
    assert found.rates["success"].rate == 0 and found.episodes[0].rollout.failure == "handle not turned"
    assert "open" in found.to_dict()["vqa_families"]
    with pytest.raises(ValueError, match="control rate in Hz is 10"):
        evaluate(partial(Idle, 10.0), "lift", 1, 0)
