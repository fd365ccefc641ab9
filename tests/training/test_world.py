"""Two processes, started by torchrun, end where one does: with every method, with whole weights and in shards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import h5py
import pytest
import torch
from safetensors.torch import load_file

from aegis_policy.model.checkpoint import load, load_backbone
from aegis_policy.training import state
from aegis_policy.training.anchor import anchor_of_sets
from aegis_policy.training.config import MethodName, TrainConfig
from aegis_policy.training.train import resume, train

pytestmark = pytest.mark.timeout(1200)  # whichever test is the first waits for all trainings; about a minute if alone

ROOT = Path(__file__).resolve().parents[2]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
WAYS = {
    "whole": {},
    "shard": {"shard": True},
}
"""How two processes hold the weights."""
STEPS = 20


@pytest.fixture(scope="module")
def recipes(vlm, demonstrations, questions, tmp_path_factory) -> dict[str, TrainConfig]:
    """One for each method, and one of aegis with all that can be asked for."""
    folder = tmp_path_factory.mktemp("recipes")
    anchor_of_sets(*load_backbone(vlm), [questions], 12).save(folder / "anchor.safetensors")
    common = TrainConfig(
        dataset=(str(demonstrations),),
        checkpoint=str(vlm),
        steps=STEPS,
        batch_size=8,
        noise_samples=2,
        learning_rate=2e-4,  # where a gradient is zero, as of key biases, Adam makes steps of what rounding leaves
        horizon=3,
        log_every=1,
        eval_every=0,
        save_every=STEPS,
        keep=0,
    )
    anchored = {"anchor": str(folder / "anchor.safetensors")}
    options: dict[MethodName, dict] = {
        "aegis": anchored,
        "co-train": {"replay": (str(write_answers(questions, folder / "answers.hdf5")),)},
        "distil-features": {"batch_size": 16},  # of 8 one process holds one sample, and two hold two
        "lora": {"lora_rank": 2},
    }
    recipes: dict[str, TrainConfig] = {
        method: replace(common, method=method, **options.get(method, {})) for method in METHODS
    }
    recipes["everything"] = replace(
        recipes["aegis"],
        accumulate=2,
        gradient_checkpointing=True,
        ema=0.8,
        freeze_vision=True,
        vqa=(str(questions),),
        eval_every=STEPS // 2,
        save_every=STEPS // 2,
    )
    return recipes


def write_answers(questions: Path, copy: Path) -> Path:
    """The questions, every other answer longer: a mean over tokens is then not the mean of the processes' means."""
    shutil.copy(questions, copy)
    with h5py.File(copy, "r+") as file:
        rows = [json.loads(row) for row in file["questions"].asstr()[:]]
        rows = [
            [[text, f"the {answer} cube"[4 * (i % 2) :], family]] for i, [[text, answer, family]] in enumerate(rows)
        ]
        file["questions"][:] = [json.dumps(row) for row in rows]
    return copy


@pytest.fixture(scope="module")
def alone(recipes, tmp_path_factory) -> Path:
    """The runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, recipe in recipes.items():
        train(recipe, folder / name)
    return folder


@pytest.fixture(scope="module")
def together(recipes, alone, tmp_path_factory) -> Path:
    """The runs of two, each of them both ways; "resumed" goes on where one process was half way."""
    folder = tmp_path_factory.mktemp("together")
    jobs = {f"{way}-{name}": replace(recipes[name], **WAYS[way]) for way in WAYS for name in recipes}
    cut(alone / "everything", folder / "resumed")
    recipe = folder / "resumed/train_config.json"
    recipe.write_text(replace(recipes["everything"], shard=True).to_json())
    jobs["resumed"] = recipes["everything"]
    (folder / "jobs.json").write_text(json.dumps({name: asdict(job) for name, job in jobs.items()}))
    torchrun(folder / "jobs.json")
    return folder


def torchrun(jobs: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, "-m", "tests.training.ranks", jobs], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]


def cut(run: Path, copy: Path) -> None:
    """A run as it was half way."""
    shutil.copytree(run, copy, symlinks=True)
    shutil.rmtree(copy / f"checkpoints/{STEPS:06d}")


def weights(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/{step:06d}/pretrained_model/model.safetensors")


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_close(one: Path, other: Path) -> None:
    """The same parameters to 1e-5, the same moments, the same metrics."""
    expected, got = weights(one), weights(other)
    assert expected.keys() == got.keys()
    assert max((expected[name] - got[name]).abs().max().item() for name in expected) < 1e-5
    for ours, theirs in zip(metrics(one), metrics(other), strict=True):
        if "vqa" in ours:
            ours, theirs = ours["vqa"]["colours"], theirs["vqa"]["colours"]
        for name in ours.keys() - {"seconds", "data_seconds", "families"}:
            assert theirs[name] == pytest.approx(ours[name], rel=2e-3, abs=1e-5), name
    load(other)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*METHODS, "everything"])
def test_two_processes_end_where_one_does(name, way, alone, together):
    assert_close(alone / name, together / f"{way}-{name}")


def test_the_anchor_had_something_to_project(alone):
    for name in ("aegis", "everything"):
        assert sum(row["layers_projected"] for row in metrics(alone / name) if "loss" in row) > 0


def test_two_processes_go_on_with_what_one_began(alone, together):
    assert_close(alone / "everything", together / "resumed")


def test_one_process_goes_on_with_what_two_began(alone, together, tmp_path):
    for way in WAYS:
        cut(together / f"{way}-everything", tmp_path / way)
        recipe = tmp_path / way / "train_config.json"
        recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"shard": False}))
        resume(tmp_path / way)
        assert_close(alone / "everything", tmp_path / way)


@pytest.mark.slow
def test_when_a_process_is_killed_the_others_end_and_the_newest_checkpoint_loads(recipes, tmp_path):
    recipe, run = recipes["naive"], tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command += [str(Path(sys.executable).with_name("aegis")), "train", "--dataset", *recipe.dataset]
    command += ["--checkpoint", str(recipe.checkpoint), "--method", "naive", "--batch-size", "4", "--steps", "100000"]
    command += ["--save-every", "1", "--keep", "2", "--eval-every", "0", "--output", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not state.checkpoints(run):
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.1)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    load(run)


def test_sharding_needs_processes(recipes, tmp_path):
    with pytest.raises(ValueError, match="start with torchrun"):
        train(replace(recipes["naive"], shard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "processes", "held"), [(16, 1, 1, 2), (17, 1, 1, 3), (16, 1, 8, 8), (16, 2, 4, 8)]
)
def test_an_eighth_is_held_and_one_of_each_micro_batch(batch_size, accumulate, processes, held):
    recipe = TrainConfig(method="distil-features", batch_size=batch_size, accumulate=accumulate)
    assert recipe.held(processes) == held
    assert replace(recipe, method="naive").held(processes) == 0


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("naive", {"accumulate": 0}, "--accumulate must be at least 1"),
        ("naive", {"accumulate": 3}, r"--batch-size 8 cannot be divided evenly by 6 \(2 processes x --accumulate 3\)"),
        ("co-train", {"accumulate": 2}, "is 2 pictures, which cannot be divided evenly by 4"),
        ("naive", {"ema": 1.0}, "--ema is a decay between 0 and 1"),
        ("naive", {"compile": True, "shard": True}, "--compile and --shard do not go together"),
        ("naive", {"compile": True, "gradient_checkpointing": True}, "--compile and --gradient-checkpointing do not"),
    ],
)
def test_what_does_not_go_together_is_refused(recipes, name, change, message):
    with pytest.raises(ValueError, match=message):
        replace(recipes[name], **change).check(processes=2)
