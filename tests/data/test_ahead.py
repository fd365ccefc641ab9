"""A chunk that takes over little by little leads where it says, no farther in an action, and is soon its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_policy import Feature, Pending, PolicyInfo
from aegis_policy.data.ahead import Easing, ease
from aegis_policy.data.normalize import Moments

DISPLACED = np.array([True, False])
ACTIONS = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=0, max_size=9).map(
    lambda rows: np.array(rows, float).reshape(-1, 2)
)


@given(ACTIONS.filter(len), ACTIONS)
@settings(max_examples=300)
def test_a_chunk_takes_over_little_by_little_and_loses_no_way(fresh, pending):
    pending = pending[: len(fresh) - 1]
    eased = ease(fresh, pending, DISPLACED, np.ones(2))
    assert eased.shape == fresh.shape and (np.abs(eased) <= 1 + 1e-12).all()
    np.testing.assert_allclose(eased[:, 0].sum(), fresh[:, 0].sum(), atol=1e-12)
    there = len(pending)
    both = np.stack([fresh[:there, 1], pending[:there, 1]])
    assert (eased[:there, 1] >= both.min(axis=0) - 1e-12).all() and (eased[:there, 1] <= both.max(axis=0) + 1e-12).all()
    np.testing.assert_allclose(eased[there:, 1], fresh[there:, 1])


def test_what_was_pending_has_less_and_less_of_a_say():
    """Of 3 pending actions, c = 3/4, 1/2 and 1/4 in eq. 5 of arXiv 2506.07339."""
    share = [c * np.expm1(c) / np.expm1(1) for c in (0.75, 0.5, 0.25)]
    eased = ease(np.zeros((6, 2)), np.ones((3, 2)), DISPLACED, np.ones(2))
    np.testing.assert_allclose(eased[:, 1], [*share, 0, 0, 0])
    first = share[0]
    second = -first + share[1] * (1 + first)
    third = -(first + second) + share[2] * (1 + first + second)
    np.testing.assert_allclose(eased[:, 0], [first, second, third, -(first + second + third), 0, 0])


def test_who_says_what_is_pending_anyway_is_left_as_it_is():
    chunk = np.random.default_rng(0).normal(size=(6, 2))
    np.testing.assert_array_equal(ease(chunk, chunk[:4], DISPLACED, np.ones(2)), chunk)
    np.testing.assert_array_equal(ease(chunk, chunk[:0], DISPLACED, np.ones(2)), chunk)


INFO = PolicyInfo(
    "test", (), (Feature("q1", "rad"), Feature("x", "m")),
    (Feature("q1", "rad"), Feature("dx", "m"), Feature("gripper", "1")), 8, 10.0, ("go",), "", max_delay=3,
)  # fmt: skip
EASING = Easing(INFO, Moments.of(np.random.default_rng(0).integers(0, 2, (100, 3)).astype(float), INFO.actions))


def chunk(q1: float, dx: float, closes: int = 8) -> np.ndarray:
    return np.array([[q1, dx, step >= closes] for step in range(8)], np.float32)


def test_joints_and_displacements_are_eased_and_what_is_committed_is_not() -> None:
    told = chunk(0.2, 0.01)[:6]
    said = np.concatenate([told[:2], chunk(0.3, 0.02)[2:]])
    found = EASING(said, Pending(told, 2))
    np.testing.assert_array_equal(found[:2], said[:2])
    own = found[2:]
    assert 0.2 < own[0, 0] < own[1, 0] < own[2, 0] < own[3, 0] < 0.3 and (own[4:, 0] == np.float32(0.3)).all()
    assert 0.01 < own[0, 1] < 0.02 < own[2, 1] < 0.025
    np.testing.assert_allclose(own[:, 1].sum(), 6 * 0.02, rtol=1e-6)
    assert EASING(said, None) is said and EASING(said, Pending(told, 0)) is said


@pytest.mark.parametrize("closes", range(2, 8))
def test_before_a_gripper_closes_the_arm_is_where_it_was_to_be(closes: int) -> None:
    told = chunk(0.2, 0.04)[:6]
    said = np.concatenate([told[:2], chunk(0.3, 0.0, closes)[2:]])
    said[2:, 1] = 0.02
    found = EASING(said, Pending(told, 2))
    np.testing.assert_array_equal(found[:, 2], said[:, 2])
    np.testing.assert_array_equal(found[closes - 1 :, 0], said[closes - 1 :, 0])
    np.testing.assert_allclose(found[:closes, 1].sum(), said[:closes, 1].sum(), rtol=1e-6)
    assert (found[2, 1] > 0.02) == (closes > 3), "there is time for it or not"


def test_a_gripper_that_has_closed_since_leaves_no_time_either() -> None:
    told = chunk(0.2, 0.04)[:6]
    said = np.concatenate([told[:2], chunk(0.3, 0.02, 0)[2:]])
    np.testing.assert_array_equal(EASING(said, Pending(told, 2)), said)
