"""Our prefix and our expert against a naive computation of the same equations in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from aegis_policy.model.expert import primed_cache
from aegis_policy.model.policy import AegisPolicy
from tests.model import naive
from tests.model.builders import HORIZON, gaussian, pixels

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 through three layers, values of order one


def weights_of(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def sizes(policy: AegisPolicy) -> naive.Sizes:
    config = policy.vlm.config.text_config
    assert config.num_key_value_heads < config.num_attention_heads
    return naive.Sizes(
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        query_scale=config.query_pre_attn_scalar,
        softcap=config.attn_logit_softcapping,
    )


@pytest.fixture(scope="module")
def inputs(policy, processor):
    """Two images each, and prompts of 7 and of 2 tokens."""
    ids, valid = processor.prompt(["what colour is the cube?", "cube"])
    assert valid.sum(1).tolist() == [7, 3]
    return pixels(2), ids, valid


@pytest.fixture(scope="module")
def prefixes(policy, sizes, inputs):
    """Per row: last hidden states and per-layer keys and values, naively."""
    images, ids, valid = inputs
    with torch.no_grad():
        embeds = policy.embed(images, ids)
    rows = []
    for row, seen in enumerate(valid):
        tokens = list(embeds[row, : 2 * policy.image_tokens + int(seen.sum())].double().numpy())
        everyone = list(range(len(tokens)))
        positions = [1 + i for i in everyone]  # PaliGemma counts from one
        rows.append(naive.run(weights_of(policy.language_model), sizes, tokens, positions, [everyone] * len(tokens)))
    return rows


@torch.no_grad()
def test_prefix(policy, inputs, prefixes):
    prefix = policy.encode(*inputs)
    for row, (hidden, layers) in enumerate(prefixes):
        assert prefix.valid[row].sum() == len(hidden)
        assert_allclose(prefix.hidden[row][prefix.valid[row]].numpy(), np.array(hidden), **CLOSE)
        for (keys, values), (naive_keys, naive_values) in zip(prefix.keys_values, layers, strict=True):
            assert_allclose(keys[row][:, prefix.valid[row]].numpy(), naive_keys, **CLOSE)
            assert_allclose(values[row][:, prefix.valid[row]].numpy(), naive_values, **CLOSE)


@torch.no_grad()
def test_velocity_of_several_noise_samples_on_each_prefix(policy, sizes, inputs, prefixes):
    prefix = policy.encode(*inputs)
    samples = 3
    state, noisy = gaussian(2, 2), gaussian(2, samples, HORIZON, 3, seed=1)
    time = torch.tensor([[1.0, 0.5, 0.013], [0.9, 0.001, 0.25]])
    ours = policy.expert(primed_cache(prefix.keys_values), prefix.valid, state, noisy, time)
    weights = weights_of(policy.expert)
    for row, (_, layers) in enumerate(prefixes):
        for sample in range(samples):
            theirs = naive.velocity(
                weights,
                sizes,
                layers,
                state[row].double().numpy(),
                noisy[row, sample].double().numpy(),
                time[row, sample].item(),
            )
            assert np.abs(theirs).mean() > 0.1  # a comparison of something
            assert_allclose(ours[row, sample].numpy(), theirs, **CLOSE)
