"""What each way to fine-tune forgets, and what it learns: `python benchmarks/forgetting.py WORK`.

All start from the VLM that ships with a fresh expert, see the same demonstrations in the same order for the same number
of steps, and have one setting tuned on a training seed and episodes of their own (TUNING), by the sum of success and
VQA accuracy: among three values, and a fourth beyond them where the first or the last is the best. Then the baselines
at their best, every way and value that no other beats, and some more (`choose`), are run on FINAL's seeds; of the rest,
and of methods that were taken out since, the tuning runs are shown. One process for each core; what is in WORK and in
benchmarks/results/forgetting is kept, so a killed run goes on, on another machine too. Writes
benchmarks/results/forgetting.json, the tables in docs/forgetting.md and the plots beside it. Many hours on two cores.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from forgetting_measure import Measured, answers, of_checkpoint, of_training
from forgetting_methods import TAKEN_OUT, Merge, Stage, Way, ways
from forgetting_report import Tuned, success, vqa_accuracy, write, write_tuning
from provenance import ROOT, keep
from recipe import aegis, evaluate, train
from tqdm import tqdm

from aegis_policy.model import checkpoint
from aegis_policy.training.device import computes_in_bfloat16, default_device
from aegis_sim.question_sets import record_questions
from aegis_sim.tasks import QUESTION_TASKS

RUNS = ROOT / "benchmarks" / "results" / "forgetting"
TASK, DEMONSTRATIONS = "pick", 1_500
REPLAYED, HELD = 3_000, 400  # scenes
BASELINES = ("naive", "stop-gradient", "lora", "aegis", "co-train")
START = checkpoint.asset("aegis-tiny-vlm")
ANCHOR = checkpoint.asset("aegis-tiny") / "anchor.safetensors"


@dataclass(frozen=True)
class Phase:
    """How long is trained, on which seeds, how much is measured then (episodes by split), and from which VLM.

    Attributes:
        models: the folder in WORK for what is trained.
    """

    name: str
    steps: int
    seeds: tuple[int, ...]
    episodes: tuple[tuple[str, int], ...]
    episode_seed: int
    start: Path = START
    anchor: Path | None = ANCHOR
    models: str = "models"


TUNING = Phase("tuning", 500, (100,), (("seen", 50),), 100)
FINAL = Phase("final", 1_500, (0, 1, 2), (("seen", 100), ("unseen-pairs", 50), ("moved-camera", 50)), 0)


@dataclass(frozen=True)
class Run:
    """One way, with one value of its setting, from one training seed."""

    way: str
    value: float
    phase: Phase
    seed: int

    @property
    def name(self) -> str:
        return f"{self.way.replace(', ', '-').replace(' ', '-')}-{self.value:g}-{self.seed}"

    @property
    def file(self) -> Path:
        return RUNS / self.phase.name / f"{self.name}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for data, runs and measurements (some 3 GB)")
    work: Path = parser.parse_args().work.resolve()
    prepare(work)
    compared = ways(work)
    tuned = tune(compared, work)
    finalists = choose(compared, tuned)  # of what tuning tried: what was added later beats nothing of it
    tuned |= measure([tuning(way.name, way.between) for way in compared if way.between is not None], work)
    knobs = {way.name: way.knob for way in compared} | TAKEN_OUT
    write_tuning(
        before(START, RUNS / "before.json", work),
        {
            way: Tuned(knob, [tuned[tuning(way, value)] for value in tried(way, tuned)], best(way, tuned))
            for way, knob in knobs.items()
        },
    )
    final: dict[Run, Measured] = {}
    for seed in FINAL.seeds:
        final |= measure([Run(way.name, value, FINAL, seed) for way, value in finalists.values()], work)
        write(
            before(START, RUNS / "before.json", work),
            list(final.values()),
            {
                name: {"way": way.name, "knob": way.knob, "tried": tried(way.name, tuned), "value": value}
                for name, (way, value) in finalists.items()
            },
            {"task": TASK, "demonstrations": DEMONSTRATIONS, "steps": FINAL.steps, "tuning_steps": TUNING.steps},
        )


def choose(compared: Sequence[Way], tuned: Mapping[Run, Measured]) -> dict[str, tuple[Way, float]]:
    """What is run on FINAL's seeds, by name: of a baseline at its best, or of a way with one value, the way's own.

    Naive fine-tuning is run at AEGIS' rate too, as tuning chose another for it; and what was added `between`.
    """
    baselines = {(name, best(name, tuned)) for name in BASELINES}
    always = baselines | {("naive", best("aegis", tuned))}
    chosen = [
        (way, value)
        for way in compared
        for value in tried(way.name, tuned)
        if (way.name, value) in always or not is_beaten(way.name, value, tuned)
    ] + [(way, way.between) for way in compared if way.between is not None]
    times = Counter(way for way, _ in chosen)

    def named(way: Way, value: float) -> str:
        own = times[way] == 1 or (way.name, value) in baselines
        return way.name if own else f"{way.name}, {value:g}"

    return {named(way, value): (way, value) for way, value in chosen}


def tune(compared: Sequence[Way], work: Path) -> dict[Run, Measured]:
    """Three values of each, and a fourth where one of the ends is the best; and what there is of methods taken out."""
    tuned = measure([tuning(way.name, value) for way in compared for value in way.values], work)
    tuned |= measure([tuning(way.name, value) for way in compared for value in beyond(way, tuned)], work)
    kept = [json.loads(file.read_text()) for file in sorted((RUNS / TUNING.name).glob("*.json"))]
    return tuned | {tuning(found["way"], found["value"]): found for found in kept if found["way"] in TAKEN_OUT}


def tuning(way: str, value: float) -> Run:
    return Run(way, value, TUNING, *TUNING.seeds)


def best(way: str, tuned: Mapping[Run, Measured]) -> float:
    """The value that keeps and learns most."""
    return max(tried(way, tuned), key=lambda value: merits(tuned[tuning(way, value)]).sum())


def merits(found: Measured) -> np.ndarray:
    """What is learnt and what is kept."""
    return np.array([success(found), vqa_accuracy(found)])


def tried(way: str, tuned: Iterable[Run]) -> tuple[float, ...]:
    """The values that there are runs of, in order."""
    return tuple(sorted({run.value for run in tuned if run.way == way}))


def beyond(way: Way, tuned: Mapping[Run, Measured]) -> tuple[float, ...]:
    """A value more, where the best so far is the first or the last."""
    place = way.values.index(best(way.name, tuned))
    return (way.beyond[0],) * (place == 0) + (way.beyond[1],) * (place == len(way.values) - 1)


def is_beaten(way: str, value: float, tuned: Mapping[Run, Measured]) -> bool:
    """Whether some other succeeds as often and keeps as much, and more of one, to a point: less is chance."""
    own = merits(tuned[tuning(way, value)]).round(2)
    others = [merits(found).round(2) for found in tuned.values()]
    return any((each >= own).all() and (each > own).any() for each in others)


def prepare(work: Path) -> None:
    """Demonstrations to learn from and held out, question sets for those who may learn from them and held out."""
    work.mkdir(parents=True, exist_ok=True)
    for name, episodes, seed in ((TASK, DEMONSTRATIONS, 1), ("held", 40, 9)):
        output = work / f"{name}.hdf5"
        options = ("--task", TASK, "--episodes", episodes, "--short-fraction", 0.6, "--seed", seed, "--workers", 2)
        aegis(output, "record", *options, "--output", output)
    for task, held in zip(QUESTION_TASKS, held_sets(work), strict=True):
        output = work / f"{task}.hdf5"
        aegis(output, "record", "--task", task, "--episodes", REPLAYED, "--seed", 3, "--output", output)
        if not held.exists():
            record_questions(task, HELD, held, seed=4, split="eval")


def before(start: Path, file: Path, work: Path) -> Measured:
    """What the VLM knows where all begin, kept in `file`."""
    if not file.exists():
        keep(file, {"vqa": answers(*checkpoint.load_backbone(start), held_sets(work))})
    return json.loads(file.read_text())["vqa"]


def held_sets(work: Path) -> list[Path]:
    return [work / f"{task}_held.hdf5" for task in QUESTION_TASKS]


def measure(runs: Sequence[Run], work: Path) -> dict[Run, Measured]:
    """Make what is missing."""
    missing = [run for run in runs if not run.file.exists()]
    if missing:
        cores = len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(cores, get_context("spawn"), max_tasks_per_child=1) as pool:
            jobs = pool.map(make, missing, [work] * len(missing))
            list(tqdm(jobs, total=len(missing), desc=missing[0].phase.name, unit="run"))
    return {run: json.loads(run.file.read_text()) for run in runs}


def make(run: Run, work: Path) -> None:
    """Train one and measure it; what it says goes into WORK/logs."""
    logs = work / "logs"
    logs.mkdir(exist_ok=True)
    with (logs / f"{run.phase.name}-{run.name}.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    way = next(way for way in ways(work) if way.name == run.way)
    made = run.phase.start
    folder, rows = work / run.phase.models, []
    for stage in way.stages(run.value, run.phase.steps):
        folder = folder / f"{stage.name},seed={run.seed}"  # each stage in the folder of the one before
        made = follow(stage, run, made, folder, work)
        if not isinstance(stage, Merge):
            rows.append([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
    found = {
        "way": run.way,
        "value": run.value,
        "seed": run.seed,
        "precision": "bfloat16" if computes_in_bfloat16(default_device()) else "float32",
        "splits": {
            split: evaluate(folder / f"{split}-{run.phase.episode_seed}.json", made, TASK, episodes, *_how(run, split))
            for split, episodes in run.phase.episodes
        },
        **of_checkpoint(made, run.phase.start, work / "held.hdf5", held_sets(work)),
        **of_training(rows),
    }
    keep(run.file, found)


def _how(run: Run, split: str) -> tuple[object, ...]:
    return ("--split", split, "--seed", run.phase.episode_seed, "--workers", 1)


def follow(stage: Stage, run: Run, start: Path, folder: Path, work: Path) -> Path:
    """One stage, unless it has been made; returns its checkpoint."""
    with locked(folder):
        if isinstance(stage, Merge):
            merged = folder / "merged"
            options = ("--checkpoint", start, "--pretrained", run.phase.start, "--weight", stage.weight)
            aegis(merged, "merge", *options, "--output", merged)
            return merged
        recipe = replace(stage.recipe, seed=run.seed, eval_every=run.phase.steps // 16)
        options = ("--dataset", work / f"{TASK}.hdf5", "--checkpoint", start)
        options += ("--anchor", run.phase.anchor) if run.phase.anchor else ()
        return train(folder, "train", recipe, *options, "--vqa", *held_sets(work))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time makes what two may want."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
