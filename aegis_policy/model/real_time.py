"""Real-time chunking: a chunk that goes on from the one before it, which the robot is still carrying out.

Of the H actions of the new chunk the first d are committed: they are carried out while it is computed. Two ways to make
it begin with them, both over a velocity field v(x, t) that runs from noise at t = 1 to actions at t = 0:

    guided         any flow: each Euler step is bent towards what is pending              arXiv 2506.07339
    conditioned    a flow trained to be given its first actions, at no further cost       arXiv 2512.05964

Both papers' time runs the other way: their tau is 1 - t here, and their velocity is -v.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from aegis_policy.data.ahead import guidance

Field = Callable[[Tensor, Tensor], Tensor]
"""v: noisy chunks [B, 1, H, A] and their times, [B, 1] or [B, 1, H] -> velocities [B, 1, H, A]."""


def guided(field: Field, noise: Tensor, actions: Tensor, hold: Tensor, steps: int) -> Tensor:
    """Euler steps from noise [B, H, A] to actions [B, H, A], each bent towards what is pending, `actions` as `hold`.

    beta is the number of steps (the paper's 5 for 5): where the field hands on what it is given, one step then makes up
    for the whole miss, and never for more.
    """
    x = noise[:, None]
    for step in range(steps):
        t = 1 - step / steps
        velocity, bend = pull(field, x, x.new_full(x.shape[:2], t), actions, hold)
        x = x - (velocity - guidance(t, steps) * bend) / steps
    return x[:, 0]


def pull(field: Field, x: Tensor, time: Tensor, actions: Tensor, hold: Tensor) -> tuple[Tensor, Tensor]:
    """The velocity at x [B, 1, H, A] and time [B, 1], and where what is pending pulls x: both [B, 1, H, A].

    Where a step would end, a = x - t v(x, t), misses what is pending by e = W (pending - a). The pull is e^T da/dx, a
    vector-Jacobian product through the field, so the free actions move along as the field has them hang together with
    those that are held.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        velocity = field(x, time)
        end = x - time[..., None, None] * velocity
    missed = hold[:, None, :, None] * (actions[:, None] - end.detach())
    (bend,) = torch.autograd.grad(end, x, missed)
    return velocity.detach(), bend


def conditioned(field: Field, noise: Tensor, actions: Tensor, hold: Tensor, steps: int) -> Tensor:
    """Euler steps from noise [B, H, A] to actions [B, H, A] whose committed ones are as they are held throughout."""
    committed, actions = (hold == 1)[:, None], actions[:, None]  # [B, 1, H], [B, 1, H, A]
    x = noise[:, None]
    for step in range(steps):
        x = torch.where(committed[..., None], actions, x)
        time = torch.where(committed, 0.0, 1 - step / steps).to(x.dtype)
        x = x - field(x, time) / steps
    return torch.where(committed[..., None], actions, x)[:, 0]
