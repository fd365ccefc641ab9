"""What is pending, as a chunk that goes on from it is held to it: the numbers that both papers and all backends share.

Real-time chunking of arXiv 2506.07339; its time runs the other way: its tau is 1 - t here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aegis_policy.data.normalize import Moments
from aegis_policy.policy import Pending


@dataclass(frozen=True)
class Ahead:
    """What is pending for each of B chunks.

    Attributes:
        actions: float32 [B, H, A], normalised; 0 where nothing is pending.
        hold: float32 [B, H], how much each action of the new chunk is held to it, see `hold`.
    """

    actions: np.ndarray
    hold: np.ndarray

    @classmethod
    def of(cls, pending: Sequence[Pending | None], moments: Moments, horizon: int) -> Ahead | None:
        """None where nothing is pending for any; `moments` are the actions'."""
        if all(each is None for each in pending):
            return None
        actions = np.zeros((len(pending), horizon, len(moments.mean)), np.float32)
        length, delay = np.zeros((2, len(pending)), np.int64)
        for row, each in enumerate(pending):
            if each is not None:
                length[row], delay[row] = len(each.actions), each.delay
                actions[row, : length[row]] = moments.normalize(np.asarray(each.actions, np.float64))
        return cls(actions, hold(length, delay, horizon))


def hold(length: np.ndarray, delay: np.ndarray, horizon: int) -> np.ndarray:
    """Of `length` [B] pending actions, the first `delay` committed -> float32 [B, H]: 1 for the committed alone.

    For the others less and less, W_i = c_i (exp(c_i) - 1) / (e - 1) with c_i = (L - i) / (L - d + 1) (eq. 5, where
    L = H - s), and 0 from L on.
    """
    place, length, delay = np.arange(horizon), length[:, None], delay[:, None]
    share = np.maximum(length - place, 0) / (length - delay + 1)
    return np.where(place < delay, 1.0, share * np.expm1(share) / math.expm1(1)).astype(np.float32)


def guidance(t: float, most: float) -> float:
    """min(beta, (1 - tau) / (tau r^2)) with r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2) and tau = 1 - t (eq. 2 and 4)."""
    tau = 1 - t
    return min(most, (tau**2 + t**2) / (tau * t)) if tau > 0 else most
