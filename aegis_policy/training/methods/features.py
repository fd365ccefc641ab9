"""Holding the backbone to what its frozen copy makes of the robot's own images: no question set is needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aegis_policy.model.backbone import Backbone
from aegis_policy.model.masks import additive, positions, prefix_mask
from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training import world
from aegis_policy.training.anchor import LayerRecorder, transformer_layers
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.device import autocast, in_its_precision
from aegis_policy.training.methods.base import Batch, Given, Penalised

FOR_THE_EXPERT = ("input_layernorm.", "self_attn.k_proj.", "self_attn.v_proj.")
"""What of the last layer makes the keys and values that the expert reads."""


class DistilFeatures(Penalised):
    """L_more = mean over layers and tokens of ||h - h_before||^2, in units of the layer's mean ||h_before||^2.

    Token by token, on the robot's samples that are held; compare "Don't blind your VLA" (arXiv 2510.25616), which holds
    visual features. Nothing else reads what the last layer gives. So that layer is run once more, for the samples that
    are held: a gradient through what it gave with the whole batch would cost four times as much. And its weights that
    only what it gives depends on stay as they are: their first gradient would be rounding alone, of which Adam makes
    whole steps.
    """

    needs_before = True
    records = True
    strength = 32.0

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        assert given.before is not None
        for name, parameter in transformer_layers(policy)[-1].named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name.startswith(FOR_THE_EXPERT))
        self.teacher = Backbone(given.before).requires_grad_(False).eval()
        in_its_precision(self.teacher.vlm.model, self.device)
        self.taught = LayerRecorder(transformer_layers(self.teacher))

    def penalty(self, batch: Batch, valid: Tensor, recorded: list[Tensor]) -> Tensor:
        with torch.no_grad(), autocast(self.device), self.taught as outputs:
            self.teacher.encode(*(part[: batch.held] for part in (batch.images, batch.ids, batch.valid)))
            before = list(outputs)
            outputs.clear()
        valid, distances, sizes = valid[: batch.held], [], []
        counts = valid[..., None].float()
        held = [states[: batch.held] for states in recorded[:-1]]
        for now, then in zip([*held, self.last(held[-1], valid)], before, strict=True):
            then = then.float()
            distances.append(((now.float() - then) * counts).square().sum())
            sizes.append((then * counts).square().sum())
        return (world.total(torch.stack(distances)) / world.total(torch.stack(sizes))).mean()

    def last(self, states: Tensor, valid: Tensor) -> Tensor:
        """What the last layer makes of the one before it, [B, P, W] each, of which tokens [B, P] are valid."""
        model: Any = self.policy.language_model
        place = positions(valid)
        with autocast(self.device):
            return model.layers[-1](
                states,
                attention_mask=additive(prefix_mask(valid), states.dtype)["full_attention"],
                position_embeddings=model.rotary_emb(states, place),
                position_ids=place,
            )
