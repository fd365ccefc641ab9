"""Closed-loop evaluation: what a policy can still do and still say, measured on the same episodes.

The policy drives the environment in chunks: it is asked for H actions, the first `replan_every` of them are carried
out, then it is asked again. At the start, in the middle and at the end of every episode it is also asked questions
about what the front camera shows, whose true answers come from the simulator at that instant. Two streams of random
numbers, one for acting and one for asking, both derived from the episode's seed, keep the two apart: the same
evaluation gives the same numbers, and asking never changes a motion.

A task without a robot to move (`questions`, `drawn`) is evaluated on its questions alone, see `evaluate_questions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from aegis_policy import Policy
from aegis_sim import tasks
from aegis_sim.driving import ASKING, action_seed, check_fit, for_policy
from aegis_sim.env import ArmEnv
from aegis_sim.film import compose, encode_webp
from aegis_sim.quiz import CAMERA, Asked, BlindBaselines, ask, pick_questions, question_scenes
from aegis_sim.results import Episode, Evaluation, Rollout

MIDDLE_STEP = 8  # control steps: the hand is among the objects; the expert lifts one after 12 to 25
QUESTIONS_PER_INSTANT = 4
QUESTIONS_PER_SCENE = 8
BASELINE_SCENES = 500


def evaluate(
    policy: Policy,
    task: str,
    episodes: int,
    seed: int,
    *,
    split: str = "seen",
    replan_every: int = 4,
    videos: int = 0,
) -> Evaluation:
    """Evaluate `policy` on `episodes` unseen seeds of `task`; the same arguments give the same numbers.

    Args:
        policy: any backend; its weights may be in this process or behind a server.
        task: a name of `aegis_sim.tasks`.
        split: how the episodes may differ from the demonstrations, a name of `splits.py`; nothing to questions alone.
        episodes: how many episodes (of a task of questions alone: scenes).
        seed: picks the episodes; seeds of evaluations never meet those of recordings (`tasks.episode_seed`).
        replan_every: K, the number of actions of each chunk that are carried out.
        videos: how many episodes, from the first, to film; filming changes nothing else.

    Raises:
        ValueError: an unknown task, fewer than one episode, or a policy that does not fit the task's robot.
    """
    if episodes < 1:
        raise ValueError(f"{episodes} episodes: expected at least 1")
    if task in tasks.QUESTION_TASKS:
        return evaluate_questions(policy, task, episodes, seed)
    seeds = [tasks.episode_seed("eval", seed, index) for index in range(episodes)]
    size = next((camera.height for camera in policy.info.cameras if camera.name == CAMERA), tasks.IMAGE_SIZE)
    env = tasks.make(task, split, image_size=size, render_mode="rgb_array")
    try:
        check_fit(policy.info, env, replan_every)
        done: list[Episode] = []
        with tqdm(seeds, desc=f"evaluate {task}", unit="episode") as bar:
            for index, episode_seed in enumerate(bar):
                done.append(run_episode(policy, env, episode_seed, replan_every=replan_every, film=index < videos))
                wins = sum(episode.rollout is not None and episode.rollout.success for episode in done)
                bar.set_postfix(success=f"{wins}/{len(done)}")
    finally:
        env.close()
    settings = {"split": split, "replan_every": replan_every, "questions_per_instant": QUESTIONS_PER_INSTANT}
    return Evaluation(task, seed, policy.info, tuple(done), settings)


def evaluate_questions(policy: Policy, task: str, scenes: int, seed: int) -> Evaluation:
    """Up to eight questions about each of `scenes` unseen scenes, beside what answering blindly would get.

    The blind baselines are counted on other scenes, of the seeds that recordings have.
    """
    camera = next((camera for camera in policy.info.cameras if camera.name == CAMERA), None)
    if camera is None:
        raise ValueError(f"the policy has no camera '{CAMERA}', which the questions of '{task}' are about")
    _, pools = question_scenes(task, BASELINE_SCENES, seed, "record", camera.height)
    blind = BlindBaselines.fit(question for pool in pools for question in pool)
    images, pools = question_scenes(task, scenes, seed, "eval", camera.height)
    done = []
    for index in tqdm(range(scenes), desc=f"ask {task}", unit="scene"):
        episode_seed = tasks.episode_seed("eval", seed, index)
        picked = pick_questions(pools[index], QUESTIONS_PER_SCENE, np.random.default_rng([episode_seed, ASKING]))
        done.append(Episode(episode_seed, tuple(ask(policy, images[index], picked))))
    asked = [one for episode in done for one in episode.asked]
    settings = {"questions_per_scene": QUESTIONS_PER_SCENE, "baseline_scenes": BASELINE_SCENES}
    return Evaluation(task, seed, policy.info, tuple(done), settings, blind.score(asked))


def run_episode(
    policy: Policy, env: ArmEnv, seed: int, *, replan_every: int = 4, questions_asked: bool = True, film: bool = False
) -> Episode:
    """Drive one episode, closed loop, and ask about it on the way. Neither asking nor filming changes a motion."""
    observation, info = env.reset(seed=seed)
    instruction = info["instruction"]
    asking = np.random.default_rng([seed, ASKING])
    asked: list[Asked] = []
    frames = [_frame(env, observation)] if film else []
    instants = [0, MIDDLE_STEP] if questions_asked else []
    step, done = 0, False
    while not done:
        if instants and step >= instants[0]:
            instants.pop(0)
            asked += _ask_now(policy, env, observation, asking, step)
        seen = for_policy(policy.info, observation, instruction, step / env.control_hz)
        chunk = policy.act(seen, seed=action_seed(seed, step))
        for action in chunk.actions[:replan_every]:
            observation, _, terminated, truncated, info = env.step(action)
            step, done = step + 1, terminated or truncated
            if film:
                frames.append(_frame(env, observation))
            if done:
                break
    if questions_asked:
        asked += _ask_now(policy, env, observation, asking, step)
    rollout = Rollout(
        instruction=instruction,
        success=bool(info["success"]),
        right_object=info.get("right_object"),
        lifted=info.get("lifted"),
        steps=step,
        failure=info.get("failure"),
        video=encode_webp(frames, env.control_hz) if film else None,
    )
    return Episode(seed, tuple(asked), rollout)


def _ask_now(
    policy: Policy, env: ArmEnv, observation: Mapping[str, Any], rng: np.random.Generator, step: int
) -> list[Asked]:
    pool = env.questions(rng)
    return ask(policy, observation["images"][CAMERA], pick_questions(pool, QUESTIONS_PER_INSTANT, rng), step)


def _frame(env: ArmEnv, observation: Mapping[str, Any]) -> np.ndarray:
    view = env.render()
    assert view is not None  # `evaluate` makes environments that can be looked at
    return compose(view, observation["images"])
