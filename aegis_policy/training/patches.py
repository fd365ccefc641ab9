"""What each image token should know, as an auxiliary loss: without it a small vision tower sees little but colours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aegis_policy.data.vqa import Legend

OUTLINE = 6
"""A patch's outline is told in so many pieces on a side."""


class PatchHeads(nn.Module):
    """What each image token should know: where it is, the colour and shape it shows, and the outline of it.

    Colour and shape have heads of their own, so that what a cube looks like is learnt from cubes of every colour; the
    outline makes the tower see form before it can name it.

    Args:
        width: of the tokens.
        legend: of the labels; the others have neither colour nor shape, and are classes of their own for both heads.
        grid: tokens on a side.
    """

    def __init__(self, width: int, legend: Legend, grid: int):
        super().__init__()
        self.grid, self.legend = grid, legend
        self.place = nn.Linear(width, 2)
        self.colour = nn.Linear(width, 1 + len(legend.colours) + len(legend.others))
        self.shape = nn.Linear(width, 1 + len(legend.shapes) + len(legend.others))
        self.outline = nn.Linear(width, OUTLINE * OUTLINE)
        axis = torch.linspace(-1, 1, grid)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.xy = nn.Buffer(torch.stack([x, y], dim=-1).reshape(1, grid * grid, 2))

    def forward(self, features: Tensor, patches: Patches) -> Tensor:
        """Image tokens [B, N, W] and what they should know -> loss."""
        features = features.float()
        place = F.mse_loss(self.place(features), self.xy.expand(len(features), -1, -1))
        colours, shapes, _ = map(len, self.legend)
        label, other = patches.label, patches.label - self.legend.objects  # 1, 2, ... for the others
        named = label > 0
        colour = torch.where(other > 0, colours + other, torch.where(named, (label - 1) // shapes + 1, 0))
        shape = torch.where(other > 0, shapes + other, torch.where(named, (label - 1) % shapes + 1, 0))
        outline = F.binary_cross_entropy_with_logits(
            self.outline(features), patches.outline, pos_weight=features.new_tensor(5.0)
        )
        return 2 * place + _rare(self.colour(features), colour) + _rare(self.shape(features), shape) + 5 * outline


class Patches(NamedTuple):
    """Per image token: label [B, N], 0 for nothing, and outline [B, N, O*O], the share of each piece that is object."""

    label: Tensor
    outline: Tensor

    @classmethod
    def of(cls, labels: np.ndarray, grid: int) -> Patches:
        """Of label images uint8 [..., S, S], all leading dimensions made one."""
        pixels = torch.as_tensor(labels).flatten(0, -3)
        tiles = _tiles(pixels.long(), grid)  # (B, N, side * side)
        shape, classes = tiles.shape[:2], int(pixels.max()) + 1
        which = torch.arange(shape.numel()).reshape(*shape, 1)
        counts = (
            (which * classes + tiles).flatten().bincount(minlength=classes * shape.numel()).reshape(*shape, classes)
        )
        counts[..., 0] = tiles.shape[-1] // 8  # what covers most of a patch counts, if it covers an eighth of it
        shares = F.adaptive_avg_pool2d((pixels > 0).float()[:, None], grid * OUTLINE)[:, 0]
        return cls(counts.argmax(dim=-1), _tiles(shares, grid))

    def to(self, device: torch.device) -> Patches:
        return Patches(self.label.to(device), self.outline.to(device))


def _tiles(image: Tensor, grid: int) -> Tensor:
    """[B, S, S] -> [B, N, pixels of a patch], patches row by row."""
    side = image.shape[-1] // grid
    return image.unflatten(-1, (grid, side)).unflatten(-3, (grid, side)).transpose(-2, -3).flatten(-2).flatten(1, 2)


def _rare(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy in which nothing (class 0, most patches) weighs less."""
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[0] = 0.15
    return F.cross_entropy(logits.flatten(0, 1), classes.flatten(), weight=weight)
