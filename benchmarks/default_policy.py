"""How the two checkpoints that ship are made and measured, from nothing: `python benchmarks/default_policy.py WORK`.

Every step is an `aegis` command; what is already in WORK is kept, so a killed run goes on where it stopped. Takes
hours on two cores. With `--go-on`, the VLM and the policy that ship are where it starts. Writes
benchmarks/results/default_policy.json; `--ship` then copies what was made into the package.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from arena import SHIPPED_EPISODES, Run
from provenance import ROOT, provenance
from recipe import aegis, evaluate, train

from aegis_policy.model import checkpoint
from aegis_policy.training.config import PretrainConfig, TrainConfig
from aegis_sim.card import HEADING, measured_table
from aegis_sim.question_sets import record_questions
from aegis_sim.tasks import QUESTION_TASKS, TABLE_TASKS

RESULTS = ROOT / "benchmarks" / "results" / "default_policy.json"
SCENES, DRAWN = 14_000, 10_000
DEMONSTRATIONS = {"pick": 1_500, "place-on": 1_500, "place-beside": 1_000}
PRETRAINING = PretrainConfig(steps=8_000, compile=True)
PICKING = TrainConfig(method="stop-gradient", steps=3_000, eval_every=1_000, compile=True)


@dataclass(frozen=True)
class More:
    """Demonstrations besides the first: taken over from the policy of round `driver`, or all begun on the way."""

    task: str
    episodes: int
    seed: int
    driver: int | None = None


@dataclass(frozen=True)
class Round:
    """Training that goes on from the round before, on all demonstrations so far and some more, but not on `without`."""

    recipe: TrainConfig
    more: tuple[More, ...] = ()
    without: tuple[str, ...] = ()


NEXT = TrainConfig(method="stop-gradient", temperature=0.0, eval_every=0, compile=True)
ROUNDS = (
    Round(replace(NEXT, steps=2_800, temperature=None)),
    Round(
        replace(NEXT, steps=1_100, expert_learning_rate=6e-4),
        (More("pick", 250, 2, 0), More("place-on", 500, 2, 0), More("place-beside", 250, 2, 0)),
    ),
    Round(replace(NEXT, steps=3_500)),
    # recorded while round 2 trained; until then takeovers of placing came within 30 steps
    Round(replace(NEXT, steps=3_000, eval_every=3_000), (More("place-on", 500, 3, 1), More("place-on", 800, 4))),
    # what is hardest alone; takeovers keep the other two in practice
    Round(replace(NEXT, steps=2_400, eval_every=2_400), without=("pick", "place-beside")),
)
EPISODES = SHIPPED_EPISODES["seen"]
SCENES_ASKED, FILMS, SEED, WORKERS = 300, 3, 0, 2
Results = dict[str, dict[str, Any]]
"""Task -> what was measured."""

VLM_CARD = f"""---
library_name: transformers
pipeline_tag: image-text-to-text
---
# aegis-tiny-vlm

PaliGemma 2's architecture (`PaliGemmaForConditionalGeneration`, SigLIP and Gemma 2) at 1.9M parameters, trained from
scratch to answer questions about coloured cubes, balls and cylinders. It loads with transformers as any PaliGemma.

## How it was made
`aegis pretrain` on {SCENES:,} scenes rendered by robosuite and {DRAWN:,} drawn ones, all made by `aegis record`; the
recipe is in `train_config.json`, the curves in `metrics.jsonl`, the whole way in `benchmarks/default_policy.py`. It
knows some eighty words; what it is asked in others it cannot read.
"""

SHIPPED_QUESTIONS = 64
"""Scenes of each kind that ship, held out, so that training can watch VQA without a file of one's own."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for data, runs and measurements (some 8 GB)")
    parser.add_argument("--go-on", action="store_true", help="start from what ships, make neither VLM nor policy anew")
    parser.add_argument("--ship", action="store_true", help="copy what was made into the package")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    start = ("--checkpoint", checkpoint.asset("aegis-tiny")) if arguments.go_on else make_picking(work, make_vlm(work))
    policy = fine_tune(work, start)
    results = measure(work, policy)
    if arguments.ship:
        if not arguments.go_on:
            ship_vlm(work, results)
        ship_policy(policy, results)


def question_sets(work: Path) -> tuple[list[Path], list[Path]]:
    """Scenes with questions, rendered and drawn: to learn from, and held out."""
    sets = [work / "scenes.hdf5", work / "drawn.hdf5"]
    holdouts = [work / "scenes_eval.hdf5", work / "drawn_eval.hdf5"]
    for task, scenes, training, held in zip(QUESTION_TASKS, (SCENES, DRAWN), sets, holdouts, strict=True):
        aegis(training, "record", "--task", task, "--episodes", scenes, "--seed", 1, "--output", training)
        if not held.exists():
            record_questions(task, SCENES_ASKED, held, seed=1, split="eval")
    return sets, holdouts


