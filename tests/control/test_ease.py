"""A chunk that takes over little by little leads where it says, no farther in an action, and is soon its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_policy.control import ActionSpace, RealTime, Rejection
from aegis_policy.control.plan import Plan
from aegis_policy.control.real_time import ease
from tests.control.robot import GRIPPER, HOME, INFO, steady

DISPLACED = np.array([True, False])
ACTIONS = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=0, max_size=9).map(
    lambda rows: np.array(rows, float).reshape(-1, 2)
)


@given(ACTIONS.filter(len), ACTIONS)
@settings(max_examples=300)
def test_a_chunk_takes_over_little_by_little_and_loses_no_way(fresh, pending):
    eased = ease(fresh, pending, DISPLACED)
    reach = np.abs(np.concatenate([fresh, pending])).max(axis=0)
    assert eased.shape == fresh.shape and (np.abs(eased) <= reach + 1e-12).all()
    behind = np.cumsum(fresh - eased, axis=0)[:, 0]
    if (np.abs(eased) < reach - 1e-9)[-1, 0]:  # nothing is left to be carried out
        assert behind[-1] == pytest.approx(0, abs=1e-9)
    there = min(len(pending), len(fresh) - 1)
    both = np.stack([fresh[:there, 1], pending[:there, 1]])
    assert (eased[:there, 1] >= both.min(axis=0) - 1e-12).all() and (eased[:there, 1] <= both.max(axis=0) + 1e-12).all()
    np.testing.assert_allclose(eased[there:, 1], fresh[there:, 1])


def test_what_was_pending_has_less_and_less_of_a_say():
    """Of 3 pending actions, c = 3/4, 1/2 and 1/4 in eq. 5 of arXiv 2506.07339."""
    share = [c * np.expm1(c) / np.expm1(1) for c in (0.75, 0.5, 0.25)]
    eased = ease(np.zeros((6, 2)), np.ones((3, 2)), DISPLACED)
    np.testing.assert_allclose(eased[:, 1], [*share, 0, 0, 0])
    first = share[0]
    second = -first + share[1] * (1 + first)
    third = -(first + second) + share[2] * (1 + first + second)
    np.testing.assert_allclose(eased[:, 0], [first, second, third, -(first + second + third), 0, 0])


def test_who_says_what_is_pending_anyway_is_left_as_it_is():
    chunk = np.random.default_rng(0).normal(size=(6, 2))
    np.testing.assert_array_equal(ease(chunk, chunk[:4], DISPLACED), chunk)
    np.testing.assert_array_equal(ease(chunk, chunk[:0], DISPLACED), chunk)


def test_joints_and_displacements_are_eased_and_a_gripper_is_not():
    """Halfway between open and closed is neither."""
    scheduler = RealTime(2)
    scheduler.fit(INFO)
    for stamp, chunk in ((0.0, steady(0.2, dx=0.01)), (0.4, steady(0.3, dx=0.02, gripper=1.0, stamp=0.4))):
        pending = scheduler.ask(stamp)
        laid_out = scheduler.schedule(chunk, stamp + 0.2)
        assert not isinstance(laid_out, Rejection)
        anchor = np.append(HOME, 0.0)
        scheduler.add(Plan(ActionSpace(INFO), laid_out.actions, start=laid_out.start, anchor=anchor, stamp=stamp))
    assert pending is not None and pending.delay == 2
    own = laid_out.actions[-6:]
    np.testing.assert_array_equal(own[:, GRIPPER], 1.0)
    assert 0.2 < own[0, 0] < own[1, 0] < own[2, 0] < own[3, 0] <= 0.3 and (own[4:, 0] == np.float32(0.3)).all()
    # The first two of the chunk were to go 0.02 m each, and went 0.01: its own would begin with 0.04.
    assert 0.01 < own[0, 2] < 0.03 and own[:, 2].max() < 0.04 and own[:, 2].sum() == pytest.approx(8 * 0.02 - 2 * 0.01)
