"""The three methods side by side on one task: `python benchmarks/three_methods.py WORK`.

They start from the same VLM and see the same demonstrations in the same order for the same number of steps, one
training seed. WORK may be default_policy.py's: what is there is kept. Takes some two hours after that on two cores.
Writes benchmarks/results/three_methods.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from default_policy import EPISODES, SCENES_ASKED, SEED, WORKERS, Results, demonstrations, make_vlm
from provenance import ROOT, provenance
from recipe import evaluate, train

from aegis_policy.data.normalize import NormStats
from aegis_policy.model import checkpoint
from aegis_policy.training.config import MethodName, TrainConfig
from aegis_sim.tasks import QUESTION_TASKS

RESULTS = ROOT / "benchmarks" / "results" / "three_methods.json"
METHODS: tuple[MethodName, ...] = ("aegis", "naive", "stop-gradient")
TASK = "pick"
TRAINING = TrainConfig(steps=3_000, eval_every=1_000, compile=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for data, runs and measurements (some 3 GB)")
    work: Path = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    start = make_vlm(work)
    dataset = demonstrations(work, TASK)
    for method in METHODS:
        train(work / method, "train", replace(TRAINING, method=method), "--dataset", dataset, *start)
    untrained(work, Path(str(start[1])))
    results = {name: measure(work, name) for name in ("before", *METHODS)}
    settings = {"episodes": EPISODES, "seed": SEED, "training_seeds": [TRAINING.seed], "steps": TRAINING.steps}
    RESULTS.write_text(json.dumps({"results": results, **provenance(), **settings}, indent=1) + "\n")


def untrained(work: Path, vlm: Path) -> None:
    """The VLM with an expert that has learnt nothing: what there is before fine-tuning."""
    trained = checkpoint.load(work / METHODS[0])
    stats = NormStats.load(checkpoint.resolve(work / METHODS[0]))
    info = replace(trained.info, model="before", checkpoint="")
    checkpoint.save(checkpoint.start_policy(vlm, info, stats), work / "before")


def measure(work: Path, name: str) -> Results:
    """Both abilities, on episodes and scenes that nothing was trained or chosen on; before training, answers alone."""
    counts = dict.fromkeys(QUESTION_TASKS, SCENES_ASKED)
    if name != "before":
        counts = {TASK: EPISODES, **counts}
    options = ("--seed", SEED, "--workers", WORKERS)
    return {
        task: evaluate(work / "measured" / f"{name}-{task}.json", work / name, task, count, *options)
        for task, count in counts.items()
    }


if __name__ == "__main__":
    main()
