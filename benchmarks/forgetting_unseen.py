"""The same where the VLM never saw its robot: `python benchmarks/forgetting_unseen.py WORK`.

The VLM that ships was pre-trained on scenes of the robot's own renderer, table and cameras, so what an expert needs may
be in it already. Here one of the same size is pre-trained on drawn scenes alone. From it what counts most of
benchmarks/forgetting.py, whose WORK it shares, is trained and measured as there, with the values that were tuned there,
and features held at lower strengths too.
What is in WORK and in benchmarks/results/forgetting is kept. Writes benchmarks/results/forgetting_unseen.json and a
table in docs/forgetting.md. Some hours on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from forgetting import FINAL, RUNS, Run, before, held_sets, measure, prepare
from forgetting_measure import Measured
from forgetting_report import PAGE, RESULTS, share, shown, spread, success
from pages import fill, table
from provenance import provenance
from recipe import aegis, train

from aegis_policy.training.config import PretrainConfig

UNSEEN = RESULTS.with_name("forgetting_unseen.json")
DRAWN = 10_000  # scenes
PRETRAINING = PretrainConfig(steps=5_000, compile=True)
SPLITS = (("seen", 100), ("moved-camera", 50))
COMPARED = {
    "naive": ("naive", 2e-4),
    "stop-gradient": ("stop-gradient", 4e-3),
    **{f"distil-features, {strength:g}": ("distil-features", strength) for strength in (16.0, 32.0, 64.0)},
}
"""By name: as tuned for the VLM that ships, and features held at strengths around the default."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="the folder of benchmarks/forgetting.py")
    work: Path = parser.parse_args().work.resolve()
    prepare(work)
    start = make_vlm(work)
    phase = replace(FINAL, name="unseen", episodes=SPLITS, start=start, anchor=None, models="models-unseen")
    known = before(start, RUNS / phase.name / "before.json", work)
    runs = [Run(way, value, phase, seed) for seed in phase.seeds for way, value in COMPARED.values()]
    write(known, list(measure(runs, work).values()))


def make_vlm(work: Path) -> Path:
    """A VLM that was shown drawings alone."""
    drawn = work / "drawn-only.hdf5"
    aegis(drawn, "record", "--task", "drawn", "--episodes", DRAWN, "--seed", 1, "--output", drawn)
    return train(work / "drawn-only", "pretrain", PRETRAINING, "--vqa", drawn, "--holdout", held_sets(work)[-1])


def write(known: Measured, made: Sequence[Measured]) -> None:
    """What is shown: by way, over seeds."""
    ways = {
        name: [run for run in made if (run["way"], run["value"]) == compared] for name, compared in COMPARED.items()
    }
    methods = {
        name: {
            "value": runs[0]["value"],
            "success_minus_naive": spread(
                [success(run) - success(naive) for run, naive in zip(runs, ways["naive"], strict=True)]
            ),
            "right_object": share([run["splits"]["seen"]["right_object"]["rate"] for run in runs]),
            "splits": {split: share([run["splits"][split]["success"]["rate"] for run in runs]) for split, _ in SPLITS},
            "sets": {each: share([run["vqa"][each]["accuracy"] for run in runs]) for each in known},
        }
        for name, runs in ways.items()
    }
    found = {"methods": methods, "before": known, "seeds": [run["seed"] for run in ways["naive"]], **provenance()}
    UNSEEN.write_text(json.dumps(found, indent=1) + "\n")
    rows = [["before", *[""] * (2 + len(SPLITS)), *(f"{each['accuracy']:.2f}" for each in known.values())]]
    for name, of in methods.items():
        cells = [shown(of["splits"][split]) for split, _ in SPLITS]
        cells += [shown(of["success_minus_naive"], signed=True), shown(of["right_object"])]
        rows.append([f"`{name}`", *cells, *(shown(each) for each in of["sets"].values())])
    head = ["way", *(f"success: {split}" for split, _ in SPLITS), "minus naive (seen)", "right object (seen)"]
    fill(PAGE, "unseen", table([*head, *(f"VQA: {name}" for name in known)], rows))


if __name__ == "__main__":
    main()
