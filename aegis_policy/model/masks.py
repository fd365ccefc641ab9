"""Who attends to whom, and where each token stands.

              images  prompt | answer      state  actions
    images      x       x    |
    prompt      x       x    |
    answer      x       x    | causal                        text: PaliGemma's prefix-LM
    state       x       x    |               x
    actions     x       x    |               x       x       suffix: pi0 (arXiv 2410.24164)

Masks are boolean, True where a query may look at a key, and become additive only where a layer wants them.
Positions start at 1, as PaliGemma's do, and count valid tokens only, so padding shifts nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def positions(valid: Tensor) -> Tensor:
    """[B, P] bool -> [B, P] positions from 1, counting valid tokens only."""
    return valid.long().cumsum(dim=1).clamp(min=1)


def prefix_mask(valid: Tensor) -> Tensor:
    """[B, P] bool -> [B, P, P]: images and prompt see one another; nobody sees padding."""
    return valid[:, None, :].expand(-1, valid.shape[1], -1)


def suffix_mask(valid: Tensor, samples: int, horizon: int) -> Tensor:
    """[B, P] bool -> [B, M(1+H), P + M(1+H)] for M suffixes (state, H actions) that share one prefix.

    The M noise samples stand side by side in the sequence and cannot see one another: the prefix's keys are read by
    all of them and copied for none.
    """
    place = torch.arange(samples * (1 + horizon), device=valid.device)
    sample, state = place // (1 + horizon), place % (1 + horizon) == 0
    own = (sample[:, None] == sample) & (~state[:, None] | state)  # the state does not see the actions
    own = own[None].expand(valid.shape[0], -1, -1)
    return torch.cat([valid[:, None, :].expand(-1, own.shape[1], -1), own], dim=2)


def additive(allowed: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """[B, Q, K] bool -> the masks by layer type that Gemma 2 takes ready-made: [B, 1, Q, K], 0 or the dtype's lowest.

    The sliding layers get the same mask: prefixes are far shorter than Gemma 2's window of 4,096.
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    mask = mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
    return {"full_attention": mask, "sliding_attention": mask}
