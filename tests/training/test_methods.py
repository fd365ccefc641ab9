"""What each method trains, and which gradient it leaves."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.model.checkpoint import load_vlm, start_policy, stored_weights
from aegis_policy.training.anchor import Anchor, LayerRecorder, anchor_of_sets, w2_loss
from aegis_policy.training.batches import Batches, Replay
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.device import assume_bfloat16
from aegis_policy.training.methods import Batch, Given, Method, make_method
from aegis_policy.training.methods.aegis import Aegis
from tests.training.tiny import gradients


@pytest.fixture
def batch(start, demonstrations):
    dataset = Demonstrations([demonstrations], horizon=4)
    return Batches(
        dataset, start.processor, start.norm_stats, batch_size=6, noise_samples=2, seed=0, augment=False
    ).batch(0)


@pytest.fixture
def anchor(start, questions):
    return anchor_of_sets(start.policy, start.processor, [questions], 12)


def make(start, name, anchor=None, **settings) -> Method:
    before = load_vlm(settings.pop("vlm")) if "vlm" in settings else None
    return make_method(TrainConfig(method=name, **settings), start.policy, Given(anchor, before))


def layer_of(name: str) -> int | None:
    stem = "vlm.model.language_model.layers."
    return int(name.removeprefix(stem).split(".")[0]) if name.startswith(stem) else None


def test_naive_reaches_the_vision_tower_and_the_words(start, batch):
    make(start, "naive").backward(batch)
    names = gradients(start.policy)
    for part in ("vlm.model.vision_tower", "vlm.model.multi_modal_projector", "embed_tokens", "layers.1", "expert"):
        assert any(part in name for name in names), part


def test_stop_gradient_trains_the_expert_alone_with_naives_gradient(start, batch):
    make(start, "naive").backward(batch)
    naive = gradients(start.policy)
    method = make(start, "stop-gradient")
    method.backward(batch)
    assert not method.backbone
    found = gradients(start.policy)
    assert all(name.startswith("expert.") for name in found)
    for name, gradient in found.items():
        assert torch.equal(gradient, naive[name]), name


@pytest.mark.parametrize("name", ["naive", "aegis"])
def test_in_bfloat16_the_gradient_is_the_same_but_for_rounding(name, start, batch, anchor):
    method = make(start, name, anchor=anchor)
    exact = method.backward(batch)["loss"], gradients(start.policy)
    with assume_bfloat16(True):
        rounded = method.backward(batch)["loss"], gradients(start.policy)
    assert rounded[0] == pytest.approx(exact[0], rel=0.02) and rounded[0] != exact[0]
    for key, gradient in rounded[1].items():
        assert gradient.dtype == torch.float32
        assert (gradient - exact[1][key]).norm() < 0.1 * exact[1][key].norm() + 1e-3, key


@pytest.mark.parametrize("name", ["naive", "aegis"])
def test_gradients_have_their_parameters_layout(name, start, batch, anchor):
    """The fused AdamW takes a gradient for laid out as its parameter is, whatever it says."""
    make(start, name, anchor).backward(batch)
    for key, parameter in start.policy.named_parameters():
        assert parameter.grad is None or parameter.grad.stride() == parameter.stride(), key


@pytest.mark.parametrize("name", ["naive", "aegis"])
def test_freeze_vision_freezes_images_and_words_and_not_the_layers(name, start, batch, anchor):
    make(start, name, anchor, freeze_vision=True).backward(batch)
    names = gradients(start.policy)
    assert not any("vision_tower" in name or "projector" in name or "embed_tokens" in name for name in names)
    assert any("language_model.layers.0" in name for name in names)


def test_aegis_is_the_projection_of_naives_gradient_layer_by_layer(start, batch, anchor):
    """Against gradients of two separate graphs and a numpy projection."""
    policy = start.policy
    naive = make(start, "naive")
    naive.backward(batch)
    task = gradients(policy)
    policy.zero_grad()
    with LayerRecorder(policy.language_model.layers) as recorded:
        _, valid, _ = naive.flow_loss(batch)
    w2_loss(recorded, valid, anchor).backward()
    restoring = gradients(policy)

    metrics = make(start, "aegis", anchor).backward(batch)
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
        method = make(start, "aegis", anchor)
        assert isinstance(method, Aegis)
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


@pytest.mark.parametrize("freeze_vision", [False, True])
def test_layer_by_layer_is_the_same_as_both_gradients_whole(start, batch, anchor, freeze_vision):
    """A step of two micro-batches projects when both are done; two that are alike have the gradient of one."""
    method = make(start, "aegis", anchor, freeze_vision=freeze_vision)
    metrics, got = method.backward(batch), gradients(start.policy)
    # A fused optimizer reads a gradient in its parameter's layout, whatever its own is.
    assert all(p.grad.stride() == p.stride() for p in start.policy.parameters() if p.grad is not None)
    assert method.backward(batch, batch) == pytest.approx(metrics, rel=1e-4, abs=1e-8)
    whole = gradients(start.policy)
    assert whole.keys() == got.keys() and metrics["layers_projected"] > 0
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6 * gradient.abs().max().item() + 1e-12)


def test_aegis_needs_an_anchor_of_this_backbone(start):
    with pytest.raises(ValueError, match="--anchor"):
        make(start, "aegis")
    with pytest.raises(ValueError, match="another backbone"):
        make(start, "aegis", Anchor(torch.zeros(2, 8), torch.ones(2, 8), 1))


def moved(start, vlm) -> dict[str, torch.Tensor]:
    """Move the backbone away from where it began, and tell by how much."""
    torch.manual_seed(1)
    before = load_vlm(vlm).state_dict()
    with torch.no_grad():
        for parameter in start.policy.vlm.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return {f"vlm.{name}": parameter - before[name] for name, parameter in start.policy.vlm.named_parameters()}


def test_holding_features_wants_nothing_at_first_and_then_the_way_back(start, batch, vlm):
    batch = replace(batch, held=2)
    assert make(start, "distil-features", vlm=vlm).backward(batch)["penalty"] == pytest.approx(0, abs=1e-6)
    away = moved(start, vlm)
    make(start, "naive").backward(batch)
    task = gradients(start.policy)
    method = make(start, "distil-features", vlm=vlm, strength=1.0)
    assert method.backward(batch)["penalty"] > 1e-4
    got = gradients(start.policy)
    added = {key: got[key] - task[key] for key in away if key in task}
    assert sum((added[key] * away[key]).sum() for key in added) > 0  # downhill is where it came from
    assert all(torch.equal(got[key], task[key]) for key in task if key.startswith("expert."))


def test_the_frozen_copy_computes_what_the_backbone_does_in_half_the_memory(start, batch, vlm):
    with assume_bfloat16(True):
        method = make(start, "distil-features", vlm=vlm)
        assert method.teacher.vlm.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
        _, valid, recorded = method.flow_loss(batch)
        assert method.penalty(replace(batch, held=6), valid, recorded) == 0


def test_features_held_have_the_gradient_of_their_definition(start, batch, vlm):
    """The last layer runs apart for what is held; that changes neither its output nor any gradient."""
    moved(start, vlm)
    method, shorter = make(start, "distil-features", vlm=vlm), batch.valid.clone()
    shorter[1, -2:] = False
    batch = replace(batch, valid=shorter, held=4)
    _, valid, recorded = method.flow_loss(batch)
    valid = valid[:4]
    assert torch.equal(method.last(recorded[-2][:4], valid)[valid], recorded[-1][:4][valid])
    method.penalty(batch, valid, recorded).backward()
    found = gradients(start.policy)
    start.policy.zero_grad()
    _, _, recorded = method.flow_loss(batch)
    with torch.no_grad(), method.taught as wanted:
        method.teacher.encode(batch.images[:4], batch.ids[:4], batch.valid[:4])
    pairs = [(now[:4][valid], then[valid]) for now, then in zip(recorded, wanted, strict=True)]
    torch.stack([(now - then).square().sum() / then.square().sum() for now, then in pairs]).mean().backward()
    expected = gradients(start.policy)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_holding_features_moves_no_weight_that_the_flow_does_not(start, batch, vlm):
    """Alone, what holds a weight at its start would take it away: by rounding, of which Adam makes whole steps."""
    make(start, "naive").backward(batch)
    reached = gradients(start.policy).keys()
    make(start, "distil-features", vlm=vlm).backward(replace(batch, held=6))
    assert gradients(start.policy).keys() == reached


def test_features_are_held_of_a_batchs_first_samples_alone(start, batch, vlm):
    moved(start, vlm)
    method = make(start, "distil-features", vlm=vlm)

    def penalty(batch: Batch) -> float:
        _, valid, recorded = method.flow_loss(batch)
        return method.penalty(batch, valid, recorded).item()

    first = penalty(replace(batch, held=2))
    others = torch.cat([batch.images[:2], -batch.images[2:]])
    assert penalty(replace(batch, images=others, held=2)) == pytest.approx(first, rel=1e-5)
    assert penalty(replace(batch, held=6)) != pytest.approx(first, rel=1e-3)


def test_co_training_adds_the_answers_cross_entropy(start, batch, questions):
    replay = Replay([str(questions)], start.processor, start.policy.image_tokens, 5, seed=0)
    asked = replay.batch(3)
    assert torch.equal(asked.images, replay.batch(3).images) and not torch.equal(asked.images, replay.batch(4).images)
    plain = Replay([str(questions)], start.processor, start.policy.image_tokens, 5, seed=0, augment=False).batch(3)
    assert torch.equal(plain.packed.ids, asked.packed.ids) and not torch.equal(plain.images, asked.images)
    assert torch.equal(torch.unique(127.5 * (plain.images + 1)), torch.unique(127.5 * (plain.images + 1)).round())
    naive = make(start, "naive")
    naive.backward(batch)
    task = gradients(start.policy)
    start.policy.zero_grad()
    logits = start.policy.answer_logits(asked.images, asked.packed)
    right = asked.packed.labels != -100
    (-logits.log_softmax(-1)[right].gather(1, asked.packed.labels[right][:, None]).mean()).backward()
    answers = gradients(start.policy)
    method = make(start, "co-train", replay=(str(questions),), strength=0.5)
    method.backward(replace(batch, asked=asked))
    for name, gradient in gradients(start.policy).items():
        expected = task.get(name, 0) + 0.5 * answers.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_a_replayed_picture_comes_with_eight_of_the_questions_that_count(start, tmp_path):
    colour = ["what colour is the cube", "red", "colour"]
    for name, rows in (("some", [[], [colour] * 12]), ("none", [[], []])):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            file["images/front"] = np.zeros((2, 16, 16, 3), np.uint8)
            file.create_dataset("questions", data=list(map(json.dumps, rows)), dtype=h5py.string_dtype())
    asked = Replay([str(tmp_path / "some.hdf5")], start.processor, start.policy.image_tokens, 8, seed=0).batch(0)
    assert len(asked.images) == 8
    assert (asked.packed.block.amax(dim=1) == 7).all()  # eight of the twelve
    with pytest.raises(ValueError, match=r"none.hdf5: no question to learn from"):
        Replay([str(tmp_path / "none.hdf5")], start.processor, start.policy.image_tokens, 8, seed=0)


def test_lora_trains_adapters_and_saves_what_they_add_up_to(start, batch, vlm):
    expected = make(start, "naive").backward(batch)
    before = start.policy.vlm.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    method = make(start, "lora", vlm=vlm, lora_rank=2, lora_alpha=6)
    assert method.backward(batch) == pytest.approx(expected, rel=1e-5)  # B is zero
    names = gradients(start.policy)
    assert all(name.startswith("expert.") or "lora_" in name for name in names)
    assert sum("lora_A" in name for name in names) == 7 + 2  # of the last layer the expert reads keys and values alone
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in method.backbone:
            parameter.add_(0.1 * torch.randn_like(parameter))
    adapted = method.backward(batch)["loss"]
    plain = start_policy(vlm, start.info, start.norm_stats).policy
    plain.load_state_dict(method.finished({}), strict=False)
    assert method.finished({}).keys() == stored_weights(plain).keys()
    got = plain.vlm.state_dict()["model.language_model.layers.1.mlp.up_proj.weight"]
    layer = start.policy.language_model.layers[1].mlp.up_proj
    added = 3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(got, before["model.language_model.layers.1.mlp.up_proj.weight"] + added)
    assert make(replace(start, policy=plain), "naive").backward(batch)["loss"] == pytest.approx(adapted, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stop-gradient", "aegis"])
def test_compiled_is_the_same(name, start, batch, anchor):
    method = make(start, name, anchor)
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
