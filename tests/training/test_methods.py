"""What each method trains, and which gradient it leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.model.checkpoint import start_policy
from aegis_policy.policy import PolicyInfo
from aegis_policy.training.anchor import Anchor, LayerRecorder, anchor_of_sets, w2_loss
from aegis_policy.training.batches import Batches
from aegis_policy.training.methods import Aegis, make_method


@pytest.fixture
def start(vlm, demonstrations):
    dataset = Demonstrations([demonstrations], horizon=4)
    info = PolicyInfo(
        "test", tuple(dataset.cameras), dataset.state_features, dataset.action_features, 4, 10.0, ("pick",), ""
    )
    torch.manual_seed(0)
    return start_policy(vlm, info, dataset.norm_stats())


@pytest.fixture
def batch(start, demonstrations):
    dataset = Demonstrations([demonstrations], horizon=4)
    return Batches(
        dataset, start.processor, start.norm_stats, batch_size=6, noise_samples=2, seed=0, augment=False
    ).batch(0)


@pytest.fixture
def anchor(start, questions):
    return anchor_of_sets(start.policy, start.processor, [questions], 12)


def gradients(policy) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def layer_of(name: str) -> int | None:
    stem = "vlm.model.language_model.layers."
    return int(name.removeprefix(stem).split(".")[0]) if name.startswith(stem) else None


def test_naive_reaches_the_vision_tower_and_the_words(start, batch):
    make_method("naive", start.policy, None, freeze_vision=False).backward(batch)
    names = gradients(start.policy)
    for part in ("vlm.model.vision_tower", "vlm.model.multi_modal_projector", "embed_tokens", "layers.1", "expert"):
        assert any(part in name for name in names), part


def test_stop_gradient_trains_the_expert_alone_with_naives_gradient(start, batch):
    make_method("naive", start.policy, None, freeze_vision=False).backward(batch)
    naive = gradients(start.policy)
    method = make_method("stop-gradient", start.policy, None, freeze_vision=False)
    method.backward(batch)
    assert not method.backbone
    found = gradients(start.policy)
    assert all(name.startswith("expert.") for name in found)
    for name, gradient in found.items():
        assert torch.equal(gradient, naive[name]), name


@pytest.mark.parametrize("name", ["naive", "aegis"])
def test_freeze_vision_freezes_images_and_words_and_not_the_layers(name, start, batch, anchor):
    make_method(name, start.policy, anchor, freeze_vision=True).backward(batch)
    names = gradients(start.policy)
    assert not any("vision_tower" in name or "projector" in name or "embed_tokens" in name for name in names)
    assert any("language_model.layers.0" in name for name in names)


def test_aegis_is_the_projection_of_naives_gradient_layer_by_layer(start, batch, anchor):
    """Against gradients of two separate graphs and a numpy projection."""
    policy = start.policy
    naive = make_method("naive", policy, None, freeze_vision=False)
    naive.backward(batch)
    task = gradients(policy)
    policy.zero_grad()
    with LayerRecorder(policy.language_model.layers) as recorded:
        _, valid, _ = naive.flow_loss(batch)
    w2_loss(recorded, valid, anchor).backward()
    restoring = gradients(policy)

    metrics = make_method("aegis", policy, anchor, freeze_vision=False).backward(batch)
    got = gradients(policy)
    conflicts, shed = 0, []
    for layer in range(len(policy.language_model.layers)):
        names = [n for n, _ in policy.named_parameters() if layer_of(n) == layer]
        zero = {n: torch.zeros_like(p) for n, p in policy.named_parameters()}

        def vector(of, names=names, zero=zero):
            return np.concatenate([of.get(n, zero[n]).double().numpy().ravel() for n in names])

        g, ot = vector(task), vector(restoring)
        dot = g @ ot
        expected = g - min(dot, 0) / (ot @ ot) * ot
        conflicts += dot < 0
        shed.append(1 - (expected @ expected) / (g @ g))
        np.testing.assert_allclose(vector(got), expected, rtol=1e-4, atol=1e-5 * np.abs(g).max())
    assert metrics["layers_projected"] == conflicts / 2
    assert metrics["shed_mean"] == pytest.approx(np.mean(shed), rel=1e-3, abs=1e-7)
    assert metrics["shed_max"] == pytest.approx(np.max(shed), rel=1e-3, abs=1e-7)
    for name in task:
        if layer_of(name) is None:
            assert torch.equal(got[name], task[name]), name


def test_an_anchor_that_pulls_the_other_way_is_obeyed(start, batch):
    """Whatever the anchor, no layer keeps a gradient that would undo it; some anchor must conflict."""
    policy, seen = start.policy, 0
    for sign in (1.0, -1.0):
        anchor = Anchor(torch.full((2, 32), sign), torch.full((2, 32), 3.0), 1)
        method = Aegis(policy, anchor)
        seen += method.backward(batch)["layers_projected"] > 0
        with LayerRecorder(policy.language_model.layers) as recorded:
            _, valid, _ = method.flow_loss(batch)
        for parameters in method.layers:
            ot = torch.autograd.grad(w2_loss(recorded, valid, anchor), parameters, retain_graph=True, allow_unused=True)
            pairs = [(p.grad, o) for p, o in zip(parameters, ot, strict=True) if p.grad is not None and o is not None]
            dot = sum((g.double() * o.double()).sum() for g, o in pairs)
            size = sum((g.double() * o.double()).abs().sum() for g, o in pairs)
            assert dot >= -1e-5 * size
    assert seen


def test_aegis_needs_an_anchor_of_this_backbone(start):
    with pytest.raises(ValueError, match="--anchor"):
        make_method("aegis", start.policy, None, freeze_vision=False)
    with pytest.raises(ValueError, match="another backbone"):
        make_method("aegis", start.policy, Anchor(torch.zeros(2, 8), torch.ones(2, 8), 1), freeze_vision=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stop-gradient", "aegis"])
def test_compiled_is_the_same(name, start, batch, anchor):
    method = make_method(name, start.policy, anchor, freeze_vision=False)
    expected = method.backward(batch)
    eager = gradients(start.policy)
    method.compile()
    for _ in range(2):  # the second time without tracing
        metrics = method.backward(batch)
    assert metrics == pytest.approx(expected, rel=0.05, abs=1e-3)
    compiled = gradients(start.policy)
    size = torch.cat([gradient.flatten() for gradient in eager.values()]).norm()
    for key, gradient in compiled.items():  # bfloat16, fused differently; zeros where eager has no gradient at all
        difference = gradient - eager.pop(key, torch.zeros_like(gradient))
        assert difference.norm() < 0.05 * gradient.norm() + 1e-3 * size, key
    assert not eager
