"""The projection of AEGIS: plain algebra on the gradients of one layer, all its tensors taken as one vector.

    d = <g_task, g_ot>;   g = g_task - (d / ||g_ot||^2) g_ot   if d < 0,   else g_task        (arXiv 2604.16067)

The published formula has an epsilon in the denominator, which leaves a conflict of d * eps / (||g_ot||^2 + eps). There
is none here: a layer whose g_ot is zero has nothing to conflict with and is left alone. Sums and the correction are in
float64, so what remains of a conflict is the rounding of g to its own precision. Of gradients in shards, the sums are
over all of them. They go block by block: what fits into a processor's cache is converted once and used three times,
where float64 copies of whole tensors would go to memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aegis_policy.training.shards import local, summed

_BLOCK = 2**20
"""Elements that are in float64 at a time."""


class Projection(NamedTuple):
    """Gradient of one layer after the projection.

    Attributes:
        gradients: the layer's tensors; the very ones that came in where there was no conflict.
        shed: energy lost, 1 - ||g||^2 / ||g_task||^2, in [0, 1].
        projected: whether there was a conflict.
    """

    gradients: list[Tensor | None]
    shed: float
    projected: bool


def project(task: Sequence[Tensor | None], anchor: Sequence[Tensor | None]) -> Projection:
    """Remove from the task gradient what would undo the anchor's.

    Args:
        task: g_task, one tensor for each parameter of the layer; None is zero.
        anchor: g_ot, in the same order and shapes; None is zero.
    """
    pairs = list(zip(task, anchor, strict=True))
    if all(g is None or ot is None for g, ot in pairs):
        return Projection(list(task), 0.0, False)
    products = [torch.stack([x.dot(y), y.dot(y), x.dot(x)]) for g, ot in pairs for x, y in _blocks(g, ot)]
    sums = summed(torch.stack(products).sum(dim=0), (g for g in task if g is not None))
    dot, anchor_energy, task_energy = (total.item() for total in sums.cpu())  # one synchronisation
    if not (dot < 0 and anchor_energy > 0):
        return Projection(list(task), 0.0, False)
    scale = dot / anchor_energy
    gradients = [_subtract(g, ot, scale) for g, ot in pairs]
    return Projection(gradients, min(1.0, scale * dot / task_energy), True)


def _subtract(g: Tensor | None, ot: Tensor | None, scale: float) -> Tensor | None:
    """The tensor g - scale * ot, rounded once."""
    if ot is None:
        return g
    result = torch.empty_like(ot, memory_format=torch.contiguous_format)
    for part, (x, y) in zip(local(result).view(-1).split(_BLOCK), _blocks(g, ot), strict=True):
        part.copy_(x - scale * y)
    return result


def _blocks(g: Tensor | None, ot: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Both, flat and in float64, block by block; one that is None is zero, none at all are no blocks."""
    if g is None and ot is None:
        return
    first, second = (torch.zeros_like(b) if a is None and b is not None else a for a, b in ((g, ot), (ot, g)))
    assert first is not None and second is not None
    flat = (local(tensor).flatten().split(_BLOCK) for tensor in (first, second))
    for x, y in zip(*flat, strict=True):
        yield x.double(), y.double()
