"""Closed-loop evaluation: what a policy can still do and still say, measured on the same episodes.

The policy drives the environment in chunks: it is asked for H actions, the first `replan_every` of them are carried
out, then it is asked again. At the start, on the way and at the end of every episode it is also asked questions about
what the front camera shows, whose true answers come from the simulator at that instant.

A group of `batch` successive episodes is the unit of work. Nothing outside a group has a say in it, so the numbers are
the same for any number of workers, in processes or on a Ray cluster. They do depend on `batch`: matrix products of
another shape differ in their last bits, and contact makes much of that.

A task without a robot to move (`questions`, `drawn`) is evaluated on its questions alone, see `evaluate_questions`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from aegis_policy import Policy, PolicyInfo
from aegis_sim import tasks
from aegis_sim.cluster import spread_on_ray
from aegis_sim.driving import ASKING, check_fit
from aegis_sim.env import CAMERAS, ArmEnv
from aegis_sim.questions import Question
from aegis_sim.quiz import CAMERA, BlindBaselines, ask, pick_questions, question_scenes
from aegis_sim.results import Episode, Evaluation, Latency
from aegis_sim.rollout import QUESTIONS_PER_INSTANT, Timed, run_episodes
from aegis_sim.statistics import rate_of
from aegis_sim.workers import Tool, spread

QUESTIONS_PER_SCENE = 8
BASELINE_SCENES = 500

Load = Callable[[], Policy]
Share = Callable[[Callable[[], Tool[Any, "Played"]], Sequence[Any]], Generator["Played", None, None]]
"""How work is shared out: a tool's maker and items -> results, as `workers.spread`."""


def evaluate(
    load: Load,
    task: str,
    episodes: int,
    seed: int,
    *,
    split: str = "seen",
    replan_every: int = 4,
    batch: int = 1,
    until_width: float | None = None,
    videos: int = 0,
    workers: int = 1,
    ray: str | None = None,
    record: Callable[[PolicyInfo, Episode], None] | None = None,
) -> Evaluation:
    """Evaluate a policy on unseen seeds of `task`; the same arguments give the same numbers, whatever `workers`.

    Args:
        load: makes the policy, any backend: `partial(load_policy, source)`. Called in every worker; for more than one,
            it must be importable there (a function or class of a module, or a `functools.partial` of one).
        task: a name of `aegis_sim.tasks`.
        episodes: how many episodes (of a task of questions alone: scenes); with `until_width`, at most.
        seed: picks the episodes; seeds of evaluations never meet those of recordings (`tasks.episode_seed`).
        split: how the episodes may differ from the demonstrations, a name of `splits.py`. This, and all that is about
            moving, is nothing to a task of questions alone.
        replan_every: K, the number of actions of each chunk that are carried out.
        batch: episodes that a worker runs in lock-step, with one call of the policy for all of them.
        until_width: stop at the first episode after which the 95% interval of the success rate is narrower than this.
        videos: how many episodes, from the first, to film; filming changes nothing else.
        workers: processes, each with a policy and `batch` environments of its own; 1 works in this process.
        ray: address of a Ray cluster to have the workers on, instead of on this machine.
        record: is given each episode that counts, in order and with its trace; changes nothing else.

    Raises:
        ValueError: an unknown task, an argument out of its range, or a policy that does not fit the task's robot.
    """
    if episodes < 1 or batch < 1:
        raise ValueError(f"episodes and batch must be at least 1, got {episodes} and {batch}")
    if until_width is not None and not 0 < until_width < 1:
        raise ValueError(f"until_width is {until_width}: expected more than 0 and less than 1")
    share: Share = partial(spread_on_ray, ray, workers=workers) if ray else partial(spread, workers=workers)
    if task in tasks.QUESTION_TASKS:
        if until_width is not None:
            raise ValueError(f"until_width: '{task}' has no success rate to narrow down")
        if record is not None or videos:
            raise ValueError(f"rerun, videos: '{task}' has no motion to record")
        if split != "seen":
            raise ValueError(f"split '{split}': the task '{task}' has the split 'seen' alone")
        return evaluate_questions(load, task, episodes, seed, share)
    make = partial(Player, load, task, seed, split, replan_every, batch, videos, record is not None)
    groups = [range(start, min(start + batch, episodes)) for start in range(0, episodes, batch)]
    found, done = _Found(), []
    with tqdm(total=episodes, desc=f"evaluate {task}", unit="episode") as bar, closing(share(make, groups)) as played:
        for episode in found.episodes(played):
            if record is not None:
                record(found.info, episode)
            done.append(episode.without_trace())
            success = rate_of(one.rollout is not None and one.rollout.success for one in done)
            bar.set_postfix(success=f"{success.rate:.2f}", refresh=False)
            bar.update()
            if until_width is not None and success.width < until_width:
                break
    settings: dict[str, Any] = {
        "split": split,
        "replan_every": replan_every,
        "batch": batch,
        "questions_per_instant": QUESTIONS_PER_INSTANT,
    }
    if until_width is not None:
        settings |= {"until_width": until_width, "episodes_at_most": episodes}
    return Evaluation(task, seed, found.info, tuple(done), settings, latency=found.latency)


