"""What a policy's temperature does: `python benchmarks/temperature.py WORK`.

The policy that ships at several temperatures, on the same tuning episodes: success, and against training's temperature
the episodes that only one of the two won. What is already in WORK is kept. Writes benchmarks/results/temperature.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from provenance import ROOT, provenance
from recipe import evaluate

from aegis_policy.model import checkpoint
from aegis_sim.compare import compare_files
from aegis_sim.tasks import TABLE_TASKS

RESULTS = ROOT / "benchmarks" / "results" / "temperature.json"
TEMPERATURES = (1.0, 0.5, 0.0)
"""Training's comes first."""
EPISODES, WORKERS = 50, 2
TUNING_SEED = 100
"""Evaluations that are reported have the seed 0."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for policies and measurements")
    work: Path = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    results = {task: measure(work, task) for task in TABLE_TASKS}
    settings = {"episodes": EPISODES, "seed": TUNING_SEED}
    RESULTS.write_text(json.dumps({"results": results, **provenance(), **settings}, indent=1) + "\n")


def measure(work: Path, task: str) -> dict[str, Any]:
    """Temperature -> success with its interval, and the pairs with training's temperature."""
    found: dict[str, Any] = {}
    files = {temperature: work / f"{task}-{temperature:g}.json" for temperature in TEMPERATURES}
    for temperature, file in files.items():
        options = ("--seed", TUNING_SEED, "--workers", WORKERS)
        measured = evaluate(file, policy_at(work, temperature), task, EPISODES, *options)
        pairs = compare_files(file, files[TEMPERATURES[0]])
        found[f"{temperature:g}"] = {
            "success": measured["success"],
            "against_training": {**asdict(pairs), "p_value": pairs.p_value},
        }
    return found


def policy_at(work: Path, temperature: float) -> Path:
    """A copy of the policy that ships, at another temperature."""
    folder = work / f"policy-{temperature:g}"
    shutil.copytree(checkpoint.asset("aegis-tiny"), folder, dirs_exist_ok=True)
    config = json.loads((folder / checkpoint.CONFIG).read_text())
    config["expert"]["temperature"] = temperature
    (folder / checkpoint.CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return folder


if __name__ == "__main__":
    main()
