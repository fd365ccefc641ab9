"""A gripper between what its controller is told and shows, and what a policy says and sees of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hand:
    """The gripper's joints and the two ends of its command.

    Attributes:
        joints: whose positions add up to how far it is open; none if the policy's state has no opening.
        scale, offset: opening (m) = offset + scale * sum of the joints' positions.
        open, closed: what is commanded for either, in the controller's unit.
    """

    joints: tuple[str, ...]
    scale: float
    offset: float
    open: float
    closed: float

    def opening(self, positions: np.ndarray) -> np.ndarray:
        """Distance between the fingers, m, [...], with the joints at `positions` [..., F]."""
        return self.offset + self.scale * np.sum(positions, axis=-1)

    def command(self, action: float) -> float:
        """From a policy's gripper action, which closes from 0.5 up."""
        return self.closed if action >= 0.5 else self.open

    def closing(self, command: np.ndarray) -> np.ndarray:
        """What a policy calls a command: 0 open to 1 closed."""
        return np.clip((command - self.open) / (self.closed - self.open), 0.0, 1.0)

    def looks_closed(self, opening: np.ndarray) -> np.ndarray:
        """Whether the fingers stand nearer to closed than to open, where open and closed are in the joints' unit."""
        open_, closed = (self.opening(np.full(len(self.joints), end)) for end in (self.open, self.closed))
        return abs(opening - closed) < abs(opening - open_)
