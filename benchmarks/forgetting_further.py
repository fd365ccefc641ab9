"""What else the default was put to: `python benchmarks/forgetting_further.py WORK`.

After benchmarks/forgetting.py, whose WORK it shares, and measured as there with the values that were tuned there:

- `fresh`: training seeds that nothing was chosen by.
- `unseen`: from a VLM that never saw its robot. The one that ships was pre-trained on scenes of the robot's own
  renderer, table and cameras, so what an expert needs may be in it already. Here one of the same size is pre-trained on
  drawn scenes alone.

What is in WORK and in benchmarks/results/forgetting is kept. Writes benchmarks/results/forgetting_fresh.json and
forgetting_unseen.json, and a table of each in docs/forgetting.md. Some hours on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from forgetting import FINAL, RUNS, Phase, Run, before, held_sets, measure, prepare
from forgetting_measure import Measured
from forgetting_report import PAGE, RESULTS, rated, share, shown, spread, success, vqa_accuracy
from pages import fill, table
from provenance import provenance
from recipe import aegis, train

from aegis_policy.training.config import PretrainConfig

DRAWN = 10_000  # scenes
PRETRAINING = PretrainConfig(steps=5_000, compile=True)
FRESH = replace(FINAL, name="fresh", seeds=(3, 4, 5))
NAIVE = ("naive", 2e-4)
HELD = {f"distil-features, {strength:g}": ("distil-features", strength) for strength in (16.0, 32.0, 64.0)}
"""By name: features held at strengths around the default."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="the folder of benchmarks/forgetting.py")
    work: Path = parser.parse_args().work.resolve()
    prepare(work)
    compare(FRESH, {"naive": NAIVE, "distil-features, 32": HELD["distil-features, 32"]}, RUNS / "before.json", work)
    episodes = tuple(each for each in FINAL.episodes if each[0] != "unseen-pairs")
    unseen = replace(FINAL, name="unseen", episodes=episodes, start=make_vlm(work), anchor=None, models="models-unseen")
    compared = {"naive": NAIVE, "stop-gradient": ("stop-gradient", 4e-3), **HELD}
    compare(unseen, compared, RUNS / unseen.name / "before.json", work)


def make_vlm(work: Path) -> Path:
    """A VLM that was shown drawings alone."""
    drawn = work / "drawn-only.hdf5"
    aegis(drawn, "record", "--task", "drawn", "--episodes", DRAWN, "--seed", 1, "--output", drawn)
    return train(work / "drawn-only", "pretrain", PRETRAINING, "--vqa", drawn, "--holdout", held_sets(work)[-1])


def compare(phase: Phase, compared: Mapping[str, tuple[str, float]], known: Path, work: Path) -> None:
    """Make what is missing of a phase, and write what is shown of it: by name of a way and its value, over seeds."""
    start = before(phase.start, known, work)
    runs = [Run(way, value, phase, seed) for seed in phase.seeds for way, value in compared.values()]
    made = measure(runs, work)
    ways = {
        name: [found for run, found in made.items() if (run.way, run.value) == each] for name, each in compared.items()
    }
    methods = {name: of_way(found, ways["naive"], start) for name, found in ways.items()}
    written = {"methods": methods, "before": start, "seeds": phase.seeds, **provenance()}
    RESULTS.with_name(f"forgetting_{phase.name}.json").write_text(json.dumps(written, indent=1) + "\n")
    fill(PAGE, phase.name, shown_of(methods, start))


def of_way(found: Sequence[Measured], naive: Sequence[Measured], start: Measured) -> Measured:
    """Each figure over seeds; a difference to naive fine-tuning is between runs of the same seed."""
    pairs = zip(found, naive, strict=True)
    return {
        "value": found[0]["value"],
        "success_minus_naive": spread([success(run) - success(base) for run, base in pairs]),
        "vqa_minus_before": spread([vqa_accuracy(run) - vqa_accuracy({"vqa": start}) for run in found]),
        "right_object": rated([run["splits"]["seen"]["right_object"] for run in found]),
        "splits": {split: rated([run["splits"][split]["success"] for run in found]) for split in found[0]["splits"]},
        "sets": {name: share([run["vqa"][name]["accuracy"] for run in found]) for name in start},
    }


def shown_of(methods: Mapping[str, Measured], start: Measured) -> str:
    """The table."""
    splits = list(next(iter(methods.values()))["splits"])
    rows = [["before", *[""] * (3 + len(splits)), *(f"{each['accuracy']:.2f}" for each in start.values())]]
    for name, of in methods.items():
        cells = [shown(of["splits"][split]) for split in splits]
        cells += [shown(of["success_minus_naive"], signed=True), shown(of["right_object"])]
        cells += [shown(of["vqa_minus_before"], signed=True, digits=3)]
        rows.append([f"`{name}`", *cells, *(shown(each) for each in of["sets"].values())])
    head = ["way", *(f"success: {split}" for split in splits), "minus naive (seen)", "right object (seen)"]
    return table([*head, "VQA minus before", *(f"VQA: {name}" for name in start)], rows)


if __name__ == "__main__":
    main()
