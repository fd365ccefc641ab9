"""The limiter: limits hold for any targets, ticks and starts; and inside them it gets there."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_policy.control import TOLERANCE, AxisLimits, GripperLimits
from aegis_policy.control.limiter import Limiter, Target, _Axis
from aegis_policy.control.motion import Motion, Piece, stop, travel
from tests.control.robot import assert_inside, assert_one_motion

AXIS = AxisLimits(1.0, 4.0, 40.0, jump=1.0, chunk_jerk=1e4, lower=-1.0, upper=1.5)
LIMITS = st.builds(
    lambda v, a, j: AxisLimits(v, a, j, jump=1.0, chunk_jerk=1e4, lower=-1.0, upper=1.5),
    st.floats(0.05, 3),
    st.floats(0.2, 20),
    st.floats(1, 2000),
)
TARGETS = st.lists(st.tuples(st.floats(-3, 3), st.floats(-4, 4), st.integers(1, 30)), min_size=1, max_size=6)
TICKS = st.floats(0.001, 0.1)
COARSE = st.floats(0.02, 0.1)
SWIFT = st.builds(  # at rest anywhere in its range within 5 s
    lambda v, a, j: AxisLimits(v, a, j, jump=1.0, chunk_jerk=1e4, lower=-1.0, upper=1.5),
    st.floats(0.8, 3),
    st.floats(2, 20),
    st.floats(20, 2000),
)


def target(position: float, velocity: float = 0.0) -> Target:
    return Target(np.array([position]), np.array([velocity]))


def drive(limiter: Limiter, targets, dt: float) -> np.ndarray:
    """Motions [N, 3, A] from the start on; each target (position, velocity) moves on for so many ticks."""
    motions = [limiter.commanded]
    for position, velocity, ticks in targets:
        for i in range(ticks):
            limiter.follow(target(position + i * dt * velocity, velocity), dt)
            motions.append(limiter.commanded)
    return np.array(motions)


@given(LIMITS, TARGETS, TICKS)
def test_limits_hold_for_any_targets(limits, targets, dt):
    motions = drive(Limiter([limits], np.array([0.2])), targets, dt)
    for before, after in pairwise(motions):
        assert_inside(after, [limits])
        assert_one_motion(before, after, dt, [limits])


@given(LIMITS, TARGETS, COARSE)
def test_limits_hold_by_what_the_robot_gets_to_see_the_positions_alone(limits, targets, dt):
    """Divided differences of positions are means of the derivatives, so they are inside when those are."""
    positions = drive(Limiter([limits], np.array([0.2])), targets, dt)[:, 0, 0]
    positions = np.concatenate([[0.2, 0.2], positions])
    for order, limit in [(1, limits.velocity), (2, limits.acceleration), (3, limits.jerk)]:
        rounding = 2**order * 4e-16 / dt**order
        assert np.abs(np.diff(positions, n=order)).max(initial=0) / dt**order <= limit * (1 + TOLERANCE) + rounding


@given(LIMITS, TARGETS, COARSE)
@settings(max_examples=40)
def test_from_every_command_there_is_a_stop_inside(limits, targets, dt):
    limiter = Limiter([limits], np.array([0.2]))
    before = drive(limiter, targets, dt)[-1]
    longest = limits.velocity / limits.acceleration + 3 * limits.acceleration / limits.jerk + 2 * dt
    for _ in range(int(longest / dt) + 1):
        limiter.brake(dt)
        assert_inside(limiter.commanded, [limits])
        assert_one_motion(before, limiter.commanded, dt, [limits])
        before = limiter.commanded
        if limiter.at_rest:
            break
    assert limiter.at_rest and not limiter.commanded[1:].any()


@given(SWIFT, st.floats(-0.9, 1.4), COARSE)
@settings(max_examples=40)
def test_it_arrives_and_stays(limits, place, dt):
    limiter = Limiter([limits], np.array([0.2]))
    drive(limiter, [(place, 0.0, int(5 / dt))], dt)
    assert limiter.at_rest
    assert limiter.commanded[:, 0] == pytest.approx([place, 0, 0], abs=1e-9)


PROPOSALS = st.lists(
    st.lists(
        st.tuples(
            st.floats(0, 0.1), st.one_of(st.floats(-1.5, 1.5), st.sampled_from([0.0, 1.0, -1.0, 1 + 5e-9, -1 - 5e-9]))
        ),
        max_size=4,
    ),
    min_size=1,
    max_size=40,
)


@given(LIMITS, PROPOSALS, COARSE)
def test_limits_hold_whoever_proposes(limits, proposals, dt):
    """Not Ruckig here, but anyone: pieces that last any time, at up to 1.5 times the jerk allowed."""
    limiter = Limiter([limits], np.array([0.2]))
    before = limiter.commanded
    with pytest.MonkeyPatch.context() as patch:
        for proposal in proposals:
            pieces = [Piece(duration, share * limits.jerk) for duration, share in proposal]
            patch.setattr(_Axis, "_propose", lambda *_, pieces=pieces: pieces)
            limiter.follow(target(0.0), dt)
            assert_inside(limiter.commanded, [limits])
            assert_one_motion(before, limiter.commanded, dt, [limits])
            before = limiter.commanded


@given(SWIFT, st.floats(0.0, 0.3), st.floats(0.2, 2.0), COARSE)
@settings(max_examples=40)
def test_who_catches_up_with_a_target_that_stops_at_the_last_moment_stops_in_time(limits, lag, cruise, dt):
    """The fastest way to such a target leads through the limit: this is what each proposal is checked for."""
    limits, fast = replace(limits, lower=-30.0), Motion(0.0, 0.9 * limits.velocity)
    pieces = [Piece(cruise, 0.0), *stop(fast, limits.acceleration, limits.jerk)]
    begin = limits.upper - travel(fast, pieces, 100.0)[0].position - 1e-6
    limiter = Limiter([limits], np.array([begin - lag]))
    before = limiter.commanded
    for i in range(int((cruise + 2) / dt)):
        ahead, _ = travel(fast, pieces, i * dt)
        limiter.follow(target(begin + ahead.position, ahead.velocity), dt)
        assert_inside(limiter.commanded, [limits])
        assert_one_motion(before, limiter.commanded, dt, [limits])
        before = limiter.commanded


def test_a_target_outside_is_approached_to_the_limit():
    motions = drive(Limiter([AXIS], np.array([0.2])), [(9.0, 2.0, 400)], 0.01)
    assert motions[-1, :, 0] == pytest.approx([AXIS.upper, 0, 0], abs=1e-9)


@pytest.mark.parametrize("dt", [0.005, 0.01, 0.05])
def test_a_path_that_is_inside_is_followed(dt):
    """After it has caught up: no lag, and no taking of run-ups."""
    limiter, off = Limiter([AXIS], np.zeros(1)), []
    for i in range(int(4 / dt)):
        t = (i + 1) * dt
        limiter.follow(target(0.4 * np.sin(1.5 * t), 0.6 * np.cos(1.5 * t)), dt)
        off.append(limiter.commanded[0, 0] - 0.4 * np.sin(1.5 * t))
    assert np.abs(off).max() < 0.08  # from a standing start
    assert np.abs(off[int(3 / dt) :]).max() < 1e-3


@given(st.one_of(st.floats(-3, -1.01), st.floats(1.51, 3)), TARGETS, COARSE)
@settings(max_examples=40)
def test_who_starts_outside_goes_no_farther_out_and_comes_back(start, targets, dt):
    limiter = Limiter([AXIS], np.array([start]))
    motions = drive(limiter, targets, dt)
    stretched = replace(AXIS, lower=min(AXIS.lower, start), upper=max(AXIS.upper, start))
    for before, after in pairwise(motions):
        assert_inside(after, [stretched])
        assert_one_motion(before, after, dt, [AXIS])
    drive(limiter, [(0.0, 0.0, int(6 / dt))], dt)
    assert_inside(limiter.commanded, [AXIS])


@given(SWIFT, TARGETS, COARSE, st.floats(0.3, 1), st.floats(0.3, 1), st.floats(0.1, 1))
@settings(max_examples=40)
def test_limits_lowered_on_the_move_are_met_as_soon_as_the_others_allow(limits, targets, dt, v, a, place):
    limiter = Limiter([limits], np.array([0.2]))
    before = drive(limiter, targets, dt)[-1]
    lowered = replace(
        limits, velocity=v * limits.velocity, acceleration=a * limits.acceleration, lower=-place, upper=1.5 * place
    )
    limiter.set_limits([lowered])
    motions = np.concatenate([before[None], drive(limiter, [(0.0, 0.0, int(6 / dt))], dt)[1:]])
    # what cannot be helped: first the acceleration has to go
    peak = abs(before[1, 0]) + before[2, 0] ** 2 / (2 * lowered.jerk)
    farthest = replace(
        lowered,
        velocity=max(lowered.velocity, peak),
        acceleration=max(lowered.acceleration, abs(before[2, 0])),
        lower=-9.0,
        upper=9.0,
    )
    for first, second in pairwise(motions):
        assert_inside(second, [farthest])
        assert_one_motion(first, second, dt, [lowered])
    assert_inside(motions[-1], [lowered])


def test_a_gripper_is_clipped_at_once_and_keeps_its_command_through_a_stop():
    limiter = Limiter([GripperLimits(-1, 1)], np.array([0.0]))
    limiter.follow(target(7.0), 0.01)
    assert limiter.commanded[:, 0].tolist() == [1, 0, 0]
    limiter.brake(0.01)
    assert limiter.commanded[0, 0] == 1 and limiter.at_rest


@pytest.mark.parametrize("slow", [1e-3, 1e-4, 1e-6])
def test_an_axis_that_is_as_good_as_locked_stands_or_creeps(slow):
    """Ruckig has an error for ways that take too long that its binding does not know."""
    limits = replace(AXIS, velocity=slow)
    motions = drive(Limiter([limits], np.array([0.2])), [(1.0, 0.0, 30), (-0.5, 0.0, 30)], 0.02)
    for before, after in pairwise(motions):
        assert_inside(after, [limits])
        assert_one_motion(before, after, 0.02, [limits])


@given(SWIFT, TARGETS, COARSE, st.floats(0.01, 1), st.floats(1e-3, 1))
@settings(max_examples=100, deadline=None)
def test_a_jerk_lowered_on_the_move_makes_nobody_faster_first(limits, targets, dt, a, j):
    """To take an acceleration of 3 m/s² back at 0.5 m/s³ would take six seconds, and lead to 9 m/s."""
    limiter = Limiter([limits], np.array([0.2]))
    before = drive(limiter, targets, dt)[-1]
    lowered = replace(limits, acceleration=a * limits.acceleration, jerk=j * limits.jerk)
    limiter.set_limits([lowered])
    motions = np.concatenate([before[None], drive(limiter, [(0.2, 0.0, int(4 / dt))], dt)[1:]])
    fastest = max(limits.velocity, abs(before[1, 0]) + before[2, 0] ** 2 / (2 * limits.jerk))
    assert (np.abs(motions[:, 1, 0]) <= fastest * (1 + 1e-9)).all()
    for first, second in pairwise(motions):
        assert_one_motion(first, second, dt, [limits])
    limiter.brake(600.0)
    for first, second in pairwise(drive(limiter, [(0.5, 0.0, 50)], dt)):  # from rest on
        assert_one_motion(first, second, dt, [lowered])
