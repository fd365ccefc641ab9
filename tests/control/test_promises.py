"""Whatever comes in, in whatever order: no command outside the limits, and none after an emergency stop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from aegis_policy import ActionChunk
from aegis_policy.control import Asynchronous, RealTime, State, Synchronous, TemporalEnsemble, TransitionError
from tests.control.robot import (
    HOME,
    LIMITS,
    PERIOD,
    TIMEOUTS,
    assert_inside,
    assert_one_motion,
    controller,
    measured,
    motion_of,
)

STEPS = st.one_of(
    st.floats(0.0, TIMEOUTS.tick),
    st.sampled_from([0.0, 1e-9, TIMEOUTS.tick, 1.0, 3600.0, -PERIOD, -1.0, -1e9, math.nan, math.inf]),
)
NUMBERS = st.one_of(st.floats(-1.0, 1.0), st.sampled_from([5.0, -5.0, 1e30, math.nan, -math.inf]))


class Anything(RuleBasedStateMachine):
    """Ticks at any time with any state, chunks of any kind, and every button, in any order."""

    @initialize(
        scheduler=st.sampled_from([Asynchronous, Synchronous, TemporalEnsemble, RealTime]), execute=st.integers(1, 8)
    )
    def begin(self, scheduler, execute):
        self.controller, self.now, self.ticked = controller(scheduler(execute)), 0.0, 0.0
        self.command = None  # the last one that there was
        self.latched = False  # whether nothing may be commanded before `reset` and `start`

    @rule()
    def start(self):
        may = self.controller.state in (State.IDLE, State.STOPPED)
        if may:
            self.controller.start(self.now)
            self.latched, self.ticked = False, self.now
        else:
            with pytest.raises(TransitionError):
                self.controller.start(self.now)

    @rule()
    def reset(self):
        before = self.controller.state
        if before in (State.RUNNING, State.STOPPING):
            with pytest.raises(TransitionError):
                self.controller.reset()
        else:
            self.controller.reset()
            assert self.controller.state is State.IDLE
            self.command, self.latched = None, True

    @rule()
    def stop(self):
        self.controller.stop()

    @rule()
    def estop(self):
        self.controller.estop()
        self.command, self.latched = None, True

    @rule(dt=STEPS, noise=NUMBERS, age=st.sampled_from([0.0, 0.1, 1.0, -1.0, math.nan]))
    def tick_oddly(self, dt, noise, age):
        self._tick(dt, measured(self.command) + np.array([noise, 0, 0, 0]), age)

    @rule(state=st.sampled_from([np.zeros(0), np.zeros(5), np.full(4, np.nan), HOME[None]]))
    def tick_with_a_wrong_state(self, state):
        self._tick(PERIOD, state, 0.0)

    @rule(dts=st.lists(st.one_of(st.just(PERIOD), st.floats(0.0, TIMEOUTS.tick)), min_size=1, max_size=40))
    def run(self, dts):
        for dt in dts:
            self._tick(dt, measured(self.command), 0.0)

    @rule(aims=st.lists(NUMBERS, min_size=5, max_size=5), length=st.integers(0, 8), latency=NUMBERS)
    def offer_anything(self, aims, length, latency):
        self._offer(np.tile(aims, (length, 1)), latency)

    @rule(
        to=st.lists(st.floats(-1.0, 1.0), min_size=5, max_size=5),
        wave=st.floats(0.0, 0.15),
        latency=st.floats(0.0, 0.3),
        ticks=st.integers(1, 40),
    )
    def drive(self, to, wave, latency, ticks):
        """What is meant to happen, from wherever it is: start, look, take a chunk, carry on."""
        if self.controller.state in (State.STOPPED, State.ESTOP):
            self.reset()
        if self.controller.state is State.IDLE:
            self.start()
        for _ in range(1 + round(latency / PERIOD)):
            self._tick(PERIOD, measured(self.command), 0.0)
        steps = np.arange(8)[:, None]
        actions = np.array([1.2, 1.2, 0.08, 0.2, 1.0]) * to * np.minimum(1.0, (1 + steps) / 5)
        actions[:, :2] += measured(self.command)[:2] + wave * np.sin(steps + np.arange(2))
        self._offer(actions, latency)
        self.run([PERIOD] * ticks)

    def _offer(self, actions, latency):
        with np.errstate(over="ignore"):  # 1e30 is a number too
            self.controller.ask(self.now - latency)
            self.controller.offer(ActionChunk(actions.astype(np.float32), self.now - latency), self.now)

    def _tick(self, dt, state, age):
        now = self.now + dt if math.isfinite(dt) else dt
        before, first = self.command, self.command is None
        command = self.controller.tick(now, state, now - age)
        step, self.now = self._counted(now)
        if self.latched or self.controller.state is State.IDLE:
            assert command is None
        if command is None:
            return
        assert self.controller.state in (State.RUNNING, State.STOPPING, State.STOPPED)
        assert_inside(motion_of(command))
        if first:
            there = np.array([*state[:3], 0.0, command.position[4]])
            before_motion = np.array([there, np.zeros(5), np.zeros(5)])
        else:
            before_motion = motion_of(before)
        assert_one_motion(before_motion, motion_of(command), step)
        if self.controller.state is State.STOPPED:
            assert not command.velocity.any() and not command.acceleration.any()
        self.command = command

    def _counted(self, now):
        """How much time this tick counts for, as docs/control.md promises, and the time after it."""
        if not math.isfinite(now):
            return PERIOD, self.now
        dt, self.ticked = now - self.ticked, now
        return (dt if 0 <= dt <= TIMEOUTS.tick else PERIOD), now

    def teardown(self):
        """However it ended, there is a stop inside the limits, within the time the slowest axis needs."""
        if not hasattr(self, "controller"):
            return
        self.controller.stop()
        for _ in range(100):
            if self.controller.state is not State.STOPPING:
                break
            self._tick(PERIOD, measured(self.command), 0.0)
        assert self.controller.state in (State.IDLE, State.STOPPED, State.ESTOP)


Anything.TestCase.settings = settings(max_examples=50, stateful_step_count=20)
TestAnything = Anything.TestCase


def test_limits_are_there_to_be_broken():
    """The yardstick itself: a command that is a little outside is told from one that is inside."""
    inside = np.array([[1.5, 2.8, 0.7, 9.0, 1.0], [1.0, 2.0, 0.25, 1.0, 0.0], [4.0, 10.0, 1.0, 5.0, 0.0]])
    assert_inside(inside)
    for row in range(3):
        for column in range(5 - (row > 0)):
            if (row, column) != (0, 3):  # what is displaced in rad has no place
                outside = inside.copy()
                outside[row, column] *= 1 + 3e-9
                with pytest.raises(AssertionError):
                    assert_inside(outside)
    moved = inside + 0.0
    moved[2, 0] -= LIMITS[0].jerk * 0.02 * (1 + 1e-7)
    with pytest.raises(AssertionError):
        assert_one_motion(inside, moved, 0.02)
