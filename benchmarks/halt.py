"""How fast the arm halts when something fails: `source ros2_ws/env.sh && python benchmarks/halt.py WORK`.

The real `policy_node` in a process of its own, over real DDS, drives a Panda without physics (tests/ros/light.py), its
hand at 0.2 m/s; the policy sits behind `aegis serve`'s server in a third process. Then something fails, at a random
moment, TRIALS times each. Times count from the instant at which the node could first know: until the arm brakes (its
fastest joint has lost a tenth of its speed), and until it is at rest. What is already in WORK is kept. Some 40 minutes
on two cores. Writes benchmarks/results/halt.json and the table in docs/ros.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from pages import fill, table
from provenance import ROOT, provenance
from tqdm import tqdm

sys.path.insert(0, str(ROOT))  # what fails, and how, is the tests' too

from tests.ros.halting import CLOCK_FAULTS, FAULTS, PARAMETERS, Bench, Fault, Trial, tried
from tests.ros.light import SPEED
from tests.ros.robot import own_domain

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "halt.json", ROOT / "docs" / "ros.md"
TRIALS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for what has been measured")
    work: Path = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    progress = tqdm(total=TRIALS * (len(FAULTS) + len(CLOCK_FAULTS)), unit="trial")
    with own_domain():
        for faults, simulated_time in ((FAULTS, False), (CLOCK_FAULTS, True)):
            measure(work, faults, simulated_time, progress)
    found = {fault.name: json.loads((work / f"{fault.name}.json").read_text()) for fault in (*FAULTS, *CLOCK_FAULTS)}
    settings = {"hand_m_s": SPEED, "parameters": PARAMETERS}
    RESULTS.write_text(json.dumps({"faults": found, **settings, **provenance()}, indent=1) + "\n")
    write_table(found)


def measure(work: Path, faults: tuple[Fault, ...], simulated_time: bool, progress: tqdm) -> None:
    """All trials of these faults that have not been made."""
    missing = [fault for fault in faults if not (work / f"{fault.name}.json").exists()]
    progress.update(TRIALS * (len(faults) - len(missing)))
    if not missing:
        return
    with closing(Bench(simulated_time)) as bench:
        for fault in missing:
            trials = []
            for _ in range(TRIALS):
                progress.set_description(fault.name)
                trials.append(tried(bench, fault))
                progress.update()
            (work / f"{fault.name}.json").write_text(json.dumps(summary(fault, trials), indent=1) + "\n")


def summary(fault: Fault, trials: list[Trial]) -> dict[str, Any]:
    braked, rested = ([getattr(trial, what) for trial in trials] for what in ("braked", "rested"))
    return {
        "n": len(trials),
        "halted": sum(trial.at_rest for trial in trials),
        "for_it": sum(trial.for_it for trial in trials),
        **percentiles("", rested),
        **percentiles("braking_", braked),
        "counted_from": fault.when,
        "says": trials[0].said,
        "otherwise": [trial.said for trial in trials if not (trial.at_rest and trial.for_it)],
    }


def percentiles(name: str, milliseconds: list[float]) -> dict[str, float]:
    return {f"{name}p{q}_ms": round(float(np.percentile(milliseconds, q)), 1) for q in (50, 99)}


def write_table(found: dict[str, dict[str, Any]]) -> None:
    """Put the figures into the page."""
    head = (
        "what fails",
        "counted from",
        "halted, and for it",
        "brakes after, ms: median, p99",
        "at rest after, ms: median, p99",
    )
    rows = []
    for name, measured in found.items():
        brakes, rests = (
            f"{measured[f'{what}p50_ms']:.0f}, {measured[f'{what}p99_ms']:.0f}" for what in ("braking_", "")
        )
        halted = f"{measured['halted']}, {measured['for_it']} of {measured['n']}"
        rows.append((name.replace("_", " "), measured["counted_from"], halted, brakes, rests))
    fill(PAGE, "halts", table(head, rows))


if __name__ == "__main__":
    main()
