"""The arena's table: `python benchmarks/arena.py WORK [--checkpoint POLICY]`.

Every task by its expert, by random actions and, where it was trained on it, by the policy that ships; and that policy
on every split. What is already in WORK is kept, so a killed run goes on. Writes benchmarks/results/arena.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from provenance import ROOT, provenance
from tqdm import tqdm

from aegis_sim import tasks
from aegis_sim.env import ArmEnv
from aegis_sim.splits import SPLITS
from aegis_sim.statistics import rate_of

RESULTS = ROOT / "benchmarks" / "results" / "arena.json"
SCRIPTED_EPISODES, SHIPPED_EPISODES, SEED, WORKERS = 100, 200, 0, 2
KEPT = ("success", "right_object", "vqa", "vqa_families", "time_to_success", "jerk")
Measured = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for what has been measured")
    parser.add_argument("--checkpoint", help="the policy; the one that ships if left out")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    places = [(task, "seen") for task in tasks.ROBOT_TASKS]
    places += [(task, split) for split in SPLITS if split != "seen" for task in tasks.TABLE_TASKS]
    scripted = _scripted(arguments.work, places)
    shipped = {
        (task, split): _shipped(arguments.work, task, split, arguments.checkpoint)
        for task, split in places
        if task in tasks.TABLE_TASKS
    }
    found = {place: {**scripted[place], **shipped.get(place, {})} for place in places}
    table = {task: found[task, "seen"] for task in tasks.ROBOT_TASKS}
    splits = {split: {task: found[task, split] for task in tasks.TABLE_TASKS} for split in SPLITS}
    settings = {"seed": SEED, "episodes": {"scripted": SCRIPTED_EPISODES, "shipped": SHIPPED_EPISODES}}
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # the speed is measured by speed.py
    RESULTS.write_text(
        json.dumps({**kept, "tasks": table, "splits": splits, **settings, **provenance()}, indent=1) + "\n"
    )


def _scripted(work: Path, places: list[tuple[str, str]]) -> dict[tuple[str, str], Measured]:
    """The expert and random actions, without cameras."""
    jobs = [(work / f"{who}-{task}-{split}.json", who, task, split) for who in _DRIVERS for task, split in places]
    jobs = [job for job in jobs if job[1] != "random" or job[3] == "seen"]  # random actions fail alike on all splits
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        list(tqdm(pool.map(_measure_scripted, jobs), total=len(jobs), desc="expert and random", unit="run"))
    found: dict[tuple[str, str], Measured] = {place: {} for place in places}
    for file, who, task, split in jobs:
        found[task, split][who] = json.loads(file.read_text())
    return found


def _measure_scripted(job: tuple[Path, str, str, str]) -> None:
    file, who, task, split = job
    if file.exists():
        return
    env = tasks.make(task, split, cameras=())
    drive = _DRIVERS[who](env)
    ended = [_play(env, drive, tasks.episode_seed("eval", SEED, index)) for index in range(SCRIPTED_EPISODES)]
    env.close()
    measured = {"success": rate_of(info["success"] for info in ended).to_dict()}
    if "right_object" in ended[0]:
        measured["right_object"] = rate_of(info["right_object"] for info in ended).to_dict()
    file.write_text(json.dumps(measured))


Driver = Callable[[int], Callable[[], np.ndarray]]
"""From an episode's seed to what gives its actions one by one."""


def _expert(env: ArmEnv) -> Driver:
    expert = tasks.expert(env)

    def begin(seed: int) -> Callable[[], np.ndarray]:
        expert.reset()
        return expert.act

    return begin


def _random(env: ArmEnv) -> Driver:
    def begin(seed: int) -> Callable[[], np.ndarray]:
        env.action_space.seed(seed % 2**32)
        return env.action_space.sample

    return begin


_DRIVERS: dict[str, Callable[[ArmEnv], Driver]] = {"expert": _expert, "random": _random}


def _play(env: ArmEnv, drive: Driver, seed: int) -> dict[str, Any]:
    """One episode to its end; returns the last info."""
    env.reset(seed=seed)
    act = drive(seed)
    while True:
        *_, terminated, truncated, info = env.step(act())
        if terminated or truncated:
            return info


def _shipped(work: Path, task: str, split: str, checkpoint: str | None) -> dict[str, Measured]:
    file = work / f"shipped-{task}-{split}.json"
    if not file.exists():
        options = ["--task", task, "--split", split, "--episodes", SHIPPED_EPISODES, "--seed", SEED]
        options += ["--workers", WORKERS, "--json", file, *(["--checkpoint", checkpoint] if checkpoint else [])]
        command = [str(Path(sys.executable).with_name("aegis")), "eval", *map(str, options)]
        subprocess.run(command, check=True)
    measured = json.loads(file.read_text())
    return {"shipped": {key: measured[key] for key in KEPT if key in measured}}


if __name__ == "__main__":
    main()
