"""Steps of a long recipe, each an `aegis` command whose output is a file: what is there already is not made again."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from aegis_policy.training.config import PretrainConfig, TrainConfig

KEPT = ("success", "right_object", "vqa", "vqa_families", "baselines", "time_to_success", "jerk")
"""What of an evaluation goes into a file of results."""


def aegis(output: Path, *words: object) -> None:
    """Run an `aegis` command, unless what it makes is there."""
    if output.exists():
        return
    line = ["aegis", *map(str, words)]
    sys.stderr.write(f"$ {shlex.join(line)}\n")
    output.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([str(Path(sys.executable).parent / "aegis"), *line[1:]], check=True)


def train(output: Path, command: str, recipe: PretrainConfig | TrainConfig, *options: object) -> Path:
    """`aegis pretrain` or `aegis train` with what the recipe changes from its defaults; an unfinished run goes on."""
    done = output / "checkpoints" / f"{recipe.steps:06d}"
    if output.exists():
        aegis(done, command, "--resume", output)
    else:
        aegis(done, command, *_changes(recipe), *options, "--output", output)
    return done / "pretrained_model"


def evaluate(output: Path, checkpoint: Path | None, task: str, episodes: int, *options: object) -> dict[str, Any]:
    """`aegis eval` of a policy (None: the one that ships) into a JSON file; returns what of it is kept.

    `failures` counts the failed episodes by what went wrong.
    """
    policy = ("--checkpoint", checkpoint) if checkpoint else ()
    aegis(output, "eval", *policy, "--task", task, "--episodes", episodes, *options, "--json", output)
    measured = json.loads(output.read_text())
    kept = {key: measured[key] for key in KEPT if measured.get(key)}
    failures = Counter(why for episode in measured.get("per_episode", ()) if (why := episode.get("failure")))
    return kept | ({"failures": dict(failures.most_common())} if failures else {})


def _changes(recipe: PretrainConfig | TrainConfig) -> list[object]:
    default = type(recipe)()
    changed = {name: value for name, value in vars(recipe).items() if value != getattr(default, name)}
    flags: list[object] = []
    for name, value in changed.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [flag, *value] if isinstance(value, tuple) else [flag, value]
    return flags
