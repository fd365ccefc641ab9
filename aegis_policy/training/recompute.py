"""Gradient checkpointing: a layer keeps its input alone, and runs once more in the backward pass (arXiv 1604.06174).

transformers' own takes the cache away from a layer that it checkpoints, and with it the keys and values that the expert
reads. Here a layer's keys and values are results of what is run again, as its output is, and a cache sees them once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training.shards import layers


def recompute_layers(policy: AegisPolicy) -> None:
    """Have every transformer layer of a policy checkpointed, from now on, where there is a graph.

    The layer's `forward` is what is run again, so hooks, which a call of the layer runs, are run once.
    """
    for layer in layers(policy):
        layer.forward = partial(_run, layer, layer.forward)


def _run(
    layer: Any,
    forward: Callable[..., Tensor],
    hidden: Tensor,
    *args: Any,
    past_key_values: DynamicCache | None = None,
    **kwargs: Any,
) -> Tensor:
    if past_key_values is None:
        return _checkpoint(partial(forward, **kwargs), hidden, *args)
    if not torch.is_grad_enabled():  # the cache may have a way of its own to keep what comes
        return forward(hidden, *args, past_key_values=past_key_values, **kwargs)
    index = layer.self_attn.layer_idx
    old = past_key_values.layers[index] if index < len(past_key_values.layers) else None

    def with_keys_and_values(hidden: Tensor, *past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slot = _Slot(*past)
        return forward(hidden, *args, past_key_values=slot, **kwargs), slot.keys, slot.values

    past = () if old is None else (old.keys, old.values)
    output, keys, values = _checkpoint(with_keys_and_values, hidden, *past)
    past_key_values.update(keys, values, index)
    return output


def _checkpoint(function: Callable[..., Any], *args: Any) -> Any:
    """Without a graph there is nothing to keep. The model draws nothing at random, so there is no state to put back."""
    if not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)


class _Slot:
    """One layer's part of a cache, for one run of the layer: it shows what is there, and keeps what comes to itself."""

    def __init__(self, *past: Tensor):
        self._past = past

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = keys, values
        if not self._past:
            return keys, values
        return torch.cat([self._past[0], keys], dim=-2), torch.cat([self._past[1], values], dim=-2)
