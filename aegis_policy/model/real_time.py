"""Real-time chunking: a chunk that goes on from the one before it, which the robot is still carrying out.

Of the H actions of the new chunk the first d are committed: they are carried out while it is computed. Two ways to make
it begin with them, both over a velocity field v(x, t) that runs from noise at t = 1 to actions at t = 0:

    guided         any flow: each Euler step is bent towards what is pending              arXiv 2506.07339
    conditioned    a flow trained to be given its first actions, at no further cost       arXiv 2512.05964

Both papers' time runs the other way: their tau is 1 - t here, and their velocity is -v.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]
"""v: noisy chunks [B, 1, H, A] and their times, [B, 1] or [B, 1, H] -> velocities [B, 1, H, A]."""


@dataclass(frozen=True)
class Ahead:
    """What is pending, normalised, for each of B chunks.

    Attributes:
        actions: [B, H, A]; what lies behind the first `length` of them counts for nothing.
        length: [B], how many are pending; 0 where nothing is.
        delay: [B], d, how many of those are committed.
    """

    actions: Tensor
    length: Tensor
    delay: Tensor

    def committed(self) -> Tensor:
        """[B, H] bool, the first d actions."""
        return _places(self.actions) < self.delay[:, None]

    def weights(self) -> Tensor:
        """[B, H], how much each action is held to: 1 where committed, less and less where pending, 0 after that.

        W_i = c_i (exp(c_i) - 1) / (e - 1) with c_i = (L - i) / (L - d + 1) for d <= i < L (eq. 5, where L = H - s).
        """
        length, delay = self.length[:, None], self.delay[:, None]
        share = (length - _places(self.actions)) / (length - delay + 1)
        fading = share * torch.expm1(share) / math.expm1(1)
        return torch.where(self.committed(), 1.0, torch.where(share > 0, fading, 0.0))


def _places(actions: Tensor) -> Tensor:
    return torch.arange(actions.shape[1], device=actions.device)


def guidance(t: float, most: float) -> float:
    """min(beta, (1 - tau) / (tau r^2)) with r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2) and tau = 1 - t (eq. 2 and 4)."""
    tau = 1 - t
    return min(most, (tau**2 + t**2) / (tau * t)) if tau > 0 else most


def guided(field: Field, noise: Tensor, ahead: Ahead, steps: int) -> Tensor:
    """Euler steps from noise [B, H, A] to actions [B, H, A], each bent towards what is pending.

    Where a step would end, a = x - t v(x, t), misses what is pending by e = W (pending - a), and the velocity is
    v - w(t) e^T da/dx: a vector-Jacobian product through the field, so the free actions move along as the field has
    them hang together with those that are held. beta is the number of steps (the paper's 5 for 5): where the field
    hands on what it is given, one step then makes up for the whole miss, and never for more.
    """
    x = noise[:, None]
    weights = ahead.weights()[:, None, :, None]  # [B, 1, H, 1]
    wanted = ahead.actions[:, None]
    for step in range(steps):
        t = 1 - step / steps
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            velocity = field(x, x.new_full(x.shape[:2], t))
            end = x - t * velocity
        missed = weights * (wanted - end.detach())
        (pull,) = torch.autograd.grad(end, x, missed)
        x = (x - (velocity - guidance(t, steps) * pull) / steps).detach()
    return x[:, 0]


def conditioned(field: Field, noise: Tensor, ahead: Ahead, steps: int) -> Tensor:
    """Euler steps from noise [B, H, A] to actions [B, H, A] whose first d are the committed ones throughout."""
    committed = ahead.committed()[:, None]  # [B, 1, H]
    x = noise[:, None]
    for step in range(steps):
        x = torch.where(committed[..., None], ahead.actions[:, None], x)
        time = torch.where(committed, 0.0, 1 - step / steps).to(x.dtype)
        x = x - field(x, time) / steps
    return torch.where(committed[..., None], ahead.actions[:, None], x)[:, 0]
