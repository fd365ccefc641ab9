"""Chunks that have begun otherwise than they should have: what a policy is given in training for real-time chunking.

At work it is given what an older chunk says, which was made from what was seen before. A label tells where the goal is,
as far as the expert knew; given labels, a policy may read the goal from them, and at work take an older chunk's
mistakes for the goal. So it is given what the robot did, disturbed once more, and has to make up for that from what it
sees. In demonstrations a robot stands still when it is done; a policy that has missed, and waits, would take its own
stillness for that and wait for ever. So now and then it is given stillness at any other moment too.
"""

from __future__ import annotations

import numpy as np

DISTURBED, SLIGHTLY = 1.5, 0.02
"""Deviations of the actions that what is given is disturbed by, at most, and that stillness is."""
STILL = 0.3
"""Share of draws that are given stillness."""


def push(
    executed: np.ndarray, unit: np.ndarray, rng: np.random.Generator, draws: tuple[int, int], ours: slice
) -> np.ndarray:
    """By how much what is given differs from what was executed: [B, M, H, A] for this part of a batch.

    Args:
        executed: [B, H, A], of this part.
        unit: [A], a deviation of the actions, 0 in the dimensions that are no displacements.
        draws: B of the whole batch and M; the same numbers are drawn for it whatever the part.
        ours: which of its samples this part has.
    """
    size = rng.uniform(0, DISTURBED, (*draws, 1, 1))[ours]
    still = (rng.random((*draws, 1, 1)) < STILL)[ours]
    noise = rng.normal(size=(*draws, *executed.shape[1:]))[ours] * unit
    return np.where(still, SLIGHTLY * noise - executed[:, None] * (unit > 0), size * noise)


def begin(
    labels: np.ndarray, executed: np.ndarray, delay: np.ndarray, push: np.ndarray, reach: np.ndarray
) -> np.ndarray:
    """M chunks of each sample, in SI units: what is given, and what then is to be done.

    The first `delay` actions are those that were executed and a push. What the pushes have moved the robot by is made
    up for after them, no action going further than `reach`: displacements add up, so that is what the label would have
    been, had it come to this.

    Args:
        labels, executed: [B, H, A]; delay: [B, M].
        push: [B, M, H, A], 0 in the dimensions that are no displacements.
        reach: [A], the furthest that an action goes; an action that is further by itself stays so.

    Returns:
        float32 [B, M, H, A].
    """
    place = np.arange(labels.shape[1])
    given = (place < delay[..., None])[..., None]  # (B, M, H, 1)
    begun = np.clip(executed[:, None] + push, *_within(executed[:, None], reach))
    chunks = np.where(given, begun, labels[:, None])
    owed = np.where(given, executed[:, None] - begun, 0).sum(axis=2)  # (B, M, A)
    for step in place:
        label = chunks[:, :, step]
        made = np.clip(label + owed, *_within(label, reach)) - label
        made[given[:, :, step, 0]] = 0
        chunks[:, :, step] += made
        owed -= made
    return chunks.astype(np.float32)


def _within(actions: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(-reach, actions), np.maximum(reach, actions)
