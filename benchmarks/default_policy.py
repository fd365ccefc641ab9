"""How the two checkpoints that ship are made and measured, from nothing: `python benchmarks/default_policy.py WORK`.

Every step is an `aegis` command; what is already in WORK is kept, so a killed run goes on where it stopped. The three
methods start from the same VLM and see the same data in the same order for the same number of steps. Takes about three
hours on two cores. Writes benchmarks/results/default_policy.json; `--ship METHOD` then copies the VLM and that method's
policy into the package.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from provenance import ROOT, provenance

from aegis_policy.data.normalize import NormStats
from aegis_policy.model import checkpoint
from aegis_policy.training.config import MethodName, PretrainConfig, TrainConfig

RESULTS = ROOT / "benchmarks" / "results" / "default_policy.json"
METHODS: tuple[MethodName, ...] = ("aegis", "naive", "stop-gradient")
SCENES, DRAWN, DEMONSTRATIONS = 14_000, 10_000, 3_500
PRETRAINING = PretrainConfig(steps=8_000, compile=True)
TRAINING = TrainConfig(steps=3_000, eval_every=1_000, compile=True)
EPISODES, QUESTION_SCENES, FILMS, SEED = 200, 300, 3, 0
Results = dict[str, dict[str, dict[str, Any]]]
"""Policy -> task -> what was measured."""

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
    parser.add_argument("work", type=Path, help="folder for data, runs and measurements (some 3 GB)")
    parser.add_argument("--ship", choices=METHODS, help="copy the VLM and this method's policy into the package")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    make(work)
    results = measure(work)
    if arguments.ship:
        ship(work, arguments.ship, results)


def make(work: Path) -> None:
    """Question sets, the VLM, its anchor, demonstrations, and one policy for each method."""
    sets = [work / "scenes.hdf5", work / "drawn.hdf5"]
    holdouts = [work / "scenes_eval.hdf5", work / "drawn_eval.hdf5"]
    for task, scenes, training, held in zip(("questions", "drawn"), (SCENES, DRAWN), sets, holdouts, strict=True):
        aegis(training, "record", "--task", task, "--episodes", scenes, "--seed", 1, "--output", training)
        if not held.exists():
            from aegis_sim.question_sets import record_questions

            record_questions(task, QUESTION_SCENES, held, seed=1, split="eval")
    vlm = train(work / "vlm", "pretrain", PRETRAINING, "--vqa", *sets, "--holdout", *holdouts)
    anchor = work / "anchor.safetensors"
    aegis(anchor, "anchor", "--vqa", *sets, "--checkpoint", vlm, "--output", anchor)
    demonstrations = work / "pick.hdf5"
    recording = ("--task", "pick", "--episodes", DEMONSTRATIONS, "--short-fraction", 0.6, "--seed", 1)
    aegis(demonstrations, "record", *recording, "--output", demonstrations)
    data = ("--dataset", demonstrations, "--checkpoint", vlm, "--anchor", anchor, "--vqa", *holdouts)
    for method in METHODS:
        train(work / method, "train", replace(TRAINING, method=method), *data)
    untrained(work, vlm)


def untrained(work: Path, vlm: Path) -> None:
    """The VLM with an expert that has learnt nothing: what there is before fine-tuning."""
    trained = checkpoint.load(work / METHODS[0])
    stats = NormStats.load(checkpoint.resolve(work / METHODS[0]))
    info = replace(trained.info, model="before", checkpoint="")
    checkpoint.save(checkpoint.start_policy(vlm, info, stats), work / "before")


def measure(work: Path) -> Results:
    """Both abilities of every policy, on episodes and scenes that nothing was trained or chosen on."""
    asked = (("questions", QUESTION_SCENES), ("drawn", QUESTION_SCENES))
    both = (("pick", EPISODES), *asked)
    results: Results = {}
    for name in ("before", *METHODS):
        results[name] = {}
        for task, episodes in asked if name == "before" else both:  # it has not learnt to move
            output = work / "measured" / f"{name}-{task}.json"
            options = ("--task", task, "--episodes", episodes, "--seed", SEED, "--videos", FILMS, "--json", output)
            aegis(output, "eval", "--checkpoint", work / name, *options)
            measured = json.loads(output.read_text())
            kept = ("success", "right_object", "vqa", "vqa_families", "baselines")
            results[name][task] = {key: measured[key] for key in kept if key in measured}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    settings = {"episodes": EPISODES, "seed": SEED, "training_seeds": [TRAINING.seed], "steps": TRAINING.steps}
    RESULTS.write_text(json.dumps({"results": results, **provenance(), **settings}, indent=1) + "\n")
    return results


def ship(work: Path, method: MethodName, results: Results) -> None:
    """Copy the VLM, the policy and small held-out question sets into the package, with what was measured."""
    from aegis_sim.question_sets import record_questions

    for source, name in ((work / "vlm", "aegis-tiny-vlm"), (work / method, "aegis-tiny")):
        target = checkpoint.asset(name)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(checkpoint.resolve(source), target)
    rename(checkpoint.asset("aegis-tiny"), "aegis-tiny")
    shutil.copy(work / "anchor.safetensors", checkpoint.asset("aegis-tiny"))
    checkpoint.asset("aegis-tiny-vlm").joinpath("README.md").write_text(VLM_CARD + measured_table(results["before"]))
    with checkpoint.asset("aegis-tiny").joinpath("README.md").open("a") as card:
        card.write(measured_table(results[method]))
    for task in ("questions", "drawn"):
        held = checkpoint.asset("questions") / f"{'scenes' if task == 'questions' else task}.hdf5"
        record_questions(task, SHIPPED_QUESTIONS, held, seed=2, split="eval")


def rename(folder: Path, name: str) -> None:
    """Give a policy the name that it is known by, in its configuration and on its card."""
    config = json.loads((folder / checkpoint.CONFIG).read_text())
    card = folder / "README.md"
    card.write_text(card.read_text().replace(f"# {config['interface']['model']}\n", f"# {name}\n", 1))
    config["interface"]["model"] = name
    (folder / checkpoint.CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def measured_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: every rate with its interval, and answers by family beside what answering blindly would get."""
    lines = ["", "## What was measured", "", "Unseen seeds, rates with 95% Wilson intervals, by `aegis eval`.", ""]
    lines += ["| task | what | rate | n |", "|---|---|---|---|"]
    for task, measured in results.items():
        rows = {kind: measured[kind] for kind in ("success", "right_object", "vqa") if kind in measured}
        rows |= {f"vqa: {family}": rate for family, rate in measured.get("vqa_families", {}).items()}
        for kind, rate in rows.items():
            lines.append(
                f"| {task} | {kind} | {rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}] | {rate['n']} |"
            )
    return "\n".join([*lines, ""])


def train(output: Path, command: str, recipe: PretrainConfig | TrainConfig, *options: object) -> Path:
    """`aegis pretrain` or `aegis train` with what the recipe changes from its defaults; an unfinished run goes on."""
    done = output / "checkpoints" / f"{recipe.steps:06d}"
    if output.exists():
        aegis(done, command, "--resume", output)
    else:
        aegis(done, command, *_changes(recipe), *options, "--output", output)
    return done / "pretrained_model"


def _changes(recipe: PretrainConfig | TrainConfig) -> list[object]:
    default = type(recipe)()
    changed = {name: value for name, value in vars(recipe).items() if value != getattr(default, name)}
    flags: list[object] = []
    for name, value in changed.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [flag, value]
    return flags


def aegis(output: Path, *words: object) -> None:
    """Run an `aegis` command, unless what it makes is there."""
    if output.exists():
        return
    line = ["aegis", *map(str, words)]
    sys.stderr.write(f"$ {shlex.join(line)}\n")
    output.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([str(Path(sys.executable).parent / "aegis"), *line[1:]], check=True)


if __name__ == "__main__":
    main()
