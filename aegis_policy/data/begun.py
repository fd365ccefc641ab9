"""Chunks that have begun otherwise than they should have: what a policy is given in training for real-time chunking.

At work it is given what an older chunk says, which was made from what was seen before. A label tells where the goal is,
as far as the expert knew; given labels, a policy may read the goal from them, and at work take an older chunk's
mistakes for the goal. So it is given what the robot did, disturbed once more, and has to make up for that from what it
sees.
"""

from __future__ import annotations

import numpy as np

DISTURBED = 1.5
"""Deviations of the actions that what is given is disturbed by, at most."""


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
