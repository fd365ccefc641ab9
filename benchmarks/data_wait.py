"""How long training waits for its data: `python benchmarks/data_wait.py`.

Records demonstrations, converts them to LeRobot v3, and has the real training loop, from the shipped policy and with
the default batch size, take STEPS steps from each: images held in memory, or read as they are needed, as happens to a
data set larger than half of the memory. The first step, before which nothing could be made ahead, counts apart.
`--keep FOLDER` keeps the demonstrations. Some minutes on two idle cores. Writes benchmarks/results/data_wait.json and
the table in docs/data.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pages import fill, table
from provenance import ROOT, provenance
from recipe import aegis

from aegis_policy.data.demonstrations import Demonstrations, half_of_memory
from aegis_policy.model.checkpoint import load
from aegis_policy.training import train as training
from aegis_policy.training.batches import Batches
from aegis_policy.training.config import MethodName, TrainConfig
from aegis_policy.training.state import METRICS

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "data_wait.json", ROOT / "docs" / "data.md"
EPISODES, STEPS = 24, 30
METHODS: tuple[MethodName, ...] = ("aegis", "stop-gradient")  # the slowest step and the quickest
MEMORY = {"in memory": half_of_memory(), "read as needed": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path)
    with TemporaryDirectory() as folder:
        results = measure_all(parser.parse_args().keep or Path(folder), Path(folder))
    settings = {"episodes": EPISODES, "steps": STEPS, "batch_size": TrainConfig().batch_size, "threads": 1}
    load_average = {"load_average": round(os.getloadavg()[1], 2)}
    RESULTS.write_text(json.dumps({"results": results, **settings, **load_average, **provenance()}, indent=1) + "\n")
    write_table(results)


def measure_all(data: Path, runs: Path) -> dict[str, dict[str, dict[str, float]]]:
    hdf5, lerobot = data / "pick.hdf5", data / "pick_lerobot"
    aegis(hdf5, "record", "--task", "pick", "--episodes", EPISODES, "--seed", 0, "--output", hdf5)
    aegis(lerobot, "data", "convert", hdf5, lerobot)
    return {
        f"{kind}, {where}": {
            "batch_ms": making(path, in_memory),
            **{method: waiting(path, in_memory, method, runs / kind / where / method) for method in METHODS},
        }
        for kind, path in (("HDF5", hdf5), ("LeRobot v3 video", lerobot))
        for where, in_memory in MEMORY.items()
    }


def making(path: Path, in_memory: int) -> float:
    """How long a batch takes when nothing else is done, ms."""
    start, recipe = load(None), TrainConfig()
    dataset = Demonstrations([path], start.info.horizon, in_memory=in_memory)
    sizes = {"batch_size": recipe.batch_size, "noise_samples": recipe.noise_samples}
    batches = Batches(dataset, start.processor, start.norm_stats, **sizes, seed=0)
    times = []
    for step in range(STEPS):
        began = time.perf_counter()
        batches.batch(step)
        times.append(time.perf_counter() - began)
    return round(1e3 * float(np.mean(times[1:])), 1)


def waiting(path: Path, in_memory: int, method: MethodName, output: Path) -> dict[str, float]:
    """Of the loop of `aegis train`: share of the time that it waits for data, and milliseconds a step."""
    recipe = TrainConfig(dataset=(str(path),), method=method, steps=STEPS, eval_every=0, log_every=1, save_every=STEPS)
    with images_within(in_memory):
        training.train(recipe, output)
    rows = [json.loads(line) for line in (output / METRICS).read_text().splitlines()]
    waited, took = (np.array([row[key] for row in rows if "loss" in row]) for key in ("data_seconds", "seconds"))
    return {
        "share_waiting": round(float(waited[1:].sum() / took[1:].sum()), 4),
        "step_ms": round(1e3 * float(took[1:].mean()), 1),
        "first_wait_ms": round(1e3 * float(waited[0]), 1),
    }


@contextmanager
def images_within(in_memory: int) -> Iterator[None]:
    """Let training hold so many bytes of images at most; what it does otherwise stays."""
    usual: Any = training.Demonstrations
    training.Demonstrations = partial(usual, in_memory=in_memory)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        training.Demonstrations = usual  # type: ignore[misc]


def write_table(results: dict[str, Any]) -> None:
    """Put the figures into the page."""
    head = ["data set, images", "a batch takes", *(f"waiting, `{method}`" for method in METHODS)]
    rows = [
        [name, f"{found['batch_ms']:.0f} ms", *(f"{found[method]['share_waiting']:.2%}" for method in METHODS)]
        for name, found in results.items()
    ]
    fill(PAGE, "data-wait", table(head, rows))


if __name__ == "__main__":
    main()
