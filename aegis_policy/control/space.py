"""What the numbers of an action mean to a controller: places, steps, or a gripper's command.

`PolicyInfo.actions` tells by name and unit:

    position        "q1" in rad, "z" in m        where to be at the end of the step; the state's dimension of the same
                                                 name and unit says where the robot is
    displacement    "dx" in m, "drz" in rad      how far to go in the step. In metres, the state's "x" says where the
                                                 robot is. Rotation vectors do not add up to an orientation, so in
                                                 radians the controller knows no place: it counts from 0 at the first
                                                 chunk after a `reset`
    gripper         "gripper", "left_gripper"    any unit; a command that is in force for the step, not a place

Control works on coordinates, one for each action: a position is itself, a displacement is the place it leads to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from aegis_policy.data.displacements import displaced_by, is_displacement
from aegis_policy.policy import Feature, PolicyInfo


class Kind(Enum):
    POSITION = auto()
    DISPLACEMENT = auto()
    GRIPPER = auto()


@dataclass(frozen=True)
class Dimension:
    """One action: its name and unit, its kind, and which of the state's dimensions measures its coordinate, if any."""

    name: str
    unit: str
    kind: Kind
    measured_by: int | None

    @property
    def moves(self) -> bool:
        """Whether its coordinate is a place, with a velocity, and not a gripper's command."""
        return self.kind is not Kind.GRIPPER


class ActionSpace:
    """The A action dimensions of a policy, as a controller sees them.

    Attributes:
        dimensions: one for each action, in order.
        control_hz: actions per second in a chunk.
    """

    def __init__(self, info: PolicyInfo) -> None:
        """Tell the kinds apart.

        Raises:
            ValueError: an action has a unit in which nothing moves, or no dimension of the state measures it.
        """
        self.dimensions = tuple(_dimension(feature, info.state) for feature in info.actions)
        self.control_hz = info.control_hz
        self._state_names = [feature.name for feature in info.state]
        self.moving = np.array([dimension.moves for dimension in self.dimensions], bool)  # [A]
        self._displaced = np.array([dimension.kind is Kind.DISPLACEMENT for dimension in self.dimensions], bool)  # [A]
        self._measured = np.array([dimension.measured_by is not None for dimension in self.dimensions], bool)  # [A]
        self._sources = [dimension.measured_by for dimension in self.dimensions if dimension.measured_by is not None]

    def __len__(self) -> int:
        return len(self.dimensions)

    def coordinates(self, state: np.ndarray) -> np.ndarray:
        """float [S] -> float64 [A]: where the robot is; 0 for what no state measures.

        Raises:
            ValueError: another width, or a number that is not finite; says which.
        """
        state = np.asarray(state, np.float64)
        if state.shape != (len(self._state_names),):
            raise ValueError(f"state: expected {len(self._state_names)} numbers, got shape {list(state.shape)}")
        if not np.isfinite(state).all():
            bad = [name for name, value in zip(self._state_names, state, strict=True) if not np.isfinite(value)]
            raise ValueError(f"state: not a finite number: {', '.join(bad)}")
        found = np.zeros(len(self))
        found[self._measured] = state[self._sources]
        return found

    def waypoints(self, actions: np.ndarray, anchor: np.ndarray) -> np.ndarray:
        """Actions [H, A] that begin at coordinates `anchor` [A] -> coordinates float64 [H+1, A], `anchor` first."""
        points = np.concatenate([anchor[None], np.asarray(actions, np.float64)])
        points[:, self._displaced] = np.cumsum(points[:, self._displaced], axis=0)
        return points


def _dimension(feature: Feature, state: tuple[Feature, ...]) -> Dimension:
    if "gripper" in feature.name:
        return Dimension(feature.name, feature.unit, Kind.GRIPPER, None)
    if feature.unit not in ("m", "rad"):
        raise ValueError(
            f"action '{feature.name}' has the unit '{feature.unit}': only what is in m or rad can be held to limits of "
            f"speed (and a gripper's command has 'gripper' in its name)"
        )
    displaced = is_displacement(feature, state)
    if displaced and feature.unit == "rad":
        return Dimension(feature.name, feature.unit, Kind.DISPLACEMENT, None)
    place = displaced_by(feature) if displaced else feature
    if place not in state:
        raise ValueError(
            f"action '{feature.name}': the state lacks '{place.name}' in {place.unit}, which says where it is"
            + " (its own name is a displacement's)" * displaced
        )
    return Dimension(feature.name, feature.unit, Kind.DISPLACEMENT if displaced else Kind.POSITION, state.index(place))
