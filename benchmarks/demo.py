"""The figures of `make demo`: `python3 benchmarks/demo.py`, best in a clean clone, as it runs the real thing.

Writes benchmarks/results/demo.json. Standard library only: the set-up is part of what is timed.
"""

from __future__ import annotations

import json
import subprocess
import time

from provenance import ROOT, provenance

RESULTS = ROOT / "benchmarks" / "results" / "demo.json"
KEPT = ("success", "right_object", "vqa", "vqa_families", "settings", "versions")


def main() -> None:
    goals = ("demo",) if (ROOT / ".venv" / ".ready").exists() else ("setup", "demo")  # what is there takes no time
    minutes = {f"{goal}_minutes": timed(goal) for goal in goals}
    figures = {}
    for label in ("before", "after"):
        measured = json.loads((ROOT / "runs" / "demo" / f"{label}.json").read_text())
        figures[label] = {key: measured[key] for key in KEPT}
    RESULTS.write_text(json.dumps({**provenance(), **minutes, **figures}, indent=1) + "\n")


def timed(goal: str) -> float:
    """How long `make GOAL` takes, min."""
    started = time.monotonic()
    subprocess.run(["make", goal], cwd=ROOT, check=True)
    return round((time.monotonic() - started) / 60, 1)


if __name__ == "__main__":
    main()
