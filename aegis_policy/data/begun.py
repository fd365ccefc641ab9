"""Chunks that have begun otherwise than they should have: what a policy is given in training for real-time chunking.

At work it is given what an older chunk says, which was made from what was seen before. A label tells where the goal is,
as far as the expert knew; given labels, a policy may read the goal from them, and at work take an older chunk's
mistakes for the goal. So it is given what the robot did, disturbed once more, and has to make up for that from what it
sees. In demonstrations a robot stands still when it is done; a policy that has missed, and waits, would take its own
stillness for that and wait for ever. So now and then it is given stillness at any other moment too.

What it is to make up for is divided: all of it in the next action would be a jerk. But demonstrations close a gripper
where it has arrived. Taught to make up for a push and to close with the next action, a policy closes on nothing: an arm
takes its time, and the gripper waits; meanwhile, nothing keeps the arm from making up for all at once.
"""

from __future__ import annotations

import numpy as np

DISTURBED, SLIGHTLY = 1.5, 0.02
"""Deviations of the actions that what is given is disturbed by, at most, and that stillness is."""
STILL = 0.3
"""Share of draws that are given stillness."""
HASTE = 0.6
"""The share of what is owed that an action makes up for, where none has to wait for that."""
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
    change: np.ndarray,
) -> np.ndarray:
    """M chunks of each sample, in SI units: what is given, and what then is to be done.

    The first `delay` actions are those that were executed and a push. What the pushes have moved the robot by is made
    up for after them, most of it at once, no action going further than `reach`: displacements add up, so that is what
    the label would have been, had it come to this. And a gripper that was about to close, or any other set point to
    change, waits until the robot is there.

    Args:
        labels, executed: [B, H, A]; delay: [B, M].
        push: [B, M, H, A], 0 in the dimensions that are no displacements.
        reach: [A], the furthest that an action goes; an action that is further by itself stays so.
        displaced: [A], which dimensions are displacements.
        change: [A], by more than this a set point has changed.

    Returns:
        float32 [B, M, H, A].
    """
    given = np.arange(labels.shape[1]) < delay[..., None]  # [B, M, H]
    begun = np.clip(executed[:, None] + push, *_within(executed[:, None], reach))
    asked = np.where(given[..., None], begun, labels[:, None])
    owed = np.where(given[..., None], executed[:, None] - begun, 0).sum(axis=2)  # [B, M, A]
    steps = np.abs(np.diff(asked, axis=2, prepend=asked[:, :, :1]))
    changes = (steps > change)[..., ~displaced].any(axis=-1) & ~given
    return _make_up(asked, owed, given, reach, displaced, changes).astype(np.float32)


def _make_up(
    asked: np.ndarray,
    owed: np.ndarray,
    given: np.ndarray,
    reach: np.ndarray,
    displaced: np.ndarray,
    changes: np.ndarray,
) -> np.ndarray:
    """What is asked for, with what is owed made up for, and standing where a set point waits for that: [B, M, H, A]."""
    chunks, place = asked.copy(), np.zeros(given.shape[:2], int)  # which of what is asked for is next
    wait = np.zeros_like(place)  # actions until the arm is there and at rest
    for step in range(given.shape[2]):
        far = (np.abs(owed) > COUNTS * reach)[..., displaced].any(axis=-1)
        wait = np.where(far, 1 + SETTLE, np.maximum(wait - 1, 0))
        stands = (wait > 0) & np.take_along_axis(changes, place[..., None], axis=2)[..., 0]
        label = np.take_along_axis(asked, (place - stands)[..., None, None], axis=2)[:, :, 0]
        label = np.where(stands[..., None] & displaced, 0, label)
        made = np.where(given[:, :, step, None], 0, np.where(stands[..., None], 1, HASTE)) * owed
        chunks[:, :, step] = np.clip(label + made, *_within(label, reach))
        owed = owed - (chunks[:, :, step] - label)
        place = place + ~stands
    return chunks


def _within(actions: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.minimum(-reach, actions), np.maximum(reach, actions)
