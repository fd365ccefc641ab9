"""Penalties on leaving what the backbone was: in its activations' statistics, or in its weights."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training.anchor import w2_loss
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.methods.base import Batch, Given, Penalised
from aegis_policy.training.methods.plain import Naive
from aegis_policy.training.shards import like, local, summed


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


class L2SP(Naive):
    """L = L_flow + strength / 2 * ||theta - theta_before||^2 over the backbone (L2-SP, arXiv 1802.01483).

    No sample has a part in what is added: its gradient, strength * (theta - theta_before), joins the flow's mean.
    """

    needs_before = True
    strength = 0.1

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        assert given.before is not None
        self.before = dict(given.before.named_parameters())

    @cached_property
    def pairs(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Each parameter of the backbone that trains, and what it was before."""
        named = self.policy.vlm.named_parameters()
        return [(now, like(self.before.pop(name), now)) for name, now in named if now.requires_grad]

    @torch.no_grad()
    def finish(self) -> dict[str, float]:
        squares = []
        for now, then in self.pairs:
            away = now - then
            now.grad = self.weight * away if now.grad is None else now.grad.add_(away, alpha=self.weight)
            squares.append(local(away).square().sum())
        distance = summed(torch.stack(squares).sum(), [now for now, _ in self.pairs])
        return {"penalty": 0.5 * distance.item()}
