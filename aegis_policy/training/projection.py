"""The projection of AEGIS: plain algebra on the gradients of one layer, all its tensors taken as one vector.

    d = <g_task, g_ot>;   g = g_task - (d / ||g_ot||^2) g_ot   if d < 0,   else g_task        (arXiv 2604.16067)

The published formula has an epsilon in the denominator, which leaves a conflict of d * eps / (||g_ot||^2 + eps). There
is none here: a layer whose g_ot is zero has nothing to conflict with and is left alone. Sums and the correction are in
float64, so what remains of a conflict is the rounding of g to its own precision. Of gradients in shards, the sums are
over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aegis_policy.training.shards import local, summed


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
    pairs = [(g, ot) for g, ot in zip(task, anchor, strict=True) if g is not None and ot is not None]
    if not pairs:
        return Projection(list(task), 0.0, False)
    products = torch.stack([_dot(g, ot) for g, ot in pairs]).sum()
    anchor_norm = torch.stack([_dot(ot, ot) for ot in anchor if ot is not None]).sum()
    task_norm = torch.stack([_dot(g, g) for g in task if g is not None]).sum()
    sums = summed(torch.stack([products, anchor_norm, task_norm]), (g for g, _ in pairs))
    dot, anchor_energy, task_energy = sums.tolist()  # one synchronisation
    if not (dot < 0 and anchor_energy > 0):
        return Projection(list(task), 0.0, False)
    scale = dot / anchor_energy
    gradients = [_subtract(g, ot, scale) for g, ot in zip(task, anchor, strict=True)]
    return Projection(gradients, min(1.0, scale * dot / task_energy), True)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(local(a).flatten().double(), local(b).flatten().double())


def _subtract(g: Tensor | None, ot: Tensor | None, scale: float) -> Tensor | None:
    if ot is None:
        return g
    step = ot.double() * -scale
    return step.to(ot.dtype) if g is None else (g.double() + step).to(g.dtype)
