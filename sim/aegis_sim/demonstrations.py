"""Demonstrations of the scripted experts, in robomimic's HDF5 layout.

The expert is disturbed on purpose while it reaches: what is carried out is its action plus noise that lasts a few
steps, what is recorded as the label is its action. So the demonstrations show how to come back from mistakes. Short
demonstrations (tabletop only) start somewhere on the way: fewer steps each, so more scenes per minute.

    data                attributes total, env_args (JSON), control_hz, state_features, action_features (JSON)
    data/demo_N         attributes num_samples, model_file, instruction, seed, success, short, on the tabletop
                        primitives (JSON)
      actions           float32 [T, 7], the labels      executed_actions  float32 [T, 7], disturbed
      states            float64 [T, *], MuJoCo's, before each action
      rewards, dones    [T]
      obs/front_image   uint8 [T, S, S, 3]; obs/wrist_image likewise; obs/state float32 [T, 7]
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from aegis_policy.inference.load import load_policy
from aegis_sim.driving import check_fit
from aegis_sim.env import ACTION_FEATURES, CAMERAS, STATE_FEATURES, ArmEnv
from aegis_sim.expert import Expert
from aegis_sim.starts import REPLAN_EVERY, TAKEOVER_STEPS, drive, start_on_the_way
from aegis_sim.table_env import TableEnv
from aegis_sim.tasks import ENVIRONMENTS, ROBOT_TASKS, TABLE_TASKS, check_split, episode_seed, expert, make

log = logging.getLogger(__name__)

PACKAGES = ("robosuite", "mujoco", "gymnasium", "numpy")
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
    """

    task: str
    split: str = "seen"
    seed: int = 0
    noise: float = 0.0
    short_fraction: float = 0.0
    takeover: str | None = None

    def check(self) -> None:
        """Raise ValueError, saying what is wrong, unless the expert can do this."""
        if self.task not in ROBOT_TASKS:
            raise ValueError(f"task '{self.task}': there are experts for {', '.join(ROBOT_TASKS)}")
        check_split(self.task, self.split)
        if self.noise < 0 or not 0 <= self.short_fraction <= 1:
            given = f"{self.noise} and {self.short_fraction}"
            raise ValueError(f"noise must be >= 0 and short_fraction within 0..1, got {given}")
        if (self.short_fraction or self.takeover) and self.task not in TABLE_TASKS:
            raise ValueError(f"short_fraction and takeover: only {', '.join(TABLE_TASKS)} can start on the way")


@dataclass(frozen=True)
class Demonstration:
    """One episode, T steps; arrays as in the file."""

    instruction: str
    seed: int
    success: bool
    short: bool
    primitives: str | None
    control_hz: float
    model_file: str
    actions: np.ndarray
    executed_actions: np.ndarray
    states: np.ndarray
    observations: dict[str, np.ndarray]


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
        actions, executed, states, observations = [], [], [], []
        ended = False
        while not ended:
            action = self._expert.act()
            observations.append(observation)
            states.append(env.arm.sim.get_state().flatten())
            actions.append(action)
            disturbed = action + next(disturb) * self._expert.exposure()
            executed.append(np.clip(disturbed, env.action_space.low, env.action_space.high).astype(np.float32))
            observation, _, terminated, truncated, info = env.step(executed[-1])
            ended = terminated or truncated
        return Demonstration(
            instruction=info["instruction"],
            seed=seed,
            success=info["success"],
            short=short,
            primitives=_primitives(env),
            control_hz=env.control_hz,
            model_file=env.arm.sim.model.get_xml(),
            actions=np.array(actions),
            executed_actions=np.array(executed),
            states=np.array(states),
            observations={
                **{f"{name}_image": np.array([seen["images"][name] for seen in observations]) for name in CAMERAS},
                "state": np.array([seen["state"] for seen in observations]),
            },
        )

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


