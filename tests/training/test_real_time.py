"""Training for real-time chunking: what is drawn, what the finished policy can, and that it learns to go on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aegis_policy import Observation, Pending
from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.inference.torch_policy import TorchPolicy
from aegis_policy.model.checkpoint import load, load_backbone
from aegis_policy.training.batches import Batches
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.train import train
from tests.model.builders import SIZE


@pytest.fixture(scope="module")
def recipe(vlm, demonstrations) -> TrainConfig:
    return TrainConfig(
        dataset=(str(demonstrations),),
        checkpoint=str(vlm),
        method="stop-gradient",
        horizon=3,
        batch_size=4,
        steps=2,
        eval_every=0,
        max_delay=2,
    )


def test_any_number_of_given_actions_is_as_likely_and_nothing_else_changes(recipe, vlm):
    dataset = Demonstrations(recipe.dataset, 3)

    def batches(max_delay: int) -> Batches:
        processor = load_backbone(vlm)[1]
        stats = dataset.norm_stats()
        return Batches(dataset, processor, stats, batch_size=8, noise_samples=4, seed=0, max_delay=max_delay)

    before, after = batches(0), batches(2)
    drawn = torch.cat([after.batch(step).begun.delay for step in range(40)])
    counts = torch.bincount(drawn.flatten()) / drawn.numel()
    assert len(counts) == 3 and (counts - 1 / 3).abs().max() < 0.05
    one, other = before.batch(5), after.batch(5)
    assert one.begun is None
    assert torch.equal(one.noise, other.noise) and torch.equal(one.time, other.time)
    parts = [after.batch(5, part, 2).begun.delay for part in range(2)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), other.begun.delay)
    parts = [after.batch(5, part, 2).begun.chunks for part in range(2)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), other.begun.chunks)


def test_the_push_is_the_same_however_actions_are_normalised(recipe, vlm):
    dataset, processor = Demonstrations(recipe.dataset, 3), load_backbone(vlm)[1]

    def begun(normalization: str) -> np.ndarray:
        stats = dataset.norm_stats(normalization)
        batches = Batches(dataset, processor, stats, batch_size=8, noise_samples=4, seed=0, max_delay=2)
        return stats.actions.unnormalize(batches.batch(5).begun.chunks.numpy())

    np.testing.assert_allclose(begun("quantiles"), begun("mean-std"), atol=1e-5)


def test_the_finished_policy_begins_with_what_it_is_given(recipe, demonstrations, tmp_path):
    checkpoint = load(train(recipe, tmp_path / "run"))
    assert checkpoint.policy.expert.config.max_delay == 2
    policy = TorchPolicy(checkpoint, "cpu")
    assert policy.info.max_delay == 2
    dataset = Demonstrations(recipe.dataset, 3)
    images = {name: np.full((SIZE, SIZE, 3), 90, np.uint8) for name in ("front", "wrist")}
    pending = Pending(dataset.actions[:2].astype(np.float32), 2)
    seen = Observation(images, dataset.state[0], "pick up the red cube", pending=pending)
    np.testing.assert_allclose(policy.act(seen, seed=0).actions[:2], pending.actions, rtol=1e-5, atol=1e-6)
    goes_on = replace(recipe, checkpoint=str(tmp_path / "run"), max_delay=None, steps=1)
    assert load(train(goes_on, tmp_path / "more")).policy.expert.config.max_delay == 2
    off = replace(goes_on, max_delay=0)
    assert load(train(off, tmp_path / "off")).policy.expert.config.max_delay == 0
