"""Penalties on leaving what the backbone was: in its activations' statistics, or in its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training.anchor import w2_loss
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.methods.base import Batch, Given, Penalised


class AnchorPenalty(Penalised):
    """L = L_flow + strength * L_ot: AEGIS's anchor loss (arXiv 2604.16067), added in place of projecting by it."""

    needs_anchor = True
    records = True
    strength = 1.0

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        assert given.anchor is not None
        self.anchor = given.anchor.to(self.device)

    def penalty(self, batch: Batch, valid: Tensor, recorded: list[Tensor]) -> Tensor:
        return w2_loss(recorded, valid, self.anchor)


class L2SP(Penalised):
    """L = L_flow + strength / 2 * ||theta - theta_before||^2 over the backbone (L2-SP, arXiv 1802.01483)."""

    needs_before = True
    strength = 0.1

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        assert given.before is not None
        before = dict(given.before.named_parameters())
        self.pairs = [
            (parameter, before[name].detach().to(self.device))
            for name, parameter in policy.vlm.named_parameters()
            if parameter.requires_grad
        ]

    def penalty(self, batch: Batch, valid: Tensor, recorded: list[Tensor]) -> Tensor:
        return 0.5 * torch.stack([(now - then).square().sum() for now, then in self.pairs]).sum()
