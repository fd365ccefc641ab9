"""A robot that is where it was told to be, driven from start to standstill, and what may go wrong on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aegis_policy import ActionChunk
from aegis_policy.control import (
    Asynchronous,
    Command,
    Controller,
    RealTime,
    State,
    Synchronous,
    TemporalEnsemble,
    Timeouts,
)
from tests.control.robot import (
    CONTROL_HZ,
    GRIPPER,
    HOME,
    INFO,
    LIMITS,
    PERIOD,
    TIMEOUTS,
    assert_inside,
    assert_one_motion,
    chunk,
    controller,
    measured,
    motion_of,
    steady,
)


def run(control: Controller, now: float, ticks: int, command: Command | None = None) -> tuple[float, list[Command]]:
    """Tick on time, with the robot following; returns the time and what was commanded."""
    commands = []
    for _ in range(ticks):
        now += PERIOD
        command = control.tick(now, measured(command), now)
        if command is not None:
            commands.append(command)
    return now, commands


def drive(
    control: Controller, now: float, seconds: float, command: Command | None = None, *, dx: float
) -> tuple[float, Command]:
    """A policy that takes 0.1 s to say: always on in steps of `dx`, and after what is committed."""
    end, asked = now + seconds, None
    while now < end:
        if asked is None and control.wants_chunk(now):
            asked = now, control.ask(now)
        now, commands = run(control, now, 1, command)
        command = commands[-1] if commands else command
        if asked and now >= asked[0] + 0.1:
            pending, actions = asked[1], steady(q2=0.5, dx=dx).actions
            if pending is not None:
                actions[: pending.delay] = pending.actions[: pending.delay]
            rejection = control.offer(ActionChunk(actions, asked[0]), now)
            assert rejection is None or rejection.check == "late"  # by a tick
            asked = None
    assert command is not None
    return now, command


def moving(now: float = 0.0, **options) -> tuple[Controller, float, Command]:
    """A controller in the middle of a motion."""
    control = controller(**options)
    control.start(now)
    now, _ = run(control, now, 2)
    assert control.offer(steady(q1=0.65, q2=0.9, dx=0.01, gripper=1.0, stamp=now), now) is None
    now, commands = run(control, now, 15)
    assert abs(commands[-1].velocity[0]) > 0.2
    return control, now, commands[-1]


def assert_stops_smoothly(control: Controller, now: float, command: Command) -> Command:
    assert control.state is State.STOPPING
    before = command
    while control.state is State.STOPPING:
        now += PERIOD
        after = control.tick(now, measured(before), now)
        assert_inside(motion_of(after))
        assert_one_motion(motion_of(before), motion_of(after), PERIOD)
        before = after
    assert control.state is State.STOPPED
    assert not before.velocity.any() and not before.acceleration.any()
    held = run(control, now, 5, before)[1]
    assert all(np.array_equal(again.position, before.position) for again in held)
    return before


def test_nothing_is_commanded_before_the_first_chunk():
    control = controller()
    assert control.tick(0.0, HOME, 0.0) is None
    assert control.offer(steady(), 0.0).check == "state"
    control.start(0.0)
    assert run(control, 0.0, 10)[1] == []
    assert control.wants_chunk(0.2)


def test_a_chunk_is_reached_held_and_its_gripper_obeyed_at_once():
    control = controller(Synchronous(8))
    control.start(0.0)
    now, _ = run(control, 0.0, 1)
    assert control.offer(steady(q1=0.6, q2=0.1, dx=0.01, gripper=0.7, stamp=now), now) is None
    now, commands = run(control, now, 70)
    assert commands[0].position[GRIPPER] == pytest.approx(0.7)
    assert commands[-1].position[:3] == pytest.approx([0.6, 0.1, 0.58], abs=1e-6)
    assert not commands[-1].velocity.any()
    assert control.state is State.RUNNING and control.wants_chunk(now)


def test_between_actions_at_10_hz_a_loop_at_100_hz_moves_evenly():
    timeouts, control_hz = Timeouts(tick=0.1, state=0.2, chunk=3.0), 100.0
    control = Controller(INFO, LIMITS, Asynchronous(8), timeouts, control_hz)
    control.start(0.0)
    control.tick(0.01, HOME, 0.01)
    ramp = [[0.2 + 0.05 * (i + 1), 0.5, 0.01, 0.0, 0.0] for i in range(16)]
    assert control.offer(chunk(*ramp, stamp=0.01), 0.01) is None
    command, speeds = None, []
    for tick in range(2, 130):
        command = control.tick(tick / 100, measured(command), tick / 100)
        speeds.append(command.velocity[[0, 2]])
    assert np.ptp(np.array(speeds)[70:], axis=0) == pytest.approx([0, 0], abs=0.02)  # of 0.5 rad/s and 0.1 m/s
    assert speeds[70] == pytest.approx([0.5, 0.1], abs=0.02)


def test_the_next_chunk_takes_over_without_a_stop():
    control, now, command = moving()
    assert control.wants_chunk(now + 0.2) and not control.wants_chunk(now)
    assert control.offer(steady(q1=0.7, q2=0.9, stamp=now - 0.1), now) is None
    after = control.tick(now + PERIOD, measured(command), now + PERIOD)
    assert_one_motion(motion_of(command), motion_of(after), PERIOD)
    assert after.velocity[0] > 0.1


def test_without_a_next_chunk_it_comes_to_rest_and_goes_on_with_the_next():
    control, now, command = moving(timeouts=replace(TIMEOUTS, chunk=5.0))
    now, commands = run(control, now, 60, command)
    assert control.state is State.RUNNING and not commands[-1].velocity.any()
    assert control.offer(steady(q1=0.4, q2=0.9, dx=0.0, gripper=1.0, stamp=now), now) is None
    now, commands = run(control, now, 60, commands[-1])
    assert commands[-1].position[0] == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda now, q: (now + 1.0, q, now + 1.0), "tick: 1 s after the last"),
        (lambda now, q: (now + 3600.0, q, now + 3600.0), "clock jumped"),
        (lambda now, q: (now - 5.0, q, now - 5.0), "clock: went back by 5 s"),
        (lambda now, q: (np.nan, q, now), "clock: nan is not a time"),
        (lambda now, q: (now + PERIOD, q, now - 0.4), "state: stale, 0.42 s old, limit 0.2 s"),
        (lambda now, q: (now + PERIOD, q, now + 1.0), "state: stamped 0.98 s in the future"),
        (lambda now, q: (now + PERIOD, q, np.nan), "state: nan is not a time"),
        (lambda now, q: (now + PERIOD, q[:3], now), "state: expected 4 numbers, got shape [3]"),
        (lambda now, q: (now + PERIOD, q * [1, np.nan, 1, 1], now), "state: not a finite number: q2"),
        (lambda now, q: (now + PERIOD, q + [0, 0.5, 0, 0], now), "following: 'q2' is 0.5"),
    ],
)
def test_what_goes_wrong_is_named_and_ends_in_a_smooth_stop(wrong, reason):
    control, now, command = moving()
    now, state, stamp = wrong(now, measured(command))
    after = control.tick(now, state, stamp)
    assert reason in control.reason
    assert_inside(motion_of(after))
    assert_one_motion(motion_of(command), motion_of(after), PERIOD)  # a second late, and not a step farther
    assert_stops_smoothly(control, now if np.isfinite(now) else command.stamp, after)
    assert control.offer(steady(stamp=now), now).reason.startswith(f"the robot is stopped: {control.reason}")


def test_a_policy_that_falls_silent_ends_in_a_stop():
    control, now, command = moving()
    now, _ = run(control, now, 100, command)
    assert control.state is State.STOPPED
    assert control.reason == "chunk: stale, 1.5 s old, limit 1.5 s"


def test_a_tick_at_the_same_time_repeats_the_command():
    control, now, command = moving()
    again = control.tick(now, measured(command), now)
    assert np.array_equal(motion_of(again), motion_of(command)) and control.state is State.RUNNING


def test_after_a_stop_it_goes_on_from_where_it_holds_and_with_new_chunks_only():
    control, now, command = moving()
    control.stop()
    held = assert_stops_smoothly(control, now, command)
    assert control.reason == "stop asked for"
    now += 2.0
    control.start(now)
    assert control.reason == ""
    assert control.offer(steady(stamp=now - 0.1), now).check == "state"
    now, commands = run(control, now, 3, held)
    assert np.array_equal(commands[-1].position, held.position)
    assert "before the start" in control.offer(steady(stamp=now - 0.5), now).reason
    target = held.position + [0.2, 0, 0, 0, 0]
    assert control.offer(steady(q1=target[0], q2=target[1], stamp=now), now) is None
    assert run(control, now, 10, held)[1][-1].velocity[0] > 0.1


@pytest.mark.parametrize("braking", [False, True])
def test_after_an_emergency_stop_nothing_is_commanded_and_a_reset_moves_nothing(braking):
    control, now, command = moving()
    if braking:
        control.stop()
        now, commands = run(control, now, 2, command)
        command = commands[-1]
        assert control.state is State.STOPPING
    control.estop("button")
    elsewhere = measured(command) + [0.4, 0.1, 0.0, 0.0]  # where the brakes let it fall
    for _ in range(5):
        now += PERIOD
        assert control.tick(now, elsewhere, now) is None
        assert control.offer(steady(stamp=now), now).reason == "the robot is emergency stop: button"
    control.stop()
    control.estop("again")
    assert (control.state, control.reason) == (State.ESTOP, "button")
    control.reset()
    assert control.state is State.IDLE and control.tick(now + PERIOD, elsewhere, now + PERIOD) is None
    control.start(now + PERIOD)
    now += 2 * PERIOD
    assert control.tick(now, elsewhere, now) is None
    assert control.offer(steady(q1=elsewhere[0], q2=elsewhere[1], stamp=now), now) is None
    first = control.tick(now + PERIOD, elsewhere, now + PERIOD)
    assert first.position[:3] == pytest.approx(elsewhere[:3], abs=1e-4)


@pytest.mark.parametrize("braking", [False, True])
def test_no_reset_and_no_second_start_on_the_move(braking):
    control, now, _ = moving()
    if braking:
        control.stop()
    with pytest.raises(RuntimeError, match=r"reset: not while (running|stopping)"):
        control.reset()
    with pytest.raises(RuntimeError, match=r"start: not while (running|stopping)"):
        control.start(now)


def test_limits_lowered_on_the_move_are_kept_from_then_on():
    control, now, command = moving()
    lowered = (replace(LIMITS[0], velocity=0.1), *LIMITS[1:])
    control.set_limits(lowered)
    speeds = [abs(each.velocity[0]) for each in run(control, now, 40, command)[1]]
    braked = next(i for i, speed in enumerate(speeds) if speed <= 0.1)
    assert braked < 20 and max(speeds[braked:]) <= 0.1 * (1 + 1e-9)
    with pytest.raises(ValueError, match="limits: 1 for 5 actions"):
        control.set_limits(LIMITS[:1])


def test_a_robot_outside_its_range_may_come_back_and_go_no_farther():
    control = controller(limits=(replace(LIMITS[0], lower=0.5), *LIMITS[1:]))
    control.start(0.0)
    now, _ = run(control, 0.0, 1)  # at 0.2
    assert control.offer(steady(q1=0.0, q2=0.5, stamp=now), now) is None
    now, commands = run(control, now, 70)
    positions = [command.position[0] for command in commands]
    assert min(positions) >= 0.2 - 1e-9 and positions[-1] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("scheduler", [Asynchronous, RealTime])
def test_what_is_displaced_stays_in_its_box_however_long_it_is_pushed(scheduler):
    control = controller(scheduler(4), timeouts=replace(TIMEOUTS, chunk=3.0))
    control.start(0.0)
    now, _ = run(control, 0.0, 1)
    now, command = drive(control, now, 5.0, dx=0.02)
    assert command.position[2] == pytest.approx(0.7, abs=1e-6)
    now, command = drive(control, now, 1.0, command, dx=-0.02)
    assert command.position[2] < 0.66  # pushing on has not wound anything up


def test_real_time_chunks_do_not_run_away_from_a_robot_that_its_speed_holds_back():
    control = controller(RealTime(4), limits=(*LIMITS[:2], replace(LIMITS[2], velocity=0.1), *LIMITS[3:]))
    control.start(0.0)
    now, _ = run(control, 0.0, 1)
    now, command = drive(control, now, 1.5, dx=0.02)  # 0.2 m/s
    assert command.velocity[2] == pytest.approx(0.1)
    now, command = drive(control, now, 0.8, command, dx=-0.02)
    assert command.velocity[2] == pytest.approx(-0.1)


def test_every_way_to_schedule_ends_where_the_chunks_say():
    for scheduler in (Synchronous(4), Asynchronous(4), TemporalEnsemble(2)):
        control, now, command = controller(scheduler), 0.0, None
        control.start(now)
        for _ in range(200):
            now += 1 / CONTROL_HZ
            command = control.tick(now, measured(command), now)
            if control.wants_chunk(now):
                assert control.offer(steady(q1=0.6, q2=0.8, stamp=now), now) is None
        assert control.state is State.RUNNING
        assert command.position[:2] == pytest.approx([0.6, 0.8], abs=1e-4)
