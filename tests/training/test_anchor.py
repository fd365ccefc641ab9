"""The anchor's statistics and the distance to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aegis_policy.model.checkpoint import load_backbone
from aegis_policy.training.anchor import Anchor, LayerRecorder, anchor_of_sets, compute_anchor, fingerprint, w2_loss
from aegis_policy.training.device import autocast


@pytest.fixture(scope="module")
def backbone(vlm):
    return load_backbone(vlm)


def prefixes(processor, count=7, seed=0):
    """One batch of prompts of different lengths."""
    images = torch.rand(count, 2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    texts = ["what colour is the cube", "cube", "pick up the red cube"]
    return images, *processor.prompt([texts[i % 3] for i in range(count)])


def layer_outputs(model, images, ids, valid):
    """Hidden states of valid tokens after each layer, one prefix at a time and without padding or hooks."""
    rows = []
    for i in range(len(images)):
        seen = ids[i, valid[i]][None]
        with torch.no_grad(), autocast(images.device):
            embeds = model.embed(images[i : i + 1], seen)
            length = embeds.shape[1]
            out = model.language_model(
                inputs_embeds=embeds,
                attention_mask={
                    name: torch.zeros(1, 1, length, length) for name in ("full_attention", "sliding_attention")
                },
                position_ids=torch.arange(1, length + 1)[None],
                output_hidden_states=True,
            )
        rows.append(out.hidden_states)
    return rows


def test_statistics_are_those_of_the_valid_tokens(backbone):
    model, processor = backbone
    images, ids, valid = prefixes(processor)
    anchor = compute_anchor(model, [(images[:4], ids[:4], valid[:4]), (images[4:], ids[4:], valid[4:])])
    rows = layer_outputs(model, images, ids, valid)
    # transformers norms the last layer's entry, so the layer that can be compared is the first
    first = torch.cat([row[1][0] for row in rows]).double()
    assert anchor.tokens == len(first) == 7 * 8 + int(valid.sum())
    # batching changes the rounding of bfloat16
    np.testing.assert_allclose(anchor.mean[0].numpy(), first.mean(0).numpy(), rtol=2e-2, atol=2e-2)
    np.testing.assert_allclose(anchor.std[0].numpy(), first.std(0, unbiased=False).numpy(), rtol=2e-2, atol=2e-2)


def test_streaming_is_the_same_as_all_at_once(backbone):
    model, processor = backbone
    images, ids, valid = prefixes(processor)
    with torch.no_grad(), LayerRecorder(model.language_model.layers) as outputs, autocast(images.device):
        prefix = model.encode(images, ids, valid)
    anchor = compute_anchor(model, [(images, ids, valid)])
    for layer, hidden in enumerate(outputs):
        seen = hidden[prefix.valid].double()
        np.testing.assert_allclose(anchor.mean[layer].numpy(), seen.mean(0).numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(anchor.std[layer].numpy(), seen.std(0, unbiased=False).numpy(), rtol=1e-5, atol=1e-6)


def test_recorder_keeps_the_last_pass_and_leaves_no_hooks(backbone):
    model, processor = backbone
    layers = model.language_model.layers
    hooks = [(len(layer._forward_hooks), len(layer._forward_pre_hooks)) for layer in layers]  # transformers has some
    with LayerRecorder(layers) as outputs:
        for seed in range(2):
            prefix = model.encode(*prefixes(processor, seed=seed))
    assert len(outputs) == len(layers)
    torch.testing.assert_close(model.language_model.norm(outputs[-1]), prefix.hidden)
    assert outputs[0].requires_grad
    assert hooks == [(len(layer._forward_hooks), len(layer._forward_pre_hooks)) for layer in layers]


def test_w2_is_the_formula():
    rng = np.random.default_rng(0)
    hidden = rng.normal(2, 3, size=(2, 4, 5, 6)).astype(np.float32)  # (layers, B, P, W)
    valid = rng.random((4, 5)) < 0.6
    mean, std = rng.normal(size=(2, 2, 6)).astype(np.float32)
    expected = sum(
        ((h[valid].mean(0) - mu) ** 2).sum() + ((h[valid].std(0) - sigma) ** 2).sum()
        for h, mu, sigma in zip(hidden.astype(np.float64), mean, std, strict=True)
    )
    loss = w2_loss(list(torch.tensor(hidden)), torch.tensor(valid), Anchor(torch.tensor(mean), torch.tensor(std), 1))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_w2_is_zero_at_the_anchor_and_blind_to_padding():
    hidden = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[0, 2:] = False
    seen = hidden[valid]
    anchor = Anchor(seen.mean(0)[None], seen.std(0, unbiased=False)[None], 1)
    assert w2_loss([hidden], valid, anchor).item() == pytest.approx(0, abs=1e-10)
    hidden[0, 3] = 1e6
    assert w2_loss([hidden], valid, anchor).item() == pytest.approx(0, abs=1e-10)


def test_w2_has_a_finite_gradient_where_a_channel_is_constant():
    hidden = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    hidden[..., 1] = 0.7
    hidden.requires_grad_()
    w2_loss([hidden], torch.ones(3, 4, dtype=torch.bool), Anchor(torch.zeros(1, 2), torch.ones(1, 2), 1)).backward()
    assert torch.isfinite(hidden.grad).all()
    assert (hidden.grad[..., 0] != 0).all()


def test_w2_gradient_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    anchor = Anchor(torch.randn(1, 4, generator=generator), torch.rand(1, 4, generator=generator), 1)
    assert torch.autograd.gradcheck(lambda h: w2_loss([h], valid, anchor), hidden)


def test_saves_and_loads(tmp_path, backbone, questions):
    anchor = anchor_of_sets(*backbone, [questions], 10)
    anchor.save(tmp_path / "anchor.safetensors")
    loaded = Anchor.load(tmp_path / "anchor.safetensors")
    assert torch.equal(loaded.mean, anchor.mean) and torch.equal(loaded.std, anchor.std)
    assert loaded.tokens == anchor.tokens > 10 * 4
    assert loaded.backbone == anchor.backbone == fingerprint(backbone[0])


def test_says_what_is_wrong_with_a_file(tmp_path, backbone):
    with pytest.raises(FileNotFoundError, match="aegis anchor"):
        Anchor.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"bad\.safetensors: not an anchor"):
        Anchor.load(tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=r"another backbone: \[3, 32\].*\[2, 32\]"):
        Anchor(torch.zeros(3, 32), torch.ones(3, 32), 1).check(backbone[0])
