"""The arena's figures: `python benchmarks/arena.py`.

Every task by its expert, by random actions and, on the tabletop, by the policy that ships; each of them on every split;
the experts with every arm; and what a second worker gains. Each run is a file in benchmarks/results/arena, with the
commit and the machine it was made with; what is there is kept, so a killed run goes on, on another machine too, and
what is to be measured again is deleted first. A run of the shipped policy is made again once another one ships. Takes
some four hours on two fast cores. Writes benchmarks/results/arena.json, the tables in docs/arena.md and the plot beside
them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import numpy as np
from arena_tables import write_tables
from provenance import ROOT, keep, provenance
from recipe import evaluate
from tqdm import tqdm

from aegis_policy.inference.load import load_policy
from aegis_sim import tasks
from aegis_sim.env import ArmEnv
from aegis_sim.splits import SPLITS
from aegis_sim.statistics import rate_of, wilson

RESULTS = ROOT / "benchmarks" / "results" / "arena.json"
RUNS = ROOT / "benchmarks" / "results" / "arena"
SCRIPTED_EPISODES, SEED, WORKERS = 100, 0, 2
ARMS_TASKS = ("lift", "stack", "can")
"""What every arm is tried at; the experts of nut and door were made for the Panda."""
SHIPPED_EPISODES = {split: 200 if split == "seen" else 50 for split in SPLITS}
Measured = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """Who does what, where: "expert", "random" or "shipped"."""

    who: str
    task: str
    split: str = "seen"
    robot: str = "Panda"

    @property
    def file(self) -> Path:
        return RUNS / f"{self.who}-{self.task}-{self.split}-{self.robot}.json"

    def write(self, measured: Measured) -> None:
        """Keep what was measured; a file that is there is whole."""
        keep(self.file, measured)


def main() -> None:
    scripted = run_scripted()
    shipped = {
        (task, split): run_shipped(Run("shipped", task, split)) for split in SPLITS for task in tasks.TABLE_TASKS
    }
    speed = run_speed()
    found = {
        "tasks": {task: place(scripted, shipped, task, "seen") for task in tasks.ROBOT_TASKS},
        "splits": {split: pooled(scripted, shipped, split) for split in SPLITS},
        "arms": {
            task: {robot: scripted[Run("expert", task, robot=robot)] for robot in get_args(tasks.Robot)}
            for task in ARMS_TASKS
        },
        "speedup_2_cores": speed["ratio"],
        "speed": speed,
        "seed": SEED,
        "episodes": {"scripted": SCRIPTED_EPISODES, "shipped": SHIPPED_EPISODES},
        **provenance(),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    write_tables(found)


def place(scripted: dict[Run, Measured], shipped: dict[tuple[str, str], Measured], task: str, split: str) -> Measured:
    """What everyone achieves at a task, on a split."""
    found = {who: scripted[Run(who, task, split)] for who in DRIVERS}
    return found | ({"shipped": shipped[task, split]} if (task, split) in shipped else {})


def pooled(scripted: dict[Run, Measured], shipped: dict[tuple[str, str], Measured], split: str) -> Measured:
    """A split over all tasks on the tabletop, each with as many episodes, and task by task."""
    by_task = {task: place(scripted, shipped, task, split) for task in tasks.TABLE_TASKS}
    together: Measured = {}
    for who in (*DRIVERS, "shipped"):
        together[who] = {}
        for what in ("success", "right_object"):
            rates = [measured[who][what] for measured in by_task.values()]
            n = sum(rate["n"] for rate in rates)
            together[who][what] = wilson(round(sum(rate["rate"] * rate["n"] for rate in rates)), n).to_dict()
    return {**together, "tasks": by_task}


def run_scripted() -> dict[Run, Measured]:
    """The experts and random actions, without cameras."""
    runs = [Run(who, task) for who in DRIVERS for task in tasks.ROBOSUITE_TASKS]
    runs += [Run(who, task, split) for who in DRIVERS for task in tasks.TABLE_TASKS for split in SPLITS]
    others = [robot for robot in get_args(tasks.Robot) if robot != "Panda"]
    runs += [Run("expert", task, robot=robot) for task in ARMS_TASKS for robot in others]
    missing = [run for run in runs if not run.file.exists()]
    # spawn: a forked child would inherit this process's state of robosuite
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        list(tqdm(pool.map(measure, missing), total=len(missing), desc="expert and random", unit="run"))
    return {run: json.loads(run.file.read_text()) for run in runs}


def measure(run: Run) -> None:
    """Play SCRIPTED_EPISODES evaluation episodes, on none of which an expert was tuned, and write what came of them."""
    options = {"robot": run.robot} if run.task in tasks.ROBOSUITE_TASKS else {}
    env = tasks.make(run.task, run.split, cameras=(), **options)
    drive = DRIVERS[run.who](env)
    seeds = [tasks.episode_seed("eval", SEED, index) for index in range(SCRIPTED_EPISODES)]
    ended = {seed: play(env, drive, seed) for seed in seeds}
    env.close()
    measured: Measured = {"success": rate_of(info["success"] for info in ended.values()).to_dict()}
    if "right_object" in ended[seeds[0]]:
        measured["right_object"] = rate_of(info["right_object"] for info in ended.values()).to_dict()
    measured["failures"] = {str(seed): info["failure"] for seed, info in ended.items() if not info["success"]}
    run.write(measured)


Driver = Callable[[int], Callable[[], np.ndarray]]
"""From an episode's seed to what gives its actions one by one."""


def expert(env: ArmEnv) -> Driver:
    scripted = tasks.expert(env)

    def begin(_seed: int) -> Callable[[], np.ndarray]:
        scripted.reset()
        return scripted.act

    return begin


def random(env: ArmEnv) -> Driver:
    def begin(seed: int) -> Callable[[], np.ndarray]:
        env.action_space.seed(seed % 2**32)
        return env.action_space.sample

    return begin


DRIVERS: dict[str, Callable[[ArmEnv], Driver]] = {"expert": expert, "random": random}


def play(env: ArmEnv, drive: Driver, seed: int) -> Measured:
    """One episode to its end; returns the last info."""
    env.reset(seed=seed)
    act = drive(seed)
    while True:
        *_, terminated, truncated, info = env.step(act())
        if terminated or truncated:
            return info


def run_shipped(run: Run) -> Measured:
    """The policy, by `aegis eval`."""
    policy = load_policy().info.checkpoint
    if not run.file.exists() or json.loads(run.file.read_text())["checkpoint"] != policy:
        options = ("--split", run.split, "--seed", SEED, "--workers", WORKERS)
        with tempfile.TemporaryDirectory() as folder:
            measured = evaluate(Path(folder, "eval.json"), None, run.task, SHIPPED_EPISODES[run.split], *options)
        run.write({**measured, "checkpoint": policy})
    return json.loads(run.file.read_text())


def run_speed() -> Measured:
    """What a second worker gains, by parallel_evaluation.py."""
    file = RUNS / "speed.json"
    if not file.exists():
        script = Path(__file__).with_name("parallel_evaluation.py")
        subprocess.run([sys.executable, str(script), str(file)], check=True)
    return json.loads(file.read_text())


if __name__ == "__main__":
    main()
