"""Chunks as paths in time: when each action is due, what lies between two, and which chunk has a say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_policy.control import ActionSpace, Asynchronous, RealTime, Synchronous, TemporalEnsemble
from aegis_policy.control.plan import Plan
from tests.control.robot import GRIPPER, INFO, steady

SPACE = ActionSpace(INFO)
ANCHOR = np.array([0.2, 0.5, 0.5, 0.0, 0.0])


def plan(actions, start: float = 0.0) -> Plan:
    return Plan(SPACE, np.array(actions, np.float32), start=start, anchor=ANCHOR, stamp=start)


def line(q1: float, start: float = 0.0, gripper: float = 0.0) -> Plan:
    """In 8 steps from the anchor's 0.2 to q1."""
    return plan([[0.2 + (q1 - 0.2) * i / 8, 0.5, 0.01, 0.1, gripper] for i in range(1, 9)], start)


def test_each_action_is_reached_a_step_after_it_is_due():
    path = line(1.0)
    for i in range(9):
        assert path.at(i / 10).position[:4] == pytest.approx([0.2 + 0.1 * i, 0.5, 0.5 + 0.01 * i, 0.1 * i], abs=1e-6)
    assert path.end == pytest.approx(0.8)


def test_it_stands_before_and_after():
    path = line(1.0)
    assert path.at(-5.0).position[0] == pytest.approx(0.2) and not path.at(-5.0).velocity.any()
    assert path.at(9.0).position[0] == pytest.approx(1.0) and not path.at(9.0).velocity.any()


@given(st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=10), st.floats(0.01, 0.99))
def test_velocity_is_that_of_the_position_and_continuous(steps, share):
    path = plan([[q, 0.5, 0.0, 0.0, 0.0] for q in steps])
    instant, h = share * path.end, 1e-6
    before, after = (path.at(instant + k * h).position[0] for k in (-1, 1))
    assert (after - before) / (2 * h) == pytest.approx(path.at(instant).velocity[0], abs=1e-3)
    for knot in np.arange(1, len(steps)) / 10:
        assert path.at(knot - 1e-9).velocity[0] == pytest.approx(path.at(knot + 1e-9).velocity[0], abs=1e-5)


def test_a_gripper_holds_its_command_for_its_step():
    path = plan([[0.2, 0.5, 0, 0, -1.0], [0.2, 0.5, 0, 0, 1.0]])
    commands = [path.at(t).position[GRIPPER] for t in (-1.0, 0.0, 0.09, 0.11, 0.19, 5.0)]
    assert commands == [-1, -1, -1, 1, 1, 1]
    assert path.at(0.1).velocity[GRIPPER] == 0


def test_synchronous_plays_its_share_from_now_and_waits_for_rest():
    scheduler = Synchronous(3)
    actions, start, *_ = scheduler.schedule(steady(stamp=1.0), 1.4)
    assert (len(actions), start) == (3, 1.4)
    assert scheduler.at(1.4) is None and scheduler.wants_chunk(1.4, True)
    scheduler.add(plan(actions, start))
    assert not scheduler.wants_chunk(1.6, True)
    assert scheduler.wants_chunk(1.71, True) and not scheduler.wants_chunk(1.71, False)


def test_synchronous_takes_no_chunk_for_what_was_seen_before_the_robot_stood():
    scheduler = Synchronous(3)
    scheduler.add(plan(scheduler.schedule(steady(stamp=1.0), 1.4).actions, 1.4))
    assert scheduler.schedule(steady(stamp=1.5), 1.6).reason == "the robot has not stood still since the last chunk"
    assert not scheduler.wants_chunk(1.75, False) and scheduler.seen_from == np.inf
    assert scheduler.wants_chunk(1.8, True) and scheduler.wants_chunk(2.0, True)
    assert scheduler.schedule(steady(stamp=1.7), 2.0).reason == "observed 0.1 s before the robot stood still"
    assert scheduler.schedule(steady(stamp=1.8), 2.0).start == 2.0
    scheduler.add(plan(scheduler.schedule(steady(stamp=1.8), 2.0).actions, 2.0))
    assert scheduler.wants_chunk(2.4, True) and scheduler.seen_from == 2.4
    scheduler.clear()
    assert scheduler.wants_chunk(3.0, True) and scheduler.schedule(steady(stamp=2.9), 3.0).start == 3.0


def test_asynchronous_follows_the_newest_from_the_action_that_is_due():
    scheduler = Asynchronous(4)
    assert scheduler.schedule(steady(stamp=1.0), 1.3).start == 1.3  # the robot has stood since
    scheduler.add(line(1.0))
    assert scheduler.schedule(steady(stamp=1.0), 1.3).start == 1.0
    scheduler.add(line(0.6, start=0.2))
    assert scheduler.at(0.4).position[0] == pytest.approx(line(0.6, start=0.2).at(0.4).position[0])
    assert not scheduler.wants_chunk(0.5, False) and scheduler.wants_chunk(0.61, False)
    scheduler.clear()
    assert scheduler.at(0.4) is None


def test_the_ensemble_is_acts_weighted_mean_of_what_covers_the_instant():
    scheduler = TemporalEnsemble(1, decay=0.5)
    paths = [line(1.0), line(0.6, start=0.2, gripper=-1.0), line(0.4, start=0.4, gripper=1.0)]
    for path in paths:
        scheduler.add(path)
    weights = np.exp(-0.5 * np.arange(3))
    mean = sum(w * path.at(0.5).position for w, path in zip(weights, paths, strict=True)) / weights.sum()
    assert scheduler.at(0.5).position[:4] == pytest.approx(mean[:4])
    assert scheduler.at(0.5).position[GRIPPER] == 1  # the newest's: a mean of open and closed is neither
    weights = weights[:2]  # the first is over, the second is the oldest now
    mean = sum(w * path.at(0.9).velocity for w, path in zip(weights, paths[1:], strict=True)) / weights.sum()
    assert scheduler.at(0.9).velocity == pytest.approx(mean)
    assert scheduler.at(9.0).position[0] == pytest.approx(0.4)


def test_a_chunk_has_to_be_asked_for_at_least_every_action():
    with pytest.raises(ValueError, match="execute is 0"):
        Asynchronous(0)
    for scheduler in (Synchronous(9), Asynchronous(9), TemporalEnsemble(9), RealTime(9)):
        with pytest.raises(ValueError, match="execute is 9: a chunk of the policy 'test' has 8 actions"):
            scheduler.fit(INFO)
