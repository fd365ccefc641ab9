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
from typing import Any

import h5py
import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from aegis_sim.arm import HOME_ROTATION
from aegis_sim.env import ACTION_FEATURES, CAMERAS, STATE_FEATURES, ArmEnv
from aegis_sim.expert import Expert, funnel_height
from aegis_sim.table_env import TableEnv
from aegis_sim.tasks import ENVIRONMENTS, ROBOT_TASKS, TABLE_TASKS, check_split, episode_seed, expert, make

log = logging.getLogger(__name__)

PACKAGES = ("robosuite", "mujoco", "gymnasium", "numpy")
DISTURBED_STEPS = (2, 6)  # how long a disturbance, or a pause between two, lasts: at least, less than
ROTATION_NOISE = 2.0  # rad of rotation noise per m of translation noise
CARRYING = 0.5  # share of the short demonstrations of placing that begin with the object in the hand
_GIVE_UP = 3  # times as many failures as successes: something is wrong


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

    def __init__(self, task: str, split: str, seed: int, noise: float, short_fraction: float) -> None:
        self._env = make(task, split)
        self._expert = expert(self._env)
        self._seed, self._noise, self._short_fraction = seed, noise, short_fraction

    def __call__(self, index: int) -> Demonstration:
        """One attempt, successful or not."""
        env, seed = self._env, episode_seed("record", self._seed, index)
        rng = np.random.default_rng(seed)
        observation, info = env.reset(seed=seed)
        self._expert.reset()
        short = bool(rng.random() < self._short_fraction)
        if short:
            assert isinstance(env, TableEnv) and isinstance(self._expert, Expert), "record_demonstrations sees to it"
            _start_on_the_way(env, self._expert, rng)
            observation = env.observe()
        disturb = _disturbances(rng, self._noise)
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


def _start_on_the_way(env: TableEnv, expert: Expert, rng: np.random.Generator) -> None:
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


def record_demonstrations(
    task: str,
    episodes: int,
    output: Path,
    *,
    split: str = "seen",
    seed: int = 0,
    noise: float = 0.0,
    short_fraction: float = 0.0,
    workers: int = 1,
) -> int:
    """Record `episodes` successful demonstrations of `task` into `output`, which appears when it is whole.

    Args:
        split: name of the split, see `splits.py`; robosuite's own tasks have "seen" alone.
        seed: which episodes, see `tasks.episode_seed`.
        noise: standard deviation of the disturbances, m per step.
        short_fraction: share of attempts that start on the way; on the tabletop only.
        workers: processes; the file is the same for any number of them.

    Returns:
        How many attempts failed and were left out.

    Raises:
        ValueError: an unknown task or split, an argument out of its range, or so much noise that most attempts fail.
    """
    if task not in ROBOT_TASKS:
        raise ValueError(f"task '{task}': there are experts for {', '.join(ROBOT_TASKS)}")
    check_split(task, split)
    if episodes < 1 or workers < 1:
        raise ValueError(f"episodes and workers must be at least 1, got {episodes} and {workers}")
    if noise < 0 or not 0 <= short_fraction <= 1:
        raise ValueError(f"noise must be >= 0 and short_fraction within 0..1, got {noise} and {short_fraction}")
    if short_fraction and task not in TABLE_TASKS:
        raise ValueError(f"short_fraction is {short_fraction}: only {', '.join(TABLE_TASKS)} can start on the way")
    settings = (task, split, seed, noise, short_fraction)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    kept = failed = 0
    try:
        with h5py.File(partial, "w") as file, _attempts(settings, workers) as attempts:
            data = file.create_group("data")
            with tqdm(total=episodes, desc=f"record {task}", unit="demo") as progress:
                for attempt in attempts:
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
                        raise ValueError(f"{failed} of {failed + kept} attempts failed: try less noise than {noise} m")
            recording = {"seed": seed, "noise": noise, "short_fraction": short_fraction, "failed": failed}
            _describe(data, task, split, recording)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    log.info("wrote %d demonstrations to %s, left out %d failed attempts", kept, output, failed)
    return failed


def _describe(data: h5py.Group, task: str, split: str, recording: dict[str, float]) -> None:
    data.attrs["total"] = sum(demo.attrs["num_samples"] for demo in data.values())
    data.attrs["env_args"] = json.dumps(
        {
            "env_name": ENVIRONMENTS[task],
            "task": task,
            "env_kwargs": {"split": split} if task in TABLE_TASKS else {},
            "versions": {name: version(name) for name in PACKAGES},
            "recording": recording,
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
def _attempts(settings: tuple[Any, ...], workers: int) -> Iterator[Iterator[Demonstration]]:
    """Attempts 0, 1, 2, ... without end, in order, from this process or from `workers` spawned ones."""
    if workers == 1:
        recorder = Recorder(*settings)
        try:
            yield map(recorder, count())
        finally:
            recorder.close()
        return
    # spawn: a forked child would inherit this process's GL state. An executor: a pool waits forever for a killed child.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker, initargs=settings) as pool:
        try:
            yield _ahead(pool, 2 * workers)
        finally:
            pool.shutdown(cancel_futures=True)


def _ahead(pool: ProcessPoolExecutor, reach: int) -> Iterator[Demonstration]:
    """Attempts in order, `reach` of them under way at any time."""
    pending = deque(pool.submit(_work, index) for index in range(reach))
    for index in count(reach):
        yield pending.popleft().result()
        pending.append(pool.submit(_work, index))


_recorder: Recorder | None = None  # a worker's own


def _start_worker(*settings: Any) -> None:
    global _recorder
    _recorder = Recorder(*settings)


def _work(index: int) -> Demonstration:
    assert _recorder is not None, "_start_worker has not run"
    return _recorder(index)