def _primitives(env: ArmEnv) -> str | None:
    """What stands on the tabletop, JSON; None elsewhere."""
    return json.dumps([asdict(item) for item in env.table.primitives]) if isinstance(env, TableEnv) else None


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
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    kept = failed = 0
    try:
        with h5py.File(partial, "w") as file, _attempts(recording, workers) as attempts:
            data = file.create_group("data")
            with tqdm(total=episodes, desc=f"record {recording.task}", unit="demo") as progress:
                for attempt in attempts:
                    if attempt is None:
                        continue
                    if attempt.success:
                        _write(data.create_group(f"demo_{kept}"), attempt)
                        data.attrs["control_hz"] = attempt.control_hz
                        kept += 1
                        progress.update()
                    else:
                        failed += 1
                        progress.set_postfix(failed=failed)
                    if kept == episodes:
                        break
                    if failed > 10 + _GIVE_UP * kept:
                        tried = failed + kept
                        raise ValueError(
                            f"{failed} of {tried} attempts failed: try less noise than {recording.noise} m"
                        )
            _describe(data, recording, failed)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    log.info("wrote %d demonstrations to %s, left out %d failed attempts", kept, output, failed)
    return failed


def _describe(data: h5py.Group, recording: Recording, failed: int) -> None:
    data.attrs["total"] = sum(demo.attrs["num_samples"] for demo in data.values())
    data.attrs["env_args"] = json.dumps(
        {
            "env_name": ENVIRONMENTS[recording.task],
            "task": recording.task,
            "env_kwargs": {"split": recording.split} if recording.task in TABLE_TASKS else {},
            "versions": {name: version(name) for name in PACKAGES},
            "recording": {**asdict(recording), "failed": failed},
        }
    )
    for name, features in (("state_features", STATE_FEATURES), ("action_features", ACTION_FEATURES)):
        data.attrs[name] = json.dumps([[feature.name, feature.unit] for feature in features])


def _write(group: h5py.Group, demo: Demonstration) -> None:
    steps = len(demo.actions)
    for name in ("instruction", "seed", "success", "short", "primitives", "model_file"):
        if (value := getattr(demo, name)) is not None:
            group.attrs[name] = value
    group.attrs["num_samples"] = steps
    ended = np.arange(steps) == steps - 1
    arrays = {
        "actions": demo.actions,
        "executed_actions": demo.executed_actions,
        "states": demo.states,
        "rewards": ended.astype(np.float32),
        "dones": ended.astype(np.uint8),
        **{f"obs/{name}": value for name, value in demo.observations.items()},
    }
    for name, value in arrays.items():
        group.create_dataset(name, data=value, compression="gzip", compression_opts=1)


@contextmanager
def _attempts(recording: Recording, workers: int) -> Iterator[Iterator[Demonstration | None]]:
    """Attempts 0, 1, 2, ... without end, in order, from this process or from `workers` spawned ones."""
    if workers == 1:
        recorder = Recorder(recording)
        try:
            yield map(recorder, count())
        finally:
            recorder.close()
        return
    # spawn: a forked child would inherit this process's GL state. An executor: a pool waits forever for a killed child.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker, initargs=(recording,)) as pool:
        try:
            yield _ahead(pool, 2 * workers)
        finally:
            pool.shutdown(cancel_futures=True)


def _ahead(pool: ProcessPoolExecutor, reach: int) -> Iterator[Demonstration | None]:
    """Attempts in order, `reach` of them under way at any time."""
    pending = deque(pool.submit(_work, index) for index in range(reach))
    for index in count(reach):
        yield pending.popleft().result()
        pending.append(pool.submit(_work, index))


_recorder: Recorder | None = None  # a worker's own


def _start_worker(recording: Recording) -> None:
    global _recorder
    _recorder = Recorder(recording)


def _work(index: int) -> Demonstration | None:
    assert _recorder is not None, "_start_worker has not run"
    return _recorder(index)
