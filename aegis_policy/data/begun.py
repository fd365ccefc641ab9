"""Chunks that have begun otherwise than they should have: what a policy is given in training for real-time chunking.

At work it is given what an older chunk says, which was made from what was seen before. A label tells where the goal is,
as far as the expert knew; given labels, a policy may read the goal from them, and at work take an older chunk's
mistakes for the goal. So it is given what the robot did, disturbed once more, and has to make up for that from what it
sees. In demonstrations a robot stands still when it is done; a policy that has missed, and waits, would take its own
stillness for that and wait for ever. So now and then it is given stillness at any other moment too.

Demonstrations close a gripper where it has arrived. Taught to make up for a push in one action and to close with the
next, a policy closes on nothing: an arm takes its time.
"""

from __future__ import annotations

import numpy as np

DISTURBED, SLIGHTLY = 1.5, 0.02
"""Deviations of the actions that what is given is disturbed by, at most, and that stillness is."""
STILL = 0.3
"""Share of draws that are given stillness."""
COUNTS, SETTLE = 0.1, 2
"""The share of an action's reach that a gripper has to wait for, and the actions that an arm takes to arrive."""


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
    labels: np.ndarray,
    executed: np.ndarray,
    delay: np.ndarray,
    push: np.ndarray,
    reach: np.ndarray,
    displaced: np.ndarray,
) -> np.ndarray:
    """M chunks of each sample, in SI units: what is given, and what then is to be done.

    The first `delay` actions are those that were executed and a push. What the pushes have moved the robot by is made
    up for after them, no action going further than `reach`: displacements add up, so that is what the label would have
    been, had it come to this. And a gripper that was about to close, or any other set point to change, waits until
    the robot is there.

    Args:
        labels, executed: [B, H, A]; delay: [B, M].
        push: [B, M, H, A], 0 in the dimensions that are no displacements.
        reach: [A], the furthest that an action goes; an action that is further by itself stays so.
        displaced: [A], which dimensions are displacements.

    Returns:
        float32 [B, M, H, A].
    """
    given = (np.arange(labels.shape[1]) < delay[..., None])[..., None]  # (B, M, H, 1)
    begun = np.clip(executed[:, None] + push, *_within(executed[:, None], reach))
    chunks = np.where(given, begun, labels[:, None])
    owed = np.where(given, executed[:, None] - begun, 0).sum(axis=2)  # (B, M, A)
    chunks = _wait(chunks, owed, given, reach, displaced)
    return _make_up(chunks, owed, given, reach)[0].astype(np.float32)


def _make_up(
    chunks: np.ndarray, owed: np.ndarray, given: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Chunks whose own actions make up for what is owed, and what is left of that after each action, [B, M, H, A]."""
    chunks, left = chunks.copy(), np.repeat(owed[:, :, None], chunks.shape[2], axis=2)
    for step in range(chunks.shape[2]):
        label = chunks[:, :, step]
        made = np.clip(label + left[:, :, step], *_within(label, reach)) - label
        made[given[:, :, step, 0]] = 0
        chunks[:, :, step] = label + made
        left[:, :, step:] -= made[:, :, None]
    return chunks, left


def _wait(
    chunks: np.ndarray, owed: np.ndarray, given: np.ndarray, reach: np.ndarray, displaced: np.ndarray
) -> np.ndarray:
    """Chunks that stand before a set point changes, until SETTLE actions after what counts is made up for."""
    horizon, delay = chunks.shape[2], given.sum(axis=(2, 3))
    far = np.divide(np.abs(owed), reach, where=reach > 0, out=np.zeros_like(owed))
    far = far[..., displaced].max(axis=-1, initial=0)  # (B, M)
    needed = np.where(far > COUNTS, np.ceil(far), 0).astype(int)  # (B, M) actions that do nothing else
    left = np.abs(_make_up(chunks, owed, given, reach)[1])
    last = (left > COUNTS * reach)[..., displaced].any(axis=-1).sum(axis=2)  # the action after which nothing is left

    place = np.arange(horizon)
    steps = np.abs(np.diff(chunks, axis=2, prepend=chunks[:, :, :1]))
    changes = (steps > reach / 2)[..., ~displaced].any(axis=-1) & (place >= delay[..., None])
    change = np.where(changes.any(axis=2), changes.argmax(axis=2), horizon)  # (B, M): the first
    until = np.where(last < change, last + 1, change + needed) + SETTLE
    waits = np.where(needed > 0, np.maximum(until - change, 0), 0)[..., None]

    change = change[..., None]
    source = np.where(place < change, place, np.maximum(place - waits, change - 1))  # (B, M, H)
    standing = (place >= change) & (place < change + waits)
    return np.where(standing[..., None] & displaced, 0, np.take_along_axis(chunks, source[..., None], axis=2))


def _within(actions: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(-reach, actions), np.maximum(reach, actions)
