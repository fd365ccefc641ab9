"""The figures of `make demo`: `python3 benchmarks/demo.py`, best in a clean clone, as it runs the real thing.

Writes benchmarks/results/demo.json. Standard library only: the set-up is part of what is timed.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from provenance import ROOT, provenance

RESULTS, RUN = ROOT / "benchmarks" / "results" / "demo.json", ROOT / "runs" / "demo"
KEPT = ("success", "right_object", "vqa", "vqa_families", "settings", "versions")


def main() -> None:
    goals = ("demo",) if (ROOT / ".venv" / ".ready").exists() else ("setup", "demo")  # what is there takes no time
    minutes = {f"{goal}_minutes": timed(goal) for goal in goals}
    figures = {}
    for label in ("before", "after"):
        measured = json.loads((RUN / f"{label}.json").read_text())
        figures[label] = {key: measured[key] for key in KEPT}
    held_out = followed(RUN / "policy" / "metrics.jsonl")
    RESULTS.write_text(json.dumps({**provenance(), **minutes, **figures, "held_out": held_out}, indent=1) + "\n")


def followed(metrics: Path) -> dict[str, dict[str, float]]:
    """VQA on the sets that training follows: accuracy before its first step and after its last, and how many."""
    scores = [row["vqa"] for row in map(json.loads, metrics.read_text().splitlines()) if "vqa" in row]
    first, last = scores[0], scores[-1]
    return {
        name: {"before": first[name]["accuracy"], "after": last[name]["accuracy"], "n": last[name]["n"]}
        for name in first
    }


def timed(goal: str) -> float:
    """How long `make GOAL` takes, min."""
    started = time.monotonic()
    subprocess.run(["make", goal], cwd=ROOT, check=True)
    return round((time.monotonic() - started) / 60, 1)


if __name__ == "__main__":
    main()
