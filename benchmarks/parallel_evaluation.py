"""How much faster an evaluation is on two cores: `python benchmarks/parallel_evaluation.py JSON`.

The same `aegis eval` of one camera, 128 x 128, by one process and by two workers in turn, each a command of its own
with its whole start-up. What counts is the ratio of the two medians, and that all find the same numbers. The policy is
the one that ships, given that camera alone: what it can do with it is of no interest here, what it costs is. Takes some
twenty minutes on an idle machine. Part of arena.py, which puts the file into arena.json as `speed`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from provenance import provenance

from aegis_policy import Camera
from aegis_policy.model import checkpoint
from aegis_sim.results import UNREPEATABLE

CAMERA = Camera("front", 128, 128)
TARGET = 1.7
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, metavar="JSON", help="the file to write")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3, help="of each number of workers, in turn")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    seconds: dict[int, list[float]] = {1: [], arguments.workers: []}
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        policy = one_camera(Path(folder, "policy"))
        for _ in range(arguments.repeats):
            for workers, times in seconds.items():
                took, numbers = measure(policy, arguments.episodes, workers, Path(folder, "found.json"))
                times.append(took)
                found.append(numbers)
    if any(numbers != found[0] for numbers in found):
        sys.exit("parallel_evaluation: the numbers are not the same for all runs")
    medians = {workers: statistics.median(times) for workers, times in seconds.items()}
    ratio = medians[1] / medians[arguments.workers]
    written = {
        "ratio": ratio,
        "target": TARGET,
        "episodes": arguments.episodes,
        "camera": [CAMERA.name, CAMERA.height, CAMERA.width],
        "seconds": {f"{workers} workers": times for workers, times in seconds.items()},
        "episodes_per_second": {f"{workers} workers": arguments.episodes / s for workers, s in medians.items()},
        "same_numbers": True,
        "success": found[0]["success"],
        **provenance(),
    }
    arguments.output.write_text(json.dumps(written, indent=1) + "\n")
    print(f"{ratio:.2f} times one process with {arguments.workers} workers (wanted: {TARGET}); see {arguments.output}")


def one_camera(folder: Path) -> Path:
    """The shipped policy as one of CAMERA alone, which it scales to the size that it reads."""
    shipped = checkpoint.load(None)
    checkpoint.save(replace(shipped, info=replace(shipped.info, cameras=(CAMERA,))), folder)
    return folder


def measure(policy: Path, episodes: int, workers: int, result: Path) -> tuple[float, dict[str, Any]]:
    """Seconds that the command takes, and what it finds that has to be the same every time."""
    command = [str(Path(sys.executable).with_name("aegis")), "eval", "--checkpoint", str(policy), "--json", str(result)]
    command += ["--episodes", str(episodes), "--seed", str(SEED), "--workers", str(workers)]
    started = time.perf_counter()
    subprocess.run(command, check=True)
    took = time.perf_counter() - started
    data = json.loads(result.read_text())
    return took, {key: value for key, value in data.items() if key not in UNREPEATABLE}


if __name__ == "__main__":
    main()
