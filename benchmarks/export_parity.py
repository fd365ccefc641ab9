"""Whether an exported policy is the policy that was exported: `python benchmarks/export_parity.py WORK`.

The policy that ships, by torch and, exported, by onnxruntime on the CPU. First both are given the same observations and
questions, all that happen in 20 episodes of each task, at the temperature it ships with and at training's, where the
noise counts: the largest difference of an action, and answers that differ. As a control, torch beside itself where it
computes each chunk with another one. Then both drive the same 20 episodes of each
task, as `aegis eval` has it: success, answers, latency. The same for the exported policy with weights of 8 bits. What
is already in WORK is kept. Writes benchmarks/results/export_parity.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic
from provenance import ROOT, provenance
from recipe import aegis, evaluate
from tqdm import tqdm

from aegis_policy import ActionChunk, Observation, Policy, PolicyInfo, act_many
from aegis_policy.inference import manifest
from aegis_policy.inference.load import load_policy
from aegis_policy.model import checkpoint
from aegis_sim.compare import compare_files
from aegis_sim.rollout import run_episodes
from aegis_sim.tasks import TABLE_TASKS, episode_seed, make

RESULTS = ROOT / "benchmarks" / "results" / "export_parity.json"
EPISODES, SEED = 20, 0
TRAINING = 1.0
"""The temperature of training."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for policies and measurements")
    work: Path = parser.parse_args().work
    exported = work / "exported"
    aegis(exported, "export", "--output", exported)
    parity = {task: side_by_side(load_policy(), load_policy(exported), task) for task in TABLE_TASKS}
    parity["pick, temperature 1"] = side_by_side(*map(load_policy, at_training_temperature(work, exported)), "pick")
    control = {task: side_by_side(load_policy(), InCompany(load_policy()), task) for task in TABLE_TASKS}
    policies = {"torch": None, "onnx": exported, "onnx-int8": in_8_bits(exported, work / "exported-int8")}
    closed_loop = {task: driven(work, policies, task) for task in TABLE_TASKS}
    measured = {"parity": parity, "control": control, "closed_loop": closed_loop, "episodes": EPISODES, "seed": SEED}
    RESULTS.write_text(json.dumps({**measured, **provenance()}, indent=1) + "\n")


class InCompany:
    """A policy that computes every chunk beside another one: the same arithmetic, summed in another order."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.ask = policy, policy.ask

    @property
    def info(self) -> PolicyInfo:
        return self.policy.info

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        return act_many(self.policy, [observation, observation], [seed, seed])[0]


class Both:
    """Two policies, one of which drives; every observation and question is put to both."""

    def __init__(self, first: Policy, second: Policy) -> None:
        self.first, self.second = first, second
        self.chunks, self.questions, self.other_answers = 0, 0, 0
        self.difference = np.zeros(len(first.info.actions))

    @property
    def info(self) -> PolicyInfo:
        return self.first.info

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        return self.act_many([observation], [seed])[0]

    def act_many(self, observations: Sequence[Observation], seeds: Sequence[int | None]) -> list[ActionChunk]:
        ours, theirs = (act_many(policy, observations, seeds) for policy in (self.first, self.second))
        for one, other in zip(ours, theirs, strict=True):
            self.difference = np.maximum(self.difference, np.abs(one.actions - other.actions).max(axis=0))
            self.chunks += 1
        return ours

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        answers = ["".join(policy.ask(images, question)) for policy in (self.first, self.second)]
        self.questions += 1
        self.other_answers += answers[0] != answers[1]
        yield answers[0]


def side_by_side(first: Policy, second: Policy, task: str) -> dict[str, Any]:
    """Each episode is a scene of its own; torch drives."""
    both = Both(first, second)
    cameras = tuple(camera.name for camera in both.info.cameras)
    with closing(make(task, image_size=both.info.cameras[0].height, cameras=cameras)) as env:
        for number in tqdm(range(EPISODES), desc=task):
            run_episodes(both, [env], [episode_seed("eval", SEED, number)])
    features = [f"{feature.name} ({feature.unit})" for feature in both.info.actions]
    return {
        "scenes": EPISODES,
        "chunks": both.chunks,
        "largest_difference": float(both.difference.max()),
        "by_action": dict(zip(features, both.difference.tolist(), strict=True)),
        "questions": both.questions,
        "other_answers": both.other_answers,
    }


def at_training_temperature(work: Path, exported: Path) -> tuple[Path, Path]:
    """Copies of the policy that ships and of its export, with the noise that training knows."""
    torches, onnx = work / "torch-1", work / "exported-1"
    for source, target in ((checkpoint.asset("aegis-tiny"), torches), (exported, onnx)):
        shutil.copytree(source, target, dirs_exist_ok=True)
    config = json.loads((torches / checkpoint.CONFIG).read_text())
    config["expert"]["temperature"] = TRAINING
    (torches / checkpoint.CONFIG).write_text(json.dumps(config))
    change(onnx, temperature=TRAINING)
    return torches, onnx


def in_8_bits(exported: Path, folder: Path) -> Path:
    """A copy of an exported policy whose matrix products take weights of 8 bits."""
    shutil.copytree(exported, folder, dirs_exist_ok=True)
    for name in manifest.GRAPHS:
        file = manifest.graph_file(name)
        quantize_dynamic(exported / file, folder / file, weight_type=QuantType.QInt8, per_channel=True)
    files = {name: manifest.sha256(folder / name) for name in manifest.Manifest.load(exported).files}
    change(folder, files=files)
    return folder


def change(folder: Path, **parts: Any) -> None:
    path = folder / manifest.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def driven(work: Path, policies: Mapping[str, Path | None], task: str) -> dict[str, Any]:
    """Backend -> what `aegis eval` finds, and the episodes that only one of it and torch won."""
    files = {name: work / f"{name}-{task}.json" for name in policies}
    found = {}
    for name, policy in policies.items():
        kept = evaluate(files[name], policy, task, EPISODES, "--seed", SEED)
        latency = json.loads(files[name].read_text())["latency_ms"]
        pairs = asdict(compare_files(files["torch"], files[name]))
        found[name] = {key: kept[key] for key in ("success", "right_object", "vqa")} | {"latency_ms": latency}
        found[name]["against_torch"] = pairs
    return found


if __name__ == "__main__":
    main()