def make_vlm(work: Path) -> tuple[object, ...]:
    """The VLM and its anchor; returns the options with which training starts from them."""
    sets, holdouts = question_sets(work)
    vlm = train(work / "vlm", "pretrain", PRETRAINING, "--vqa", *sets, "--holdout", *holdouts)
    anchor = work / "anchor.safetensors"
    aegis(anchor, "anchor", "--vqa", *sets, "--checkpoint", vlm, "--output", anchor)
    return ("--checkpoint", vlm, "--anchor", anchor, "--vqa", *holdouts)


def demonstrations(work: Path, task: str) -> Path:
    """The expert's demonstrations of a task."""
    return record(work, task, task, DEMONSTRATIONS[task], "--short-fraction", 0.6, "--seed", 1)


def record(work: Path, name: str, task: str, episodes: int, *options: object) -> Path:
    """Demonstrations of a task in a file of that name."""
    output = work / f"{name}.hdf5"
    which = ("--task", task, "--episodes", episodes, *options)
    aegis(output, "record", *which, "--workers", WORKERS, "--output", output)
    return output


def make_picking(work: Path, start: tuple[object, ...]) -> tuple[object, ...]:
    """A policy that picks things up, the part that all tasks share; returns options as `make_vlm`."""
    made = train(work / "picking", "train", PICKING, "--dataset", demonstrations(work, "pick"), *start)
    return ("--checkpoint", made, *start[2:])


def fine_tune(work: Path, start: tuple[object, ...]) -> Path:
    """The policy, round by round, each better than the last where that one went wrong."""
    recorded = [demonstrations(work, task) for task in TABLE_TASKS]
    made: list[Path] = []
    for number, part in enumerate(ROUNDS):
        recorded += [record_more(work, more, made) for more in part.more]
        before = ("--checkpoint", made[-1], *start[2:]) if made else start
        demos = [path for path in recorded if path.stem not in part.without]
        made.append(train(work / f"round-{number}", "train", part.recipe, "--dataset", *demos, *before))
    return made[-1]


def record_more(work: Path, more: More, made: Sequence[Path]) -> Path:
    """What a round asks for, with the policies of the rounds before."""
    if more.driver is None:
        name, options = "short", ("--short-fraction", 1)
    else:
        name, options = "takeover", ("--takeover", made[more.driver])
    return record(work, f"{more.task}-{name}-{more.seed}", more.task, more.episodes, *options, "--seed", more.seed)


def measure(work: Path, policy: Path) -> Results:
    """Both abilities, on episodes and scenes that nothing was trained or chosen on."""
    results: Results = {}
    for task in (*TABLE_TASKS, *QUESTION_TASKS):
        episodes, films = (EPISODES, FILMS) if task in TABLE_TASKS else (SCENES_ASKED, 0)
        options = ("--seed", SEED, "--videos", films, "--workers", WORKERS)
        results[task] = evaluate(work / "measured" / f"{task}.json", policy, task, episodes, *options)
    settings = {"episodes": EPISODES, "seed": SEED, "training_seeds": [NEXT.seed], "demonstrations": DEMONSTRATIONS}
    settings["rounds"] = [
        {"steps": part.recipe.steps, "more": [asdict(more) for more in part.more], "without": part.without}
        for part in ROUNDS
    ]
    RESULTS.write_text(json.dumps({"results": results, **provenance(), **settings}, indent=1) + "\n")
    return results


def ship_vlm(work: Path, results: Results) -> None:
    """Copy the VLM, its anchor and small held-out question sets into the package, with what was measured."""
    shutil.copy(work / "anchor.safetensors", checkpoint.asset("aegis-tiny"))
    answers = {task: results[task] for task in QUESTION_TASKS}  # the VLM's own: the policy's backbone is it, to the bit
    copy(work / "vlm", "aegis-tiny-vlm")
    checkpoint.asset("aegis-tiny-vlm").joinpath("README.md").write_text(VLM_CARD + HEADING + measured_table(answers))
    for task in QUESTION_TASKS:
        held = checkpoint.asset("questions") / f"{'scenes' if task == 'questions' else task}.hdf5"
        record_questions(task, SHIPPED_QUESTIONS, held, seed=2, split="eval")


def ship_policy(policy: Path, results: Results) -> None:
    """Copy the policy into the package, with what was measured, which the arena need not measure again."""
    copy(policy, "aegis-tiny")
    for task in TABLE_TASKS:
        Run("shipped", task).write({**results[task], "checkpoint": checkpoint.load(None).info.checkpoint})
    rename(checkpoint.asset("aegis-tiny"), "aegis-tiny")
    with checkpoint.asset("aegis-tiny").joinpath("README.md").open("a") as card:
        card.write(HEADING + measured_table(results))


def copy(run: Path, name: str) -> None:
    """Replace the files of a checkpoint in the package, and no others, by those of a training run."""
    target = checkpoint.asset(name)
    shutil.copytree(checkpoint.resolve(run), target, dirs_exist_ok=True)


def rename(folder: Path, name: str) -> None:
    """Give a policy the name that it is known by, in its configuration and on its card."""
    config = json.loads((folder / checkpoint.CONFIG).read_text())
    card = folder / "README.md"
    card.write_text(card.read_text().replace(f"# {config['interface']['model']}\n", f"# {name}\n", 1))
    config["interface"]["model"] = name
    (folder / checkpoint.CONFIG).write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
