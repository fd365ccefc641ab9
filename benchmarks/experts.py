"""How often the scripted experts succeed, task by task and arm by arm: `python3 benchmarks/experts.py`.

Writes benchmarks/results/experts.json after every pair, and skips those that are in it already: half an hour on two
idle cores, and it can be stopped at any time. The seeds are evaluations' (`tasks.episode_seed`), on none of which an
expert was tuned.
"""

from __future__ import annotations

import argparse
import json
from typing import get_args

import numpy as np
from provenance import ROOT, provenance
from tqdm import tqdm

from aegis_sim import tasks
from aegis_sim.statistics import rate_of

RESULTS = ROOT / "benchmarks" / "results" / "experts.json"
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=tasks.ROBOT_TASKS, choices=tasks.ROBOT_TASKS)
    parser.add_argument("--robots", nargs="+", default=get_args(tasks.Robot), choices=get_args(tasks.Robot))
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for task in options.tasks:
        for robot in options.robots if task in tasks.ROBOSUITE_TASKS else ["Panda"]:
            if f"{task} {robot}" in found:
                continue
            rate = measured(task, robot, options.episodes)
            found[f"{task} {robot}"] = {**provenance(), "seed": SEED, **rate}
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def measured(task: str, robot: str, episodes: int) -> dict[str, object]:
    """Success rate, mean steps of the successes and why the others failed, over `episodes` evaluation seeds."""
    named = {"robot": robot} if task in tasks.ROBOSUITE_TASKS else {}
    env = tasks.make(task, cameras=(), **named)
    expert, steps, failures = tasks.expert(env), [], {}
    for index in tqdm(range(episodes), desc=f"{task} {robot}", unit="episode"):
        seed = tasks.episode_seed("eval", SEED, index)
        _, info = env.reset(seed=seed)
        expert.reset()
        ended = False
        while not ended:
            *_, terminated, truncated, info = env.step(expert.act())
            ended = terminated or truncated
        if info["success"]:
            steps.append(env.steps)
        else:
            failures[str(seed)] = info["failure"]
    env.close()
    rate = rate_of([True] * len(steps) + [False] * len(failures)).to_dict()
    return {**rate, "mean_steps": float(np.mean(steps)) if steps else None, "failures": failures}


if __name__ == "__main__":
    main()
