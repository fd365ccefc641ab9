"""What is pending, as a chunk that goes on from it is held to it: what both papers and all backends share.

Real-time chunking of arXiv 2506.07339; its time runs the other way: its tau is 1 - t here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aegis_policy.data.displacements import is_displacement
from aegis_policy.data.normalize import Moments
from aegis_policy.policy import Pending, PolicyInfo


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


CHANGES = 0.2
"""Of its deviation; by so much a set point that nothing moves by has changed, such as a gripper's."""


class Easing:
    """From what is pending to a chunk's own actions, little by little: for a policy that was given the committed ones.

    Guided, a chunk is held to all that is pending (`hold`); given its first actions alone, it follows at once whatever
    a new observation says, with a jerk of the arm. So its own actions are drawn to those that they take the place of,
    by the same weights. Displacements that this withholds follow, all within the chunk, and before a gripper closes or
    opens: it is not eased, as halfway is neither, and shall find the arm where it was to be.
    """

    def __init__(self, info: PolicyInfo, moments: Moments) -> None:
        """For the actions of `info`, and their `moments`."""
        self._displaced = np.array([is_displacement(feature, info.state) for feature in info.actions], bool)
        self._moves = np.array([f.unit in ("m", "rad") and "gripper" not in f.name for f in info.actions], bool)
        self._change, self._reach = CHANGES * moments.std, np.maximum(np.abs(moments.q01), np.abs(moments.q99))

    def __call__(self, chunk: np.ndarray, pending: Pending | None) -> np.ndarray:
        """A chunk [H, A] in SI units that begins with what is committed, eased from there on."""
        if pending is None or not pending.delay:
            return chunk
        own, left = chunk[pending.delay :].astype(np.float64), pending.actions[pending.delay :].astype(np.float64)
        steps = np.abs(np.diff(chunk[pending.delay - 1 :], axis=0))  # [N, A], the first from what is committed
        changes = (steps > self._change)[:, ~self._moves].any(axis=1)
        until, moves = int(changes.argmax()) if changes.any() else len(own), self._moves
        if until > 1:
            eased = ease(own[:until, moves], left[: until - 1, moves], self._displaced[moves], self._reach[moves])
            own[:until, moves] = eased
        return np.concatenate([chunk[: pending.delay], own.astype(chunk.dtype)])


def ease(own: np.ndarray, pending: np.ndarray, displaced: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Actions [N, A] drawn to the L < N pending ones [L, A] by `hold`; what that withholds of displacements follows.

    No more is withheld than the others can make up for.

    Args:
        displaced: [A], which dimensions are displacements.
        reach: [A], how far an action goes; one that goes further by itself may.
    """
    share = hold(np.array([len(pending)]), np.zeros(1, int), len(own))[0]
    reach = np.maximum(reach, np.abs(np.concatenate([own, pending])).max(axis=0))
    room = np.cumsum(np.stack([reach + own, reach - own])[:, ::-1], axis=1)[:, ::-1]  # [2, N, A], from each place on
    room = np.concatenate([room[:, 1:], np.zeros_like(room[:, :1])], axis=1)  # after it
    eased, owed = np.empty_like(own), np.zeros(own.shape[1])
    for place in range(len(own)):
        wanted = own[place] + owed
        withheld = share[place] * (wanted - pending[place]) if share[place] else np.zeros_like(wanted)
        withheld = np.clip(withheld, wanted - reach, wanted + reach)
        owed = np.where(displaced, np.clip(withheld, -room[0, place], room[1, place]), 0.0)
        eased[place] = wanted - np.where(displaced, owed, withheld)
    return eased
