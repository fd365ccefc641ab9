"""The same classes carry both sizes; the large one is built on the meta device and counted."""

from __future__ import annotations

import pytest
import torch

from aegis_policy.model.backbone import new_vlm
from aegis_policy.model.config import expert_for, paligemma2_3b, tiny_vlm
from aegis_policy.model.policy import AegisPolicy


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def gemma2(width: int, layers: int, heads: int, key_heads: int, head_dim: int, mlp: int) -> int:
    """Arithmetic of arXiv 2408.00118: queries, keys, values, output; gate, up, down; four norms a layer, one last."""
    attention = width * head_dim * (heads + 2 * key_heads) + heads * head_dim * width
    return layers * (attention + 3 * width * mlp + 4 * width) + width


def siglip(width: int, layers: int, mlp: int, image: int, patch: int) -> int:
    """A ViT with biases: patches, positions; attention, MLP and two layer norms a layer, one last."""
    embeddings = 3 * patch**2 * width + width + (image // patch) ** 2 * width
    layer = 4 * (width**2 + width) + 2 * width * mlp + mlp + width + 2 * 2 * width
    return embeddings + layers * layer + 2 * width


@pytest.fixture(scope="module")
def large() -> AegisPolicy:
    config = paligemma2_3b()
    with torch.device("meta"):
        return AegisPolicy(new_vlm(config), expert_for(config, state_dim=7, action_dim=7, horizon=16))


def test_paligemma2_3b_has_the_published_size(large):
    words, projector = 257216 * 2304, 1152 * 2304 + 2304
    vision = siglip(1152, 27, 4304, image=224, patch=14)
    language = words + gemma2(2304, 26, heads=8, key_heads=4, head_dim=256, mlp=9216)
    assert parameters(large.language_model) == language
    assert parameters(large.vlm) == vision + projector + language
    assert 3.02e9 < parameters(large.vlm) < 3.04e9  # published as 3B: 3.03
    assert large.image_tokens == 256


def test_its_expert_has_about_300_million(large):
    stack = gemma2(1024, 26, heads=8, key_heads=4, head_dim=256, mlp=2048)
    width, state, actions = 1024, 7, 7
    ends = (state * width + width) + (actions * width + width) + (width * actions + actions)
    clock = (2 * width * width + width) + (width * width + width)
    assert parameters(large.expert) == stack + ends + clock
    assert 2.8e8 < parameters(large.expert) < 3.5e8


def test_the_large_one_computes_on_the_meta_device(large):
    """Shapes of a whole training step and of acting, without a byte of weights."""
    images, ids = torch.empty(1, 2, 3, 224, 224, device="meta"), torch.zeros(1, 6, dtype=torch.long, device="meta")
    prefix = large.encode(images, ids, torch.ones_like(ids, dtype=torch.bool))
    assert prefix.hidden.shape == (1, 2 * 256 + 6, 2304)
    assert [keys.shape for keys, _ in prefix.keys_values] == [(1, 4, 2 * 256 + 6, 256)] * 26
    state, actions = torch.empty(1, 7, device="meta"), torch.empty(1, 16, 7, device="meta")
    noise, time = torch.empty(1, 2, 16, 7, device="meta"), torch.empty(1, 2, device="meta")
    assert large.flow_loss(prefix, state, actions, noise, time).shape == (1, 2, 16, 7)
    assert large.denoise(prefix, state, actions, steps=1).shape == (1, 16, 7)
    assert large.logits(prefix.hidden[:, -1]).shape == (1, 257216)


def test_the_tiny_one_fits_its_16_megabytes():
    config = tiny_vlm(vocab_size=200, image_token=4)
    with torch.device("meta"):
        policy = AegisPolicy(new_vlm(config), expert_for(config, state_dim=7, action_dim=7, horizon=8))
    assert policy.image_tokens == 64
    assert 4 * parameters(policy) < 16e6
