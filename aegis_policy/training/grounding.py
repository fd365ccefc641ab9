"""Where the words point, as an auxiliary loss: at every name of an object, whether and where each image shows it.

Answers alone teach a small model to find what it is asked about only slowly: "is the red cube left of the blue ball"
gives it one bit for two places. A name gives both of its coordinates in every image, in every question it occurs in;
and an action expert that reads the backbone's keys and values finds the place of what it is told to pick up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from aegis_policy.data.vqa import Legend

MIN_PIXELS = 10
"""An image shows an object when so many of its pixels do."""
MAX_IMAGES = 2
"""As many as a pre-training step shows."""
PLACE_WEIGHT = 4.0
"""Of the distance, in half image sides, beside the cross-entropy of whether an object is there."""


class Named(NamedTuple):
    """Per text token: what it names, and where that is in each of K images.

    Attributes:
        is_name: [B, T] bool, the last token of a name.
        shown: [B, T, K] float, 1 where image k shows it.
        place: [B, T, K, 2], its middle's x and y from -1 to 1 (right and down), 0 where it is not shown.
    """

    is_name: Tensor
    shown: Tensor
    place: Tensor

    def to(self, device: torch.device) -> Named:
        return Named(*(tensor.to(device) for tensor in self))


class Names:
    """Finds names, a colour's token followed by a shape's or another thing's token, and their places in label images.

    Args:
        tokenizer: a word that is not one token of it is never found.
        legend: of the label images.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, legend: Legend):
        self._labels = legend.labels
        nothing = -2 * legend.labels  # no sum with it is a label
        self._colour = _by_token(tokenizer, legend.colours, 1, len(legend.shapes), nothing)
        self._shape = _by_token(tokenizer, legend.shapes, 0, 1, nothing)
        self._other = _by_token(tokenizer, legend.others, 1 + legend.objects, 1, nothing)

    def find(self, ids: Tensor, labels: np.ndarray) -> Named:
        """The names in text tokens [B, T], and where label images uint8 [B, K, S, S] show them."""
        named = self._other[ids]
        named[:, 1:] = torch.maximum(named[:, 1:], self._colour[ids[:, :-1]] + self._shape[ids[:, 1:]])
        shown, place = _places(labels, self._labels)  # (B, L, K), (B, L, K, 2)
        row = torch.arange(len(ids))[:, None]
        which = named.clamp_min(0)
        return Named(named > 0, shown[row, which], place[row, which])


def _by_token(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], first: int, apart: int, nothing: int) -> Tensor:
    """Token -> first, first + apart, ... for the words in turn, `nothing` for every other token."""
    numbers = torch.full((len(tokenizer),), nothing)
    known = tokenizer.get_vocab()
    for index, word in enumerate(words):
        if word in known:
            numbers[known[word]] = first + apart * index
    return numbers


def _places(labels: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
    """[B, K, S, S] -> whether each label is shown [B, L, K], and its middle [B, L, K, 2]."""
    b, k, size, _ = labels.shape
    bins = (np.arange(b * k)[:, None, None] * count + labels.reshape(b * k, size, size)).ravel()
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    pixels = np.bincount(bins, minlength=b * k * count)
    sums = [
        np.bincount(bins, np.broadcast_to(values, (b * k, size, size)).ravel(), b * k * count)
        for values in (axis[None, None, :], axis[None, :, None])
    ]
    shown = pixels >= MIN_PIXELS
    middle = np.stack(sums, axis=-1) / np.maximum(pixels, 1)[:, None] * shown[:, None]
    return (
        torch.from_numpy(shown.astype(np.float32)).reshape(b, k, count).transpose(1, 2),
        torch.from_numpy(middle.astype(np.float32)).reshape(b, k, count, 2).transpose(1, 2),
    )


class GroundingHead(nn.Module):
    """Says, for a hidden state [..., W], whether and where each of up to MAX_IMAGES images shows what it names."""

    def __init__(self, width: int):
        super().__init__()
        self.out = nn.Linear(width, 3 * MAX_IMAGES)

    def forward(self, hidden: Tensor, named: Named) -> Tensor:
        """Text tokens' hidden states [B, T, W] and what they name -> loss."""
        images = named.shown.shape[-1]
        told = self.out(hidden.float()).unflatten(-1, (MAX_IMAGES, 3))[:, :, :images]  # (B, T, K, 3)
        shown = F.binary_cross_entropy_with_logits(told[..., 0], named.shown, reduction="none")
        away = (told[..., 1:] - named.place).abs().sum(dim=-1) * named.shown
        counted = named.is_name[..., None] * (shown + PLACE_WEIGHT * away)
        return counted.sum() / (named.is_name.sum().clamp_min(1) * images)
