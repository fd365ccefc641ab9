"""Episodes in lock-step: who is in which batch, what each is asked and when, and that none can tell it had company.

The environment here is only as long as its seed says: what matters is who asks the policy for what.
"""

from __future__ import annotations

import numpy as np

from aegis_policy import ActionChunk
from aegis_sim.questions import Question
from aegis_sim.rollout import INSTANTS, Timed, run_episodes
from aegis_sim.statistics import rms_jerk
from tests.sim.policies import INFO, Wandering

SEEDS = [9, 30, 5, 16]  # and the lengths of their episodes


class Counting:
    """Moves its gripper by what it is told, and ends after as many steps as its seed says; odd ones succeed."""

    control_hz = 10.0

    def reset(self, *, seed):
        self.seed, self.step_count, self.place = seed, 0, np.full(7, seed / 100, np.float32)
        return self.observe(), {"instruction": f"count to {seed}", "success": False}

    def move(self, action):
        self.step_count += 1
        self.place = self.place + np.asarray(action, np.float32)
        ended, odd = self.step_count == self.seed, bool(self.seed % 2)
        info = {"instruction": f"count to {self.seed}", "success": ended and odd}
        return ended and odd, ended and not odd, info

    def state(self):
        return self.place

    def questions(self, rng):
        return [Question(f"is it {int(rng.integers(1000))}", "yes", "exists")]

    def observe(self):
        pixels = np.full((96, 96, 3), (self.seed + self.step_count) % 256, np.uint8)
        return {"images": {"front": pixels, "wrist": pixels}, "state": self.place}


class Batched(Wandering):
    """Wanders, and remembers which episodes it was asked to act for at once."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def act_many(self, observations, seeds) -> list[ActionChunk]:
        self.batches.append([seen.instruction.split()[-1] for seen in observations])
        return [self.act(seen, seed=seed) for seen, seed in zip(observations, seeds, strict=True)]


def run(seeds: list[int]) -> tuple[list, Batched]:
    policy = Batched()
    return run_episodes(policy, [Counting() for _ in seeds], seeds, replan_every=4), policy


def test_whoever_still_runs_is_in_the_batch_in_order():
    _, policy = run(SEEDS)
    expected = [[str(seed) for seed in SEEDS if seed > step] for step in range(0, max(SEEDS), 4)]
    assert policy.batches == expected


def test_nobody_can_tell_that_it_had_company():
    together, _ = run(SEEDS)
    alone = [run([seed])[0][0] for seed in SEEDS]
    assert together == alone
    assert [episode.rollout.success for episode in together] == [True, False, True, False]
    assert [episode.rollout.steps for episode in together] == SEEDS
    assert INSTANTS == (0, 8, 20)
    assert [[one.step for one in episode.asked] for episode in together] == [
        [0, 8, 9],
        [0, 8, 20, 30],
        [0, 5],  # over before it is asked again
        [0, 8, 16],
    ]


def test_the_jerk_is_that_of_the_way_the_gripper_went_and_cameras_are_used_when_the_policy_looks():
    places: list[np.ndarray] = []
    looked: list[int] = []

    class Watched(Counting):
        def reset(self, *, seed):
            first = super().reset(seed=seed)
            places.append(self.place[:3])
            return first

        def move(self, action):
            ended = super().move(action)
            places.append(self.place[:3])
            return ended

        def observe(self):
            looked.append(self.step_count)
            return super().observe()

    (episode,) = run_episodes(Wandering(), [Watched()], [9])
    assert len(places) == 10 and looked == [0, 4, 8, 9]
    assert episode.rollout.jerk == rms_jerk(np.array(places), 10.0) > 0


def test_a_stopwatch_changes_nothing_and_counts_calls():
    plain, policy = run(SEEDS)
    timed = Timed(Wandering())
    assert run_episodes(timed, [Counting() for _ in SEEDS], SEEDS, replan_every=4) == plain
    assert timed.info == INFO
    assert len(timed.latency.act_s) == len(policy.batches)
    assert len(timed.latency.ask_s) == sum(len(episode.asked) for episode in plain)
    assert min(timed.latency.act_s + timed.latency.ask_s) > 0
