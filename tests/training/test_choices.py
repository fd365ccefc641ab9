"""What a user chooses about the data, all the way: through training, a resumption, a policy that acts, another run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aegis_policy import Observation
from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.inference.torch_policy import TorchPolicy
from aegis_policy.model.checkpoint import load, load_backbone
from aegis_policy.training.batches import Batches
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.train import resume, train
from tests.training.tiny import SIZE, write_demonstrations

MODEL = "pretrained_model/model.safetensors"


@pytest.fixture(scope="module")
def recipe(vlm, demonstrations, tmp_path_factory) -> TrainConfig:
    """Two data sets, three samples of the second to one of the first, normalised by quantiles."""
    other = write_demonstrations(tmp_path_factory.mktemp("other") / "other.hdf5", episodes=2, seed=1)
    return TrainConfig(
        **{"dataset": (str(demonstrations), str(other)), "dataset_weights": (1.0, 3.0), "normalization": "quantiles"},
        **{"checkpoint": str(vlm), "method": "naive", "horizon": 3, "batch_size": 8, "noise_samples": 1, "steps": 8},
        **{"log_every": 1, "eval_every": 0, "save_every": 4, "keep": 0},
    )


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run") / "policy"
    train(recipe, output)
    return output


def test_a_resumed_mixture_ends_bit_identical(run, tmp_path):
    """8 steps of 8 samples are more than the pass of about 55: the second half begins within it and goes beyond."""
    other = Path(shutil.copytree(run, tmp_path / "policy", symlinks=True))
    shutil.rmtree(other / "checkpoints/000008")
    resume(other)
    ours, theirs = (load_file(folder / "checkpoints/000008" / MODEL) for folder in (run, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, other)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 8


def test_shares_of_a_pass(recipe, vlm):
    dataset = Demonstrations(recipe.dataset, 3)
    first, length = dataset.sizes[0], len(dataset)
    assert dataset.sizes == [len(Demonstrations([path], 3)) for path in recipe.dataset] and first > length / 2
    batches = Batches(
        dataset, load_backbone(vlm)[1], dataset.norm_stats(), batch_size=1, noise_samples=1, seed=0, weights=(1, 3)
    )
    rows = np.array([batches.rows(step)[0] for step in range(length)])
    assert abs((rows < first).sum() - length / 4) < 1


def test_a_policy_acts_by_the_normalization_it_was_trained_with(run, recipe):
    checkpoint = load(run)
    stats = checkpoint.norm_stats
    assert stats.state.normalization == stats.actions.normalization == "quantiles"
    dataset = Demonstrations(recipe.dataset, 3)
    np.testing.assert_allclose(stats.actions.q99, np.quantile(dataset.actions.astype(float), 0.99, axis=0))
    images = {name: np.full((SIZE, SIZE, 3), 90, np.uint8) for name in ("front", "wrist")}
    seen = Observation(images, dataset.state[0], "pick up the red cube", stamp=0.0)
    chunk = TorchPolicy(checkpoint, "cpu").act(seen, seed=5).actions
    state = 2 * (dataset.state[0] - stats.state.q01) / (stats.state.q99 - stats.state.q01) - 1
    pixels = checkpoint.processor.images(np.stack(list(images.values())))[None]
    noise = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        prefix = checkpoint.policy.encode(pixels, *checkpoint.processor.prompt([seen.instruction]))
        normal = checkpoint.policy.denoise(prefix, torch.tensor(state[None], dtype=torch.float32), noise)[0].numpy()
    expected = stats.actions.q01 + (normal + 1) / 2 * (stats.actions.q99 - stats.actions.q01)
    np.testing.assert_allclose(chunk, expected, rtol=1e-4, atol=1e-5)


def test_the_next_run_from_it_keeps_it(run, recipe, demonstrations, tmp_path):
    goes_on = replace(recipe, dataset=(str(demonstrations),), dataset_weights=(), steps=1, checkpoint=str(run))
    for normalization in (None, "quantiles"):
        output = tmp_path / f"{normalization}"
        kept = load(train(replace(goes_on, normalization=normalization), output)).norm_stats
        assert kept.state.normalization == "quantiles"
        np.testing.assert_array_equal(kept.state.q99, load(run).norm_stats.state.q99)


def test_mean_and_deviation_unless_something_else_is_asked_for(recipe, tmp_path):
    plain = replace(recipe, dataset=recipe.dataset[:1], dataset_weights=(), normalization=None, steps=1)
    stats = load(train(plain, tmp_path / "run")).norm_stats
    assert stats.state.normalization == stats.actions.normalization == "mean-std"


def test_an_image_found_damaged_on_the_way_ends_training_with_its_message(recipe, tmp_path, monkeypatch):
    """Images that do not fit in memory are read while training; there is no telling before."""
    path = write_demonstrations(tmp_path / "pick.hdf5")
    with h5py.File(path, "r+") as file:
        images = file["data/demo_0/obs/front_image"]
        values = images[:]
        del file["data/demo_0/obs/front_image"]
        stored = file["data/demo_0/obs"].create_dataset("front_image", data=values, fletcher32=True, chunks=True)
        file.flush()
        place = stored.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr("aegis_policy.training.train.Demonstrations", partial(Demonstrations, in_memory=0))
    damaged = replace(recipe, dataset=(str(path),), dataset_weights=(), save_every=1)
    with pytest.raises(ValueError, match=r"pick\.hdf5: demo_0: damaged"):
        train(damaged, tmp_path / "run")
