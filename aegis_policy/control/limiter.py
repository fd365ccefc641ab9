"""From where a chunk wants the robot to be to where it may be commanded to be.

Each tick, each axis on its own, asks Ruckig for the fastest way to the target and takes it only when it is seen to be
safe: *this tick of it and then the shortest stop* stays inside every limit at every instant. Otherwise it takes one
tick of the stop. So from every command there is a stop inside the limits, and a stop is what is left when a target, a
chunk or the whole policy goes missing. Ruckig proposes; that the limits hold does not rest on it.

A limit that is passed already (a robot switched on outside its range, limits lowered on the move) cannot be kept at
once without breaking another. Until it can, the limit is where the shortest stop from here reaches: the robot goes no
farther out than it must, and comes back with the next target. Only a lower limit of jerk waits: to take an
acceleration back more softly than was foreseen is to get faster first. Until it is not, the robot brakes as before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ruckig import InputParameter, Result, Ruckig, RuckigError, Trajectory

from aegis_policy.control.limits import AxisLimits, GripperLimits, Limits
from aegis_policy.control.motion import Motion, Piece, Reach, stop, travel

TOLERANCE = 1e-9
"""Within which limits hold: relative to the limit; of positions below 1, absolute."""
_SHARE = 0.9  # of the fastest, what a target is taken to move at most: the rest is for catching up with it
_REST = 1e-13  # of the limits of velocity and acceleration: what is below it is a rounding, and at rest
_SLACK = TOLERANCE / 4  # what one check allows; the rest is for the rounding between two checks


class Target(NamedTuple):
    """Where to be and how fast to move there, [A] each; 0 for the speed of grippers."""

    position: np.ndarray
    velocity: np.ndarray


class Limiter:
    """Commands for A actions inside their limits, tick by tick."""

    def __init__(self, limits: Limits, positions: np.ndarray) -> None:
        """Begin at rest at `positions` [A]; for a gripper, its command."""
        self._parts = [_part(limit, Motion(x)) for limit, x in zip(limits, positions.tolist(), strict=True)]

    @property
    def commanded(self) -> np.ndarray:
        """float64 [3, A]: position, velocity, acceleration."""
        motions = [part.motion for part in self._parts]
        return np.array([(motion.position, motion.velocity, motion.acceleration) for motion in motions]).T

    @property
    def at_rest(self) -> bool:
        return all(part.at_rest for part in self._parts)

    def set_limits(self, limits: Limits) -> None:
        """Hold to these from now on."""
        self._parts = [_part(limit, part.motion, part.jerk) for limit, part in zip(limits, self._parts, strict=True)]

    def follow(self, target: Target, dt: float) -> None:
        """Go on for dt > 0 (s), as far as is safe to where `target` wants all to be at its end."""
        for part, position, velocity in zip(self._parts, *(x.tolist() for x in target), strict=True):
            part.follow(Motion(position, velocity), dt)

    def brake(self, dt: float) -> None:
        """Go on for dt > 0 (s) on the shortest way to standstill; a gripper keeps its command."""
        for part in self._parts:
            part.brake(dt)


class _Axis:
    """One position or displacement.

    Attributes:
        jerk: of a stop; its limit, or what that was before while `motion` is still of that time.
    """

    def __init__(self, limits: AxisLimits, motion: Motion, jerk: float) -> None:
        self.motion, self.jerk = motion, limits.jerk
        self._stop: Reach
        self._limits, self._allowed = limits, limits.reach.loosened(_SLACK)
        self._ruckig, self._question, self._answer = Ruckig(1), InputParameter(1), Trajectory(1)
        self._question.max_acceleration, self._question.max_jerk = [limits.acceleration], [limits.jerk]
        self._way_to_stop = self._stop_from(Motion(0.0, limits.velocity)).highest  # at most, with no acceleration
        self.jerk = max(jerk, limits.jerk)
        self._soften()

    @property
    def at_rest(self) -> bool:
        return self.motion.velocity == 0.0 and self.motion.acceleration == 0.0

    def follow(self, target: Motion, dt: float) -> None:
        limits = self._limits
        # Within the looser of the limits and of what the stop from here needs anyway; that, with slack, would add up
        allowed = self._allowed.joined(self._stop)
        proposal = self._propose(self._possible(target), dt) if self.jerk == limits.jerk else None
        if proposal is not None:
            end, way = travel(self.motion, proposal, dt)
            after = self._stop_from(end)
            if way.within(allowed) and after.within(allowed):
                arrived = (
                    abs(end.velocity) < _REST * limits.velocity and abs(end.acceleration) < _REST * limits.acceleration
                )
                self.motion, self._stop = Motion(end.position) if arrived else end, after
                return
        self.brake(dt)

    def brake(self, dt: float) -> None:
        if self.at_rest:
            return
        pieces = stop(self.motion, self._limits.acceleration, self.jerk)
        end, _ = travel(self.motion, pieces, dt)
        self.motion = Motion(end.position) if sum(piece.duration for piece in pieces) <= dt else end
        self._soften()

    def _soften(self) -> None:
        """See what a stop takes, by the limit of jerk alone unless it would get faster first."""
        hard, self.jerk = self.jerk, self._limits.jerk
        self._stop = self._stop_from(self.motion)
        if hard > self.jerk and self._stop.velocity > max(self._limits.velocity, abs(self.motion.velocity)):
            self.jerk = hard
            self._stop = self._stop_from(self.motion)

    def _stop_from(self, motion: Motion) -> Reach:
        pieces = stop(motion, self._limits.acceleration, self.jerk)
        return travel(motion, pieces, sum(piece.duration for piece in pieces))[1]

    def _possible(self, target: Motion) -> Motion:
        """The target, or where it cannot be passed at its speed, rest at the nearest place inside."""
        limits, far = self._limits, self._way_to_stop
        if limits.lower + far <= target.position <= limits.upper - far or self._stop_from(target).within(limits.reach):
            return target
        return Motion(min(max(target.position, limits.lower), limits.upper))

    def _propose(self, target: Motion, dt: float) -> list[Piece] | None:
        """The fastest way to keep up with the target that takes at least dt; None if Ruckig finds none.

        A target is a moment of something that moves. To aim at where it is at this moment would be to take a run-up for
        passing there at its speed, while it goes away. So Ruckig solves in the frame that moves along with it, in which
        it stands still; jerk and acceleration are the same there.
        """
        asked, now, fastest = self._question, self.motion, self._limits.velocity
        frame = min(max(target.velocity, -_SHARE * fastest), _SHARE * fastest)
        asked.current_position = [now.position - target.position + frame * dt]
        asked.current_velocity, asked.current_acceleration = [now.velocity - frame], [now.acceleration]
        asked.max_velocity, asked.min_velocity = [fastest - frame], [-fastest - frame]
        asked.minimum_duration = dt
        try:
            if self._ruckig.calculate(asked, self._answer) is not Result.Working:
                return None
        except (RuckigError, ValueError):  # of a way that takes too long for it, the binding does not know the error
            return None
        profile = self._answer.profiles[0][0]
        pieces: list[Piece] = []
        for part in (profile.brake, profile):  # first back inside the limits of velocity and acceleration, if outside
            pieces += [Piece(t, j) for t, j in zip(part.t, part.j, strict=True) if t > 0.0]
        return pieces


class _Gripper:
    """A command that is clipped, not slowed: how fast fingers close is the gripper's own affair."""

    at_rest, jerk = True, 0.0

    def __init__(self, limits: GripperLimits, motion: Motion) -> None:
        self._limits = limits
        self.follow(motion, 0.0)

    def follow(self, target: Motion, dt: float) -> None:
        self.motion = Motion(min(max(target.position, self._limits.lower), self._limits.upper))

    def brake(self, dt: float) -> None:
        pass


def _part(limits: AxisLimits | GripperLimits, motion: Motion, jerk: float = 0.0) -> _Axis | _Gripper:
    return _Axis(limits, motion, jerk) if isinstance(limits, AxisLimits) else _Gripper(limits, motion)
