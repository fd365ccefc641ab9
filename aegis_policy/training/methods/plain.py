"""The two ends of the scale: the backbone receives everything, or nothing."""

from __future__ import annotations

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.methods.base import Batch, Given, Method


class Naive(Method):
    """g = grad L_flow, through everything (pi0, arXiv 2410.24164)."""

    def add_gradient(self, batch: Batch, share: float) -> dict[str, float]:
        loss, *_ = self.flow_loss(batch)
        (share * loss).backward()
        return {"loss": loss.item()}


class StopGradient(Method):
    """The expert reads keys and values without a gradient: the backbone is frozen, to the bit (arXiv 2505.23705)."""

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        policy.vlm.requires_grad_(False)

    def add_gradient(self, batch: Batch, share: float) -> dict[str, float]:
        loss, *_ = self.flow_loss(batch, detach=True)
        (share * loss).backward()
        return {"loss": loss.item()}
