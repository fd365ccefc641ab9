"""A few episodes at once, closed loop: one policy drives them in lock-step and is asked about them on the way.

All episodes of a group need actions at the same steps, so those still running are one batch for the policy. What is in
a batch depends on the group's seeds alone, hence so do the numbers, whoever else is at work. Two streams of random
numbers, one for acting and one for asking, both derived from the episode's seed, keep the two apart: asking never
changes a motion.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from aegis_policy import ActionChunk, Observation, Policy, PolicyInfo, act_many
from aegis_sim.driving import ASKING, action_seed, for_policy
from aegis_sim.env import ArmEnv
from aegis_sim.film import compose, encode_png, encode_webp
from aegis_sim.quiz import CAMERA, Asked, ask, pick_questions
from aegis_sim.results import Episode, Latency, Rollout, Trace
from aegis_sim.statistics import rms_jerk

INSTANTS = (0, 8, 20)  # control steps: far away; among the objects; carrying, where something is to be placed
QUESTIONS_PER_INSTANT = 4


class Timed:
    """A policy with a stopwatch."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._act_s: list[float] = []
        self._ask_s: list[float] = []

    @property
    def latency(self) -> Latency:
        """Of all calls so far."""
        return Latency(tuple(self._act_s), tuple(self._ask_s))

    @property
    def info(self) -> PolicyInfo:
        return self._policy.info

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        """See `Policy.act`."""
        return self.act_many([observation], [seed])[0]

    def act_many(self, observations: Sequence[Observation], seeds: Sequence[int | None]) -> list[ActionChunk]:
        """See `aegis_policy.act_many`; one call, however many observations."""
        started = time.perf_counter()
        chunks = act_many(self._policy, observations, seeds)
        self._act_s.append(time.perf_counter() - started)
        return chunks

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        """See `Policy.ask`."""
        started = time.perf_counter()
        yield from self._policy.ask(images, question)
        self._ask_s.append(time.perf_counter() - started)


def run_episodes(
    policy: Policy,
    envs: Sequence[ArmEnv],
    seeds: Sequence[int],
    *,
    replan_every: int = 4,
    questions_asked: bool = True,
    films: Sequence[bool] | None = None,
    traced: bool = False,
) -> list[Episode]:
    """Drive one episode for each seed in an environment of its own. Neither asking nor watching changes a motion.

    Args:
        policy: acts for all that still run in one `act_many`.
        envs: at least as many environments as seeds, alike.
        seeds: of the episodes.
        replan_every: K, the number of actions of each chunk that are carried out.
        questions_asked: whether to ask at INSTANTS and at the end.
        films: which of the episodes to film; none by default.
        traced: whether to keep each instant of every episode.
    """
    filmed = films or [False] * len(seeds)
    takes = [
        _Take(env, seed, questions_asked, film, traced) for env, seed, film in zip(envs, seeds, filmed, strict=False)
    ]
    while running := [take for take in takes if not take.done]:
        for take in running:
            take.ask_if_due(policy)
        chunks = act_many(policy, [take.seen(policy.info) for take in running], [take.noise() for take in running])
        for take, chunk in zip(running, chunks, strict=True):
            take.carry_out(chunk.actions[:replan_every])
    return [take.finish(policy) for take in takes]


class _Take:
    """One episode in the making."""

    def __init__(self, env: ArmEnv, seed: int, questions_asked: bool, film: bool, traced: bool) -> None:
        self._env, self._seed, self._questions_asked = env, seed, questions_asked
        self._observation, self._info = env.reset(seed=seed)
        self._asking = np.random.default_rng([seed, ASKING])
        self._asked: list[Asked] = []
        self._instants = list(INSTANTS) if questions_asked else []
        self._states = [self._observation["state"]]
        self._frames = [self._frame()] if film else []
        self._seen, self._carried_out = [self._pngs()] if traced else [], list[np.ndarray]()
        self._step = 0
        self.done = False

    def seen(self, info: PolicyInfo) -> Observation:
        """What the policy gets to see now."""
        return for_policy(info, self._observation, self._info["instruction"], self._step / self._env.control_hz)

    def noise(self) -> int:
        """The seed for the policy's noise at this step."""
        return action_seed(self._seed, self._step)

    def carry_out(self, actions: np.ndarray) -> None:
        """Make these steps, or as many as are left; look after the last, or after each where that is kept."""
        for index, action in enumerate(actions):
            terminated, truncated, self._info = self._env.move(action)
            self._step, self.done = self._step + 1, terminated or truncated
            self._states.append(self._env.state())
            if self._frames or self._seen or self.done or index == len(actions) - 1:
                self._observation = self._env.observe()
            if self._frames:
                self._frames.append(self._frame())
            if self._seen:
                self._seen.append(self._pngs())
                self._carried_out.append(action)
            if self.done:
                return

    def ask_if_due(self, policy: Policy) -> None:
        if self._instants and self._step >= self._instants[0]:
            self._instants.pop(0)
            self._ask(policy)

    def finish(self, policy: Policy) -> Episode:
        """Ask a last time, and say what came of it all."""
        if self._questions_asked:
            self._ask(policy)
        info, rate = self._info, self._env.control_hz
        rollout = Rollout(
            instruction=info["instruction"],
            success=bool(info["success"]),
            right_object=info.get("right_object"),
            lifted=info.get("lifted"),
            steps=self._step,
            failure=info.get("failure"),
            jerk=rms_jerk(np.array(self._states)[:, :3], rate),  # the gripper's position, m
            video=encode_webp(self._frames, rate) if self._frames else None,
            trace=self._trace() if self._seen else None,
        )
        return Episode(self._seed, tuple(self._asked), rollout)

    def _ask(self, policy: Policy) -> None:
        picked = pick_questions(self._env.questions(self._asking), QUESTIONS_PER_INSTANT, self._asking)
        self._asked += ask(policy, self._observation["images"][CAMERA], picked, self._step)

    def _trace(self) -> Trace:
        images = {name: tuple(pngs[name] for pngs in self._seen) for name in self._seen[0]}
        return Trace(images, np.array(self._states), np.array(self._carried_out))

    def _pngs(self) -> dict[str, bytes]:
        return {name: encode_png(image) for name, image in self._observation["images"].items()}

    def _frame(self) -> np.ndarray:
        view = self._env.render()
        assert view is not None  # `evaluate` makes environments that can be looked at
        return compose(view, self._observation["images"])
