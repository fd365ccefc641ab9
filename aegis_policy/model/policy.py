"""AegisPolicy: a PaliGemma that answers, and an action expert that moves, on one prefix.

Everything here is in normalised units; `inference` knows about metres and radians.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PaliGemmaForConditionalGeneration

from aegis_policy.model.backbone import Backbone, Prefix
from aegis_policy.model.config import ExpertConfig
from aegis_policy.model.expert import ActionExpert, primed_cache, roomy_cache
from aegis_policy.model.real_time import conditioned, guided

__all__ = ["AegisPolicy", "Prefix", "sample_time"]


class Begun(NamedTuple):
    """Chunks that have begun, where a flow learns to be given their first actions.

    Attributes:
        delay: [B, M], how many are given.
        chunks: [B, M, H, A], what is given, and then what is to follow it.
    """

    delay: Tensor
    chunks: Tensor


class AegisPolicy(Backbone):
    """A backbone that also acts.

    Args:
        vlm: the PaliGemma backbone, of any size.
        expert: sizes of the action expert.
    """

    def __init__(self, vlm: PaliGemmaForConditionalGeneration, expert: ExpertConfig):
        super().__init__(vlm)
        self.expert = ActionExpert(expert, self.vlm.config.text_config)

    @classmethod
    def from_pretrained(cls, source: str | Path, expert: ExpertConfig | None = None) -> AegisPolicy:
        """A policy of ours, or a VLM in PaliGemma's layout with a fresh expert; a local folder or a hub name.

        Args:
            expert: sizes of the fresh expert; needed for a VLM, refused for a policy, which has its own.

        Raises:
            FileNotFoundError, OSError: nothing to load there.
            ValueError: `expert` is missing or superfluous, or the weights do not fit.
        """
        from aegis_policy.model import checkpoint

        source = checkpoint.resolve(source)
        if checkpoint.is_policy(source) != (expert is None):
            raise ValueError(f"{source}: give `expert` for a VLM, and none for a policy")
        return checkpoint.load(source).policy if expert is None else cls(checkpoint.load_vlm(source), expert)

    def flow_loss(
        self,
        prefix: Prefix,
        state: Tensor,
        actions: Tensor,
        noise: Tensor,
        time: Tensor,
        begun: Begun | None = None,
    ) -> Tensor:
        """Flow-matching error per element, [B, M, H, A] (pi0, eq. 1, with t = 1 as noise).

        x_t = t * noise + (1 - t) * actions; the target velocity is noise - actions.

        Args:
            state: [B, S]; actions: [B, H, A]; noise: [B, M, H, A]; time: [B, M].
            begun: what each draw is given, clean and at time 0 and without an error of its own (arXiv 2512.05964), and
                what it is to become in place of `actions`. The error of the others is raised in turn, so that all draws
                weigh alike in the mean.
        """
        horizon, given = actions.shape[1], None
        actions = actions[:, None] if begun is None else begun.chunks
        if begun is not None:
            given = torch.arange(horizon, device=time.device) < begun.delay[..., None]  # (B, M, H)
            time = time[..., None].masked_fill(given, 0.0)
        t = time[..., None, None] if given is None else time[..., None]
        cache = primed_cache(prefix.keys_values)
        velocity = self.expert(cache, prefix.valid, state, t * noise + (1 - t) * actions, time)
        error = (velocity - (noise - actions)).square()
        if begun is None or given is None:
            return error
        return error.masked_fill(given[..., None], 0.0) * (horizon / (horizon - begun.delay))[..., None, None]

    @torch.no_grad()
    def denoise(self, prefix: Prefix, state: Tensor, noise: Tensor, steps: int | None = None) -> Tensor:
        """Euler steps from noise [B, H, A], cut to the expert's temperature, at t = 1 to actions [B, H, A] at t = 0."""
        steps = steps or self.expert.config.denoising_steps
        x = self.expert.config.temperature * noise[:, None]
        cache = roomy_cache(prefix.keys_values, 1 + noise.shape[1])
        for step in range(steps):
            time = x.new_full(x.shape[:2], 1 - step / steps)
            x = x - self.expert(cache, prefix.valid, state, x, time) / steps
        return x[:, 0]

    @torch.no_grad()
    def go_on(
        self, prefix: Prefix, state: Tensor, noise: Tensor, actions: Tensor, hold: Tensor, steps: int | None = None
    ) -> Tensor:
        """As `denoise`, to actions [B, H, A] that go on from those that are pending: see `real_time`.

        An expert that was trained to be given its first actions is; any other is guided, which takes gradients: not
        within torch.inference_mode, nor with a prefix that was read in it.

        Args:
            actions: [B, H, A], hold: [B, H], as `data.ahead.Ahead` has them.
        """
        steps, x = steps or self.expert.config.denoising_steps, self.expert.config.temperature * noise
        if self.expert.config.max_delay:
            cache = roomy_cache(prefix.keys_values, 1 + noise.shape[1])
            return conditioned(
                lambda x, time: self.expert(cache, prefix.valid, state, x, time), *(x, actions, hold, steps)
            )
        return guided(
            lambda x, time: self.expert(primed_cache(prefix.keys_values), prefix.valid, state, x, time),
            *(x, actions, hold, steps),
        )


def sample_time(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Flow times t ~ Beta(1.5, 1) * 0.999 + 0.001, more often near noise (openpi)."""
    return torch.rand(shape, generator=generator) ** (1 / 1.5) * 0.999 + 0.001
