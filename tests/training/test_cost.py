"""What a step costs, counted without data, against the same step taken with real tensors, and against arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aegis_policy.model.backbone import new_vlm
from aegis_policy.model.config import ExpertConfig, expert_for, tiny_vlm
from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.cost import (
    UNCOUNTED,
    LiveBytes,
    StepCost,
    count_step,
    measure_step,
    new_method,
    random_batch,
)
from aegis_policy.training.device import assume_bfloat16
from aegis_policy.training.methods import Method, method_class
from tests.model.builders import build_processor, vlm_config

VLM = vlm_config(build_processor())
EXPERT = ExpertConfig(width=20, mlp=28, state_dim=2, action_dim=3, horizon=3)
SHAPE = {"cameras": 2, "prompt": 5}
LAYER = 4 * sum(parameter.numel() for parameter in new_vlm(VLM).model.language_model.layers[0].parameters())


def real_step(config: TrainConfig, bfloat16: bool) -> StepCost:
    def make() -> Method:
        before = new_vlm(VLM) if method_class(config.method).needs_before else None
        return new_method(config, AegisPolicy(new_vlm(VLM), EXPERT), before)

    with assume_bfloat16(bfloat16):
        return measure_step(make, lambda policy: random_batch(config, policy, **SHAPE), config)


@pytest.mark.parametrize(
    ("method", "bfloat16"),
    [
        ("naive", False),
        ("naive", True),
        ("stop-gradient", True),
        ("aegis", False),
        ("co-train", True),
        ("distil-features", False),
        ("distil-features", True),
    ],
)
def test_the_count_is_that_of_a_real_step(method, bfloat16):
    config = TrainConfig(method=method, batch_size=4, noise_samples=2)
    counted, real = count_step(config, VLM, EXPERT, **SHAPE, bfloat16=bfloat16), real_step(config, bfloat16)
    for part in ("weights", "activations", "flops"):
        assert getattr(counted, part) == getattr(real, part) > 0, part
    conflict = LAYER if method == "aegis" else 0  # it gives the last layer's unread weights a gradient
    assert 0 <= real.gradients - counted.gradients <= conflict
    assert 0 <= real.moments - counted.moments <= 2 * conflict + 4 * 11
    assert counted.peak == pytest.approx(real.peak, rel=0.01, abs=3 * conflict)
    assert max(counted.weights + counted.moments + counted.gradients, counted.activations) < counted.peak


@pytest.mark.parametrize("freeze_vision", [False, True])
def test_what_the_parameters_take_is_arithmetic(freeze_vision):
    config = TrainConfig(method="naive", batch_size=2, freeze_vision=freeze_vision)
    with torch.device("meta"):
        policy = AegisPolicy(new_vlm(VLM), EXPERT)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in policy.buffers())
    unread = ["language_model.norm", *(f"layers.2.{part}" for part in ("mlp", "post_", "pre_"))]
    unread += [f"layers.2.self_attn.{part}_proj" for part in "qo"]  # the expert reads the last layer's keys and values
    trained = [
        parameter.numel()
        for name, parameter in policy.named_parameters()
        if not any(f"{part}" in name for part in unread) or name.startswith("expert")
        if not (freeze_vision and any(part in name for part in ("vision_tower", "projector", "embed_tokens")))
    ]
    cost = count_step(config, VLM, EXPERT, **SHAPE)
    assert cost.weights == 4 * sum(parameter.numel() for parameter in policy.parameters()) + buffers
    assert cost.gradients == 4 * sum(trained)
    assert cost.moments == 2 * cost.gradients + 4 * len(trained)  # and a count of steps for each tensor


def test_aegis_has_one_layers_second_gradient_at_a_time():
    """Where weights outweigh activations: six layers' would add six to the peak, and as many graphs."""
    vlm = tiny_vlm(40, 4)
    expert = expert_for(vlm, 7, 7, 10)
    naive, aegis = (
        count_step(TrainConfig(method=method, batch_size=1), vlm, expert, cameras=1, prompt=4, bfloat16=False)
        for method in ("naive", "aegis")
    )
    layer = 4 * sum(p.numel() for p in AegisPolicy(new_vlm(vlm), expert).language_model.layers[0].parameters())
    assert naive.peak <= aegis.peak < naive.peak + 4 * layer  # it, float64 blocks of it, the vision tower's graph


def test_the_second_gradient_is_of_the_language_model_alone():
    config = TrainConfig(method="naive", batch_size=2)
    policy = AegisPolicy(new_vlm(VLM), EXPERT)
    batch = random_batch(config, policy, **SHAPE)
    with FlopCounterMode(display=False) as whole:
        policy.encode(batch.images, batch.ids, batch.valid)
    with FlopCounterMode(display=False) as below:
        policy.embed(batch.images, batch.ids)
    language = whole.get_total_flops() - below.get_total_flops()
    naive, aegis = (
        count_step(TrainConfig(method=method, batch_size=2), VLM, EXPERT, **SHAPE) for method in ("naive", "aegis")
    )
    assert aegis.flops - naive.flops == pytest.approx(2 * language, rel=0.01)  # and some for the statistics


def test_bytes_are_counted_from_when_they_are_made_to_when_they_are_freed():
    with LiveBytes() as live:
        first = torch.zeros(1000)
        view, second = first[10:], first + 1
        assert live.now == live.peak == 8000
        del first
        assert live.now == 8000
        del view
        assert (live.now, live.peak) == (4000, 8000)
        third = second.bfloat16()
        assert (live.now, live.peak) == (6000, 8000)
    del second, third
    assert live.now == 0


def test_what_depends_on_data_is_refused():
    for method in UNCOUNTED:
        with pytest.raises(ValueError, match=method):
            count_step(TrainConfig(method=method), VLM, EXPERT)
