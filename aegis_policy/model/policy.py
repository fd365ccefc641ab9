"""AegisPolicy: a PaliGemma that answers, and an action expert that moves, on one prefix.

Everything here is in normalised units; `inference` knows about metres and radians.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PaliGemmaConfig

from aegis_policy.model.backbone import Backbone, Prefix
from aegis_policy.model.config import ExpertConfig
from aegis_policy.model.expert import ActionExpert

__all__ = ["AegisPolicy", "Prefix", "sample_time"]


class AegisPolicy(Backbone):
    """A backbone that also acts.

    Args:
        vlm: configuration of the PaliGemma backbone, of any size.
        expert: sizes of the action expert.
    """

    def __init__(self, vlm: PaliGemmaConfig, expert: ExpertConfig):
        super().__init__(vlm)
        self.expert = ActionExpert(expert, self.vlm.config.text_config)

    def flow_loss(self, prefix: Prefix, state: Tensor, actions: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Flow-matching error per element, [B, M, H, A] (pi0, eq. 1, with t = 1 as noise).

        x_t = t * noise + (1 - t) * actions; the target velocity is noise - actions.

        Args:
            state: [B, S]; actions: [B, H, A]; noise: [B, M, H, A]; time: [B, M].
        """
        t = time[..., None, None]
        actions = actions[:, None]
        velocity = self.expert(prefix.keys_values, prefix.valid, state, t * noise + (1 - t) * actions, time)
        return (velocity - (noise - actions)).square()

    @torch.no_grad()
    def denoise(self, prefix: Prefix, state: Tensor, noise: Tensor, steps: int | None = None) -> Tensor:
        """Euler steps from noise [B, H, A] at t = 1 to actions [B, H, A] at t = 0."""
        steps = steps or self.expert.config.denoising_steps
        x = noise[:, None]
        for step in range(steps):
            time = x.new_full(x.shape[:2], 1 - step / steps)
            x = x - self.expert(prefix.keys_values, prefix.valid, state, x, time) / steps
        return x[:, 0]


def sample_time(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Flow times t ~ Beta(1.5, 1) * 0.999 + 0.001, more often near noise (openpi)."""
    return torch.rand(shape, generator=generator) ** (1 / 1.5) * 0.999 + 0.001
