"""Demonstrations of the scripted experts, in the layout of `demonstration_file.py`.

The expert is disturbed on purpose while it reaches: what is carried out is its action plus noise that lasts a few
steps, what is recorded as the label is its action. So the demonstrations show how to come back from mistakes. Short
demonstrations (tabletop only) start somewhere on the way: fewer steps each, so more scenes per minute.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from aegis_policy.inference.load import load_policy
from aegis_sim.demonstration_file import Demonstration, DemonstrationFile, Take
from aegis_sim.devices import Device
from aegis_sim.driving import check_fit
from aegis_sim.expert import Expert
from aegis_sim.starts import REPLAN_EVERY, TAKEOVER_STEPS, drive, start_on_the_way
from aegis_sim.table_env import TableEnv
from aegis_sim.tasks import ROBOT_TASKS, TABLE_TASKS, check_split, episode_seed, expert, make
from aegis_sim.workers import spread

log = logging.getLogger(__name__)

DISTURBED_STEPS = (2, 6)  # how long a disturbance, or a pause between two, lasts: at least, less than
ROTATION_NOISE = 2.0  # rad of rotation noise per m of translation noise
_GIVE_UP = 3  # times as many failures as successes: something is wrong


@dataclass(frozen=True)
class Recording:
    """What is recorded, all that its episodes depend on.

    Attributes:
        task, split: see `tasks.py` and `splits.py`.
        seed: which episodes, see `tasks.episode_seed`.
        noise: standard deviation of the disturbances, m per step.
        short_fraction: share of attempts that start on the way; on the tabletop only.
        takeover: a policy (as `load_policy` takes it) that drives the other attempts until a random moment, from which
            on the expert is recorded: how to get out of where this policy gets to; on the tabletop only. None: they
            begin at home.
        device: what a person acts with, see `devices.py`; None: the expert acts.
    """

    task: str
    split: str = "seen"
    seed: int = 0
    noise: float = 0.0
    short_fraction: float = 0.0
    takeover: str | None = None
    device: Device | None = None

    def check(self) -> None:
        """Raise ValueError, saying what is wrong, unless this can be done."""
        if self.task not in ROBOT_TASKS:
            raise ValueError(f"task '{self.task}': there are experts for {', '.join(ROBOT_TASKS)}")
        check_split(self.task, self.split)
        if not 0 <= self.noise < math.inf or not 0 <= self.short_fraction <= 1:
            given = f"{self.noise} and {self.short_fraction}"
            raise ValueError(f"noise must be >= 0 and short_fraction within 0..1, got {given}")
        if (self.short_fraction or self.takeover) and self.task not in TABLE_TASKS:
            raise ValueError(f"short_fraction and takeover: only {', '.join(TABLE_TASKS)} can start on the way")
        if self.device is not None and (self.noise or self.short_fraction or self.takeover):
            raise ValueError(
                "noise, short_fraction and takeover are the scripted expert's: leave them out with a device"
            )


class Recorder:
    """Plays the expert; attempt `index` depends on the settings and the index alone."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._env = make(recording.task, recording.split)
        self._expert = expert(self._env)
        self._policy = None if recording.takeover is None else load_policy(recording.takeover)
        if self._policy is not None:
            check_fit(self._policy.info, self._env, REPLAN_EVERY)

    def __call__(self, index: int) -> Demonstration | None:
        """One attempt, successful or not; None when the policy needed no expert."""
        env, seed = self._env, episode_seed("record", self._recording.seed, index)
        rng = np.random.default_rng(seed)
        observation, info = env.reset(seed=seed)
        self._expert.reset()
        short = bool(rng.random() < self._recording.short_fraction)
        if short:
            assert isinstance(env, TableEnv) and isinstance(self._expert, Expert), "Recording.check sees to it"
            start_on_the_way(env, self._expert, rng)
            observation = env.observe()
        elif self._policy is not None:
            assert isinstance(env, TableEnv), "Recording.check sees to it"
            driven = drive(env, self._policy, observation, seed, until=int(rng.integers(1, TAKEOVER_STEPS[env.kind])))
            if driven is None:
                return None
            observation = driven
        disturb = _disturbances(rng, self._recording.noise)
        take = Take(env, seed, "expert", short=short)
        ended = False
        while not ended:
            action = self._expert.act()
            disturbed = action + next(disturb) * self._expert.exposure()
            executed = np.clip(disturbed, env.action_space.low, env.action_space.high).astype(np.float32)
            take.note(observation, action, executed)
            observation, _, terminated, truncated, info = env.step(executed)
            ended = terminated or truncated
        return take.demonstration(info)

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


def _disturbances(rng: np.random.Generator, noise: float) -> Iterator[np.ndarray]:
    """What to add to each action: for a few steps the same push, for a few steps nothing, and so on."""
    scale = noise * np.array([1.0, 1.0, 1.0, ROTATION_NOISE, ROTATION_NOISE, ROTATION_NOISE, 0.0])
    while True:
        push = rng.normal(size=7) * scale * rng.integers(2)
        for _ in range(rng.integers(*DISTURBED_STEPS)):
            yield push


def record_demonstrations(recording: Recording, episodes: int, output: Path, *, workers: int = 1) -> int:
    """Record `episodes` successful demonstrations into `output`, which appears when it is whole.

    Args:
        workers: processes; the file is the same for any number of them.

    Returns:
        How many attempts failed and were left out.

    Raises:
        ValueError: an unknown task or split, an argument out of its range, or so much noise that most attempts fail.
    """
    recording.check()
    if episodes < 1 or workers < 1:
        raise ValueError(f"episodes and workers must be at least 1, got {episodes} and {workers}")
    failed = 0
    endless = range(sys.maxsize)
    with (
        DemonstrationFile(output) as file,
        closing(spread(partial(Recorder, recording), endless, workers)) as attempts,
    ):
        file.describe(recording.task, recording.split, asdict(recording))  # so that what a kill leaves can be read
        with tqdm(total=episodes, desc=f"record {recording.task}", unit="demo") as progress:
            for attempt in attempts:
                if attempt is None:
                    continue
                if attempt.success:
                    file.add(attempt)
                    progress.update()
                else:
                    failed += 1
                    progress.set_postfix(failed=failed)
                if file.kept == episodes:
                    break
                if failed > 10 + _GIVE_UP * file.kept:
                    tried = failed + file.kept
                    raise ValueError(f"{failed} of {tried} attempts failed: try less noise than {recording.noise} m")
        file.describe(recording.task, recording.split, {**asdict(recording), "failed": failed})
        file.finish()
    log.info("wrote %d demonstrations to %s, left out %d failed attempts", file.kept, output, failed)
    return failed
