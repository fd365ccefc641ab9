"""Real time, shown: what latency does to an arm that thinks while it moves. `python benchmarks/real_time.py WORK`.

In simulation on a virtual clock: the policy's chunks come after a latency that is made up, of 0 to 300 ms, with or
without jitter (uniform, up to as much again) and drops (one in five never comes, and is asked for anew after 0.5 s).
Everything between chunk and robot is `aegis_policy.control`, at 50 commands a second, with limits too wide to smooth a
seam. Episodes are those of `aegis eval --task pick --seed 1`, by which nothing was chosen. Two policies, both exported,
under every scheduler:

    shipped   the policy that ships; real-time chunking guides it
    trained   the same, its expert trained on for real-time chunking (`aegis train --max-delay`), and given its actions

Of each episode: success; starved ticks, after the first chunk, with nothing to carry out; and of the displacements per
0.1 s that the arm was told, the jump (m/s) and the jerk (m/s³) at seams, where another chunk takes over, and elsewhere.

What is in WORK is kept, every episode of it too: it goes on where it left off, one process for each core. Writes
benchmarks/results/real_time.json, the table in docs/control.md and the plots there.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from real_time_play import SCHEDULERS, Cell, Play
from real_time_report import write
from recipe import aegis, train
from tqdm import tqdm

from aegis_policy import Policy
from aegis_policy.inference.load import load_policy
from aegis_policy.model import checkpoint
from aegis_policy.training.config import TrainConfig
from aegis_sim import tasks

TASK, SEED, EPISODES, DEMONSTRATIONS = "pick", 1, 100, 1_500
RECIPE = TrainConfig(method="stop-gradient", steps=1_500, batch_size=16, max_delay=5, eval_every=0, compile=True)
"""Only the expert learns: what the VLM answers stays as it is, to the last bit."""
CONDITIONS = (*((latency, False, False) for latency in (0, 100, 200, 300)), (200, True, False), (200, True, True))
CELLS = [
    Cell(policy, scheduler, *condition)
    for condition in CONDITIONS
    for policy in ("shipped", "trained")
    for scheduler in SCHEDULERS
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for demonstrations and policies")
    work: Path = parser.parse_args().work.absolute()
    prepare(work)
    lines = work / "episodes.jsonl"
    there = {(row["cell"], row["episode"]) for row in rows(lines)}
    missing = [(cell, episode) for episode in range(EPISODES) for cell in CELLS if (cell.name, episode) not in there]
    processes = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool, lines.open("a") as file:
        jobs = pool.map(play, missing, [work] * len(missing), chunksize=4)
        for row in tqdm(jobs, total=len(missing), unit="episode"):
            file.write(json.dumps(row) + "\n")
            file.flush()
    played = defaultdict(list)
    for row in rows(lines):
        played[row["cell"]].append(row)
    write([(cell, played[cell.name]) for cell in CELLS], {"task": TASK, "seed": SEED, "training_steps": RECIPE.steps})


def prepare(work: Path) -> None:
    """Demonstrations, the policy that is trained on them, and both policies exported."""
    demonstrations = work / f"{TASK}.hdf5"
    options = ("--task", TASK, "--episodes", DEMONSTRATIONS, "--short-fraction", 0.6, "--seed", 1, "--workers", 2)
    aegis(demonstrations, "record", *options, "--output", demonstrations)
    shipped = checkpoint.asset("aegis-tiny")
    trained = train(work / "trained", "train", RECIPE, "--dataset", demonstrations, "--checkpoint", shipped)
    for name, folder in (("shipped", shipped), ("trained", trained)):
        aegis(exported(work, name), "export", "--checkpoint", folder, "--output", exported(work, name))


def exported(work: Path, policy: str) -> Path:
    return work / f"{policy}-onnx"


def play(job: tuple[Cell, int], work: Path) -> dict[str, Any]:
    """One episode."""
    cell, episode = job
    policy = _policy(exported(work, cell.policy))
    played = Play(_env(policy.info.cameras[0].height), policy, cell, tasks.episode_seed("eval", SEED, episode)).run()
    return {"cell": cell.name, "episode": episode, **played}


@cache
def _policy(folder: Path) -> Policy:
    return load_policy(folder)


@cache
def _env(image_size: int) -> Any:
    return tasks.make(TASK, image_size=image_size)


def rows(lines: Path) -> Iterable[dict[str, Any]]:
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


if __name__ == "__main__":
    main()
