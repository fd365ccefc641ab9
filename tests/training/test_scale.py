"""Accumulation, gradient checkpointing and averaged weights: what each leaves as it was, and what it changes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.data.vqa import VQASet
from aegis_policy.model.checkpoint import load, load_vlm
from aegis_policy.training.anchor import LayerRecorder, anchor_of_sets, w2_loss
from aegis_policy.training.batches import Batches, Replay
from aegis_policy.training.config import MethodName, TrainConfig
from aegis_policy.training.methods import Batch, Given, Method, make_method
from aegis_policy.training.projection import project
from aegis_policy.training.recompute import recompute_layers
from aegis_policy.training.train import resume, train
from aegis_policy.training.vqa_eval import score
from tests.training.tiny import gradients


@pytest.fixture
def batches(start, demonstrations, questions) -> Batches:
    replay = Replay([str(questions)], start.processor, start.policy.image_tokens, 4, seed=0)
    return Batches(
        Demonstrations([demonstrations], horizon=4),
        *(start.processor, start.norm_stats),
        **{"batch_size": 8, "noise_samples": 2, "seed": 0, "replay": replay, "held": 2},
    )


@pytest.fixture
def make(start, vlm, questions):
    def make(name: MethodName, **settings) -> Method:
        given = Given(anchor_of_sets(start.policy, start.processor, [questions], 12), load_vlm(vlm))
        method = make_method(TrainConfig(method=name, **settings), start.policy, given)
        start.policy.train()
        return method

    return make


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert got.keys() == expected.keys()
    size = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= tolerance * size, name


def test_parts_of_a_batch_are_the_batch(batches):
    def rows(batch: Batch) -> list[torch.Tensor | None]:
        assert batch.asked is not None
        return [batch.images, batch.ids, batch.state, batch.actions, batch.noise, batch.time, batch.asked.images]

    whole = batches.batch(3)
    parts = [batches.batch(3, part, 2) for part in range(2)]
    for part in range(2):
        for all_rows, ours in zip(rows(whole), rows(parts[part]), strict=True):
            assert torch.equal(all_rows[part::2], ours)
    assert [whole.held, *(part.held for part in parts)] == [2, 1, 1]
    labels = [part.asked.packed.labels for part in (whole, *parts)]
    assert all(torch.equal(labels[0][part::2][:, : ours.shape[1]], ours) for part, ours in enumerate(labels[1:]))


def test_micro_batches_give_the_gradient_of_the_batch(make, start, batches):
    method = make("naive")
    one = method.backward(batches.batch(0))
    expected = gradients(start.policy)
    several = method.backward(*(batches.batch(0, part, 4) for part in range(4)))
    assert_same(gradients(start.policy), expected)
    assert several == pytest.approx(one, rel=1e-4)


def test_aegis_projects_the_accumulated_gradient_by_the_accumulated_anchors(make, start, batches):
    """Against means of gradients of separate graphs."""
    parts = [batches.batch(0, part, 2) for part in range(2)]
    naive, layers, drift = make("naive"), start.policy.language_model.layers, []
    naive.backward(*parts)
    task = gradients(start.policy)
    method = make("aegis")
    for part in parts:
        with LayerRecorder(layers) as recorded:
            _, valid, _ = naive.flow_loss(part)
        parameters = list(layers.parameters())
        drift.append(torch.autograd.grad(w2_loss(recorded, valid, method.anchor) / 2, parameters, allow_unused=True))
    sums = {
        id(parameter): one if other is None else one + other
        for parameter, one, other in zip(parameters, *drift, strict=True)
        if one is not None
    }
    metrics = method.backward(*parts)
    got, projected = gradients(start.policy), 0
    for index, layer in enumerate(layers):
        names = [f"vlm.model.language_model.layers.{index}.{name}" for name, _ in layer.named_parameters()]
        result = project([task.get(name) for name in names], [sums.get(id(p)) for p in layer.parameters()])
        projected += result.projected
        for name, expected in zip(names, result.gradients, strict=True):
            if expected is not None:
                torch.testing.assert_close(got[name], expected, rtol=1e-3, atol=1e-6)
    assert metrics["layers_projected"] == projected / len(layers)


@pytest.mark.parametrize("name", get_args(MethodName))
def test_checkpointed_layers_give_the_same_gradients(name, make, start, batches):
    method, batch = make(name), batches.batch(0)
    expected_metrics = method.backward(batch)
    expected = gradients(start.policy)
    recompute_layers(start.policy)
    assert method.backward(batch) == pytest.approx(expected_metrics, rel=1e-5, abs=1e-6)
    assert_same(gradients(start.policy), expected)


def test_checkpointed_layers_run_again_and_their_hooks_do_not(make, start, batches):
    method, runs, calls = make("aegis"), Counter[str](), Counter[str]()
    recompute_layers(start.policy)
    policy = start.policy
    towers = {"vision": policy.vlm.model.vision_tower.encoder, "language": policy.language_model}
    for name, tower in (towers | {"expert": policy.expert.decoder}).items():
        tower.layers[0].register_forward_hook(lambda *_, name=name: calls.update([name]))
        tower.layers[0].mlp.register_forward_pre_hook(lambda *_, name=name: runs.update([name]))
    method.backward(batches.batch(0))
    assert calls == {"vision": 1, "language": 1, "expert": 1}
    assert runs == {"vision": 2, "language": 3, "expert": 2}  # the anchor's pass is of the language model alone


def test_checkpointed_layers_answer_as_ever(make, start, batches, questions):
    samples = VQASet(questions).samples(12)
    before = score(start.policy, start.processor, samples)
    prefix = start.policy.encode(*(lambda b: (b.images, b.ids, b.valid))(batches.batch(0)))
    answer = torch.stack(list(start.policy.decode(prefix, 5)))
    recompute_layers(start.policy)
    assert score(start.policy, start.processor, samples) == before
    assert torch.equal(torch.stack(list(start.policy.decode(prefix, 5))), answer)


@pytest.fixture
def recipe(vlm, demonstrations, questions) -> TrainConfig:
    return TrainConfig(
        dataset=(str(demonstrations),),
        checkpoint=str(vlm),
        vqa=(str(questions),),
        method="naive",
        steps=6,
        batch_size=4,
        noise_samples=1,
        horizon=3,
        warmup_steps=1,
        save_every=1,
        eval_every=6,
        keep=0,
    )


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/{step:06d}/pretrained_model/model.safetensors")


def test_the_finished_policy_is_the_average_of_the_weights(recipe, questions, tmp_path):
    train(recipe, tmp_path / "raw")
    train(replace(recipe, ema=0.7), tmp_path / "run")
    raw = {step: weights(tmp_path / "raw", step) for step in range(1, 7)}
    for name, average in weights(tmp_path / "run", 1).items():
        for step in range(2, 7):
            decay = min(0.7, step / (9 + step))
            average = decay * average + (1 - decay) * raw[step][name]
        torch.testing.assert_close(weights(tmp_path / "run", 6)[name], average, rtol=1e-5, atol=1e-6)
    done = load(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = score(done.policy, done.processor, VQASet(questions).samples(512))
    assert rows[-1]["vqa"]["colours"]["cross_entropy"] == pytest.approx(measured.cross_entropy, rel=1e-5)


@pytest.mark.parametrize("method", ["naive", "lora"])
def test_an_averaged_run_resumes_bit_identical(method, recipe, tmp_path):
    recipe = replace(recipe, method=method, ema=0.9, accumulate=2, gradient_checkpointing=True)
    train(recipe, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut", symlinks=True)
    for step in (4, 5, 6):
        shutil.rmtree(tmp_path / f"cut/checkpoints/{step:06d}")
    resume(tmp_path / "cut")
    for name in ("pretrained_model/model", "training_state/optimizer", "training_state/ema"):
        expected, got = (
            load_file(tmp_path / f"{run}/checkpoints/000006/{name}.safetensors") for run in ("whole", "cut")
        )
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected), name