def evaluate_questions(load: Load, task: str, scenes: int, seed: int, share: Share) -> Evaluation:
    """Up to eight questions about each of `scenes` unseen scenes, beside what answering blindly would get.

    The blind baselines are counted on other scenes, of the seeds that recordings have.
    """
    camera = next((camera for camera in load().info.cameras if camera.name == CAMERA), None)
    if camera is None:
        raise ValueError(f"the policy has no camera '{CAMERA}', which the questions of '{task}' are about")
    _, pools = question_scenes(task, BASELINE_SCENES, seed, "record", camera.height)
    blind = BlindBaselines.fit(question for pool in pools for question in pool)
    images, pools = question_scenes(task, scenes, seed, "eval", camera.height)
    items = []
    for index, (image, pool) in enumerate(zip(images, pools, strict=True)):
        episode_seed = tasks.episode_seed("eval", seed, index)
        picked = pick_questions(pool, QUESTIONS_PER_SCENE, np.random.default_rng([episode_seed, ASKING]))
        items.append((episode_seed, image, picked))
    found = _Found()
    with closing(share(partial(Asker, load), items)) as played:
        done = tuple(tqdm(found.episodes(played), total=scenes, desc=f"ask {task}", unit="scene"))
    asked = [one for episode in done for one in episode.asked]
    settings = {"questions_per_scene": QUESTIONS_PER_SCENE, "baseline_scenes": BASELINE_SCENES}
    return Evaluation(task, seed, found.info, done, settings, blind.score(asked), found.latency)


@dataclass(frozen=True)
class Played:
    """What comes back from a worker for one item of its work."""

    info: PolicyInfo
    episodes: tuple[Episode, ...]
    latency: Latency


class Player:
    """Plays groups of episodes: a policy, and one environment for each episode of a group. Arguments as `evaluate`'s.

    Raises:
        ValueError: the policy does not fit the task's robot.
    """

    def __init__(
        self, load: Load, task: str, seed: int, split: str, replan_every: int, batch: int, videos: int, traced: bool
    ) -> None:
        self._policy, self._task, self._seed, self._split = load(), task, seed, split
        self._replan_every, self._batch, self._videos, self._traced = replan_every, batch, videos, traced
        self._envs: list[ArmEnv] = []
        try:
            self._envs.append(self._make_env())
            check_fit(self._policy.info, self._envs[0], replan_every)
            self._envs += [self._make_env() for _ in range(batch - 1)]
        except BaseException:
            self.close()
            raise

    def __call__(self, indices: Sequence[int]) -> Played:
        """Play the episodes of these indices."""
        seeds = [tasks.episode_seed("eval", self._seed, index) for index in indices]
        films = [index < self._videos for index in indices]
        policy = Timed(self._policy)
        episodes = run_episodes(
            policy,
            self._envs,
            seeds,
            replan_every=self._replan_every,
            questions_asked=any(camera.name == CAMERA for camera in policy.info.cameras),  # they are about its view
            films=films,
            traced=self._traced,
        )
        return Played(policy.info, tuple(episodes), policy.latency)

    def close(self) -> None:
        """Free the simulators."""
        for env in self._envs:
            env.close()

    def _make_env(self) -> ArmEnv:
        wanted = {camera.name: camera.height for camera in self._policy.info.cameras}
        cameras = tuple(name for name in CAMERAS if name in wanted or name == CAMERA)  # drawing is what takes long
        size = wanted.get(CAMERA, tasks.IMAGE_SIZE)
        return tasks.make(self._task, self._split, image_size=size, cameras=cameras, render_mode="rgb_array")


class Asker:
    """Asks a policy about pictures."""

    def __init__(self, load: Load) -> None:
        self._policy = load()

    def __call__(self, scene: tuple[int, np.ndarray, Sequence[Question]]) -> Played:
        """The answers to the questions about one image, uint8 [H, W, 3], of a scene with that seed."""
        seed, image, picked = scene
        policy = Timed(self._policy)
        asked = tuple(ask(policy, image, picked))
        return Played(policy.info, (Episode(seed, asked),), policy.latency)

    def close(self) -> None:
        """There is nothing to free."""


class _Found:
    """Takes apart what workers send: episodes to go on with, the rest to keep."""

    info: PolicyInfo

    def __init__(self) -> None:
        self.latency = Latency()

    def episodes(self, played: Iterable[Played]) -> Iterator[Episode]:
        known: PolicyInfo | None = None
        for one in played:
            if known not in (None, one.info):
                raise ValueError("the policy is another by now than it was at first: what was measured is of neither")
            known = self.info = one.info
            self.latency += one.latency
            yield from one.episodes
