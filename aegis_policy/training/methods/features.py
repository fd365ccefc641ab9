"""Holding the backbone to what its frozen copy makes of the robot's own images: no question set is needed."""

from __future__ import annotations

import torch
from torch import Tensor

from aegis_policy.model.backbone import Backbone
from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training import world
from aegis_policy.training.anchor import LayerRecorder, transformer_layers
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.device import autocast
from aegis_policy.training.methods.base import Batch, Given, Penalised


class DistilFeatures(Penalised):
    """L_more = mean over layers and tokens of ||h - h_before||^2, in units of the layer's mean ||h_before||^2.

    Token by token, on the robot's samples that are held; compare "Don't blind your VLA" (arXiv 2510.25616), which holds
    visual features.
    """

    needs_before = True
    records = True
    strength = 16.0

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        assert given.before is not None
        self.teacher = Backbone(given.before).to(self.device).requires_grad_(False).eval()
        self.taught = LayerRecorder(transformer_layers(self.teacher))

    def penalty(self, batch: Batch, valid: Tensor, recorded: list[Tensor]) -> Tensor:
        with torch.no_grad(), autocast(self.device), self.taught as outputs:
            self.teacher.encode(*(part[: batch.held] for part in (batch.images, batch.ids, batch.valid)))
            before = list(outputs)
            outputs.clear()
        valid, distances, sizes = valid[: batch.held], [], []
        for now, then in zip(recorded, before, strict=True):
            then = then[valid].float()  # (tokens, W)
            distances.append((now[: batch.held][valid].float() - then).square().sum())
            sizes.append(then.square().sum())
        return (world.total(torch.stack(distances)) / world.total(torch.stack(sizes))).mean()
