"""The one thing to drive: chunks in when the policy has them, a command out at every tick.

    chunk ── offer ──► checks ──► scheduler ──► target ──► limiter ──► command
                                                  ▲           ▲
    now, state ── tick ──► watchdog ──► safety ───┴───────────┘

Whoever holds the robot calls `tick` at the control rate and sends what comes back; None means: send nothing. Whoever
has a policy calls `offer`, from the same thread or another. No clock is read here: every time is the caller's, in s.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from threading import Lock

import numpy as np

from aegis_policy.control.checks import Rejection, check_actions, check_plan
from aegis_policy.control.limiter import Limiter
from aegis_policy.control.limits import AxisLimits, Limits, check_limits
from aegis_policy.control.plan import Plan
from aegis_policy.control.safety import SafetyMachine, State
from aegis_policy.control.scheduler import Layout, Scheduler
from aegis_policy.control.space import ActionSpace
from aegis_policy.control.track import Track
from aegis_policy.control.watchdog import Timeouts, Watchdog
from aegis_policy.policy import ActionChunk, Pending, PolicyInfo

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """What to send to the robot, float64 [A] in the order of `PolicyInfo.actions`.

    Attributes:
        stamp: the tick's time, s.
        position: where to be, m or rad: of a position itself; of a displacement in m the place in the state's
            coordinates; of one in rad the angle turned since the last `reset`; a gripper's command.
        velocity, acceleration: per s and s²; 0 for grippers.
    """

    stamp: float
    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray


class Controller:
    """Follow a policy's chunks inside limits, watch what comes in, stop when told to or when something is wrong."""

    def __init__(
        self, info: PolicyInfo, limits: Limits, scheduler: Scheduler, timeouts: Timeouts, control_hz: float
    ) -> None:
        """Nothing is commanded before `start`.

        Args:
            info: of the policy whose chunks are to come.
            limits: one for each of its actions, see `read_limits`.
            scheduler: what becomes of successive chunks.
            timeouts: what counts as too late.
            control_hz: how often `tick` will be called; any rate, whatever the chunks'.

        Raises:
            ValueError: the actions cannot be controlled, the limits do not fit them, the scheduler asks more of the
                policy than it can, or a time is impossible.
        """
        self._space = ActionSpace(info)
        check_limits(self._space, limits)
        scheduler.fit(info)
        self._limits, self._scheduler, self._timeouts = limits, scheduler, timeouts
        self._watchdog, self._safety = Watchdog(timeouts, 1 / control_hz), SafetyMachine()
        self._limiter: Limiter | None = None  # there once something was commanded
        self._command: Command | None = None  # the last one
        self._track = Track(timeouts.chunk)
        self._started = 0.0
        self._lock = Lock()

    @property
    def state(self) -> State:
        return self._safety.state

    @property
    def reason(self) -> str:
        """Why the robot stopped; "" while nothing was wrong."""
        return self._safety.reason

    @property
    def plan(self) -> Plan | None:
        """The newest that is followed; None before the first."""
        with self._lock:
            return self._scheduler.newest

    def start(self, now: float) -> None:
        """Follow what is observed from `now` on. The robot moves with the first chunk.

        Raises:
            TransitionError: neither idle nor stopped.
            ValueError: `now` is not a time.
        """
        if not np.isfinite(now):
            raise ValueError(f"start at {now}: not a time")
        with self._lock:
            self._safety.start()
            self._scheduler.clear()
            self._track = Track(self._timeouts.chunk)
            self._watchdog.begin(now)
            self._started = now

    def stop(self, reason: str = "stop asked for") -> None:
        """Brake smoothly to standstill and hold there, until `start` or `reset`."""
        with self._lock:
            self._safety.halt(reason)

    def estop(self, reason: str = "emergency stop") -> None:
        """Command nothing from now on, until `reset` and then `start`. How the robot stops is its drives' affair."""
        with self._lock:
            self._safety.estop(reason)

    def reset(self) -> None:
        """Let go of a stopped robot: nothing is commanded, and nothing moves, until `start`.

        Raises:
            TransitionError: while running or braking; `stop` first.
        """
        with self._lock:
            self._safety.reset()
            self._limiter = self._command = None

    def set_limits(self, limits: Limits) -> None:
        """Hold to these from the next tick on. What is passed already is given up as fast as the others allow.

        Raises:
            ValueError: they do not fit the actions.
        """
        check_limits(self._space, limits)
        with self._lock:
            self._limits = limits
            if self._limiter is not None:
                self._limiter.set_limits(limits)

    def wants_chunk(self, now: float) -> bool:
        """Whether to observe for the next chunk; ask again once that chunk was offered."""
        with self._lock:
            at_rest = self._limiter is None or self._limiter.at_rest
            return self._safety.state is State.RUNNING and self._scheduler.wants_chunk(now, at_rest)

    @property
    def seen_from(self) -> float:
        """s; the next chunk may not answer what was seen before that; inf while none may come."""
        with self._lock:
            return max(self._started, self._scheduler.seen_from)

    def ask(self, stamp: float) -> Pending | None:
        """What the policy is to be told of the last chunk, with the observation of `stamp` (s) that it is to act on.

        With a scheduler of real-time chunking, only what was asked for here may be offered.
        """
        with self._lock:
            running = self._safety.state is State.RUNNING and np.isfinite(stamp)
            return self._scheduler.ask(stamp) if running else None

    def offer(self, chunk: ActionChunk, now: float) -> Rejection | None:
        """Hand in a chunk; if it is not fit to be followed, nothing changes and the reason comes back."""
        with self._lock:
            rejection = self._take(chunk, now)
        if rejection is not None:
            log.warning("%s", rejection)
        return rejection

    def tick(self, now: float, state: np.ndarray, stamp: float) -> Command | None:
        """The command for this instant.

        Args:
            now: s; the control loop's clock.
            state: float [S], as in `Observation.state`, where the robot was last measured to be.
            stamp: s, when that was.

        Returns:
            None when nothing may be commanded, or nothing was ever asked for.
        """
        with self._lock:
            if not self._safety.commands:
                return None
            dt, fault = self._watchdog.elapsed(now)
            measured, unseen = self._measure(state)
            for wrong in (fault, unseen, self._stale(now, stamp), self._astray(measured)):
                if wrong:
                    self._safety.halt(wrong)
            if self._safety.state is State.RUNNING:
                self._follow(measured, now, dt)
            elif self._limiter is not None and dt > 0:
                self._limiter.brake(dt)
            if self._safety.state is State.STOPPING and (self._limiter is None or self._limiter.at_rest):
                self._safety.rest()
            self._command = Command(now, *self._limiter.commanded) if self._limiter is not None else None
            if self._safety.state is State.RUNNING and measured is not None:
                self._track.add(now, measured if self._command is None else self._command.position)
            return self._command

    # -- with the lock held --------------------------------------------------------------------------------------

    def _take(self, chunk: ActionChunk, now: float) -> Rejection | None:
        present = self._track.latest
        if self._safety.state is not State.RUNNING or present is None:
            why = f": {self.reason}" if self.reason else ""
            waiting = (
                "no state was seen yet" if self._safety.state is State.RUNNING else f"the robot is {self.state.value}"
            )
            return Rejection("state", f"{waiting}{why}")
        if rejection := check_actions(self._space, chunk.actions) or self._check_stamp(chunk.stamp, now):
            return rejection
        layout = self._scheduler.schedule(chunk, now)
        if isinstance(layout, Rejection):
            if wrong := self._scheduler.trouble:
                self._safety.halt(wrong)
            return layout
        plan = Plan(
            self._space,
            layout.actions,
            start=layout.start,
            anchor=self._anchor(layout),
            stamp=chunk.stamp,
            behind=layout.behind,
        )
        if plan.end <= now:
            return Rejection("stamp", f"its last action was due {now - plan.end:.3g} s ago")
        if rejection := check_plan(self._space, plan, self._limits, present, now):
            return rejection
        self._scheduler.add(plan)
        return None

    def _anchor(self, layout: Layout) -> np.ndarray:
        """Where a chunk goes on from: inside its limits, and not far from where the robot is commanded to be.

        Else chunks that go on from one another would run away from a robot that its range or its speed holds back, and
        the way back would take as long, or the next chunk be refused as a jump.
        """
        present = self._track.at(layout.start)
        if layout.anchor is None:
            return present
        anchor = layout.anchor.copy()
        for a, limit in enumerate(self._limits):
            if isinstance(limit, AxisLimits):
                inside, reach = np.clip(anchor[a], limit.lower, limit.upper), limit.jump / 2
                anchor[a] = np.clip(inside, present[a] - reach, present[a] + reach)
        return anchor

    def _check_stamp(self, stamp: float, now: float) -> Rejection | None:
        newest = self._scheduler.newest
        if wrong := self._watchdog.stale("observation", stamp, now, self._timeouts.chunk):
            return Rejection("stamp", wrong)
        if stamp < self._started:
            return Rejection("stamp", f"observed {self._started - stamp:.3g} s before the start")
        if newest is not None and stamp <= newest.stamp:
            return Rejection("stamp", f"observed {newest.stamp - stamp:.3g} s before the one that is followed")
        return None

    def _measure(self, state: np.ndarray) -> tuple[np.ndarray | None, str | None]:
        try:
            return self._space.coordinates(state), None
        except ValueError as error:
            return None, str(error)

    def _stale(self, now: float, stamp: float) -> str | None:
        wrong = self._watchdog.stale("state", stamp, now, self._timeouts.state)
        if wrong is None and (newest := self._scheduler.newest) is not None:
            wrong = self._watchdog.stale("chunk", newest.stamp, now, self._timeouts.chunk)
        return wrong

    def _astray(self, measured: np.ndarray | None) -> str | None:
        """What is wrong with where the robot is, compared to where it was last told to be."""
        if self._command is None or measured is None:
            return None
        away = np.abs(measured - self._command.position)
        for dimension, limit, off in zip(self._space.dimensions, self._limits, away, strict=True):
            if isinstance(limit, AxisLimits) and dimension.measured_by is not None and off > limit.following:
                return (
                    f"following: '{dimension.name}' is {off:.4g} {dimension.unit} off its command, "
                    f"limit {limit.following:g} {dimension.unit}"
                )
        return None

    def _follow(self, measured: np.ndarray | None, now: float, dt: float) -> None:
        assert measured is not None  # a state that cannot be read has halted the machine
        target = self._scheduler.at(now)
        if target is not None and self._limiter is None:
            begin = np.where(self._space.moving, measured, target.position)  # a gripper's command is not measured
            self._limiter = Limiter(self._limits, begin)
        if target is not None and dt > 0 and self._limiter is not None:
            self._limiter.follow(target, dt)
