"""Chunks that have begun otherwise lead where they should have, as far as actions reach."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_policy.data.begun import COUNTS, DISTURBED, HASTE, SETTLE, STILL, begin, push

B, M, H, A = 2, 3, 6, 3
DISPLACED, CHANGE = np.array([True, True, False]), np.array([0, 0, 0.1])


def case(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=(B, H, A)).astype(np.float32)
    labels[..., ~DISPLACED] = 1  # no set point changes
    executed = labels + rng.normal(size=labels.shape).astype(np.float32) * DISPLACED * 0.5
    return labels, executed, rng.integers(0, H, (B, M)), rng.normal(size=(B, M, H, A)) * DISPLACED


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.1, 5))
def test_most_of_what_is_owed_is_made_up_for_in_each_action_as_far_as_it_reaches(seed: int, reach: float) -> None:
    labels, executed, delay, push = case(seed)
    chunks = begin(labels, executed, delay, push, np.full(A, reach), DISPLACED, CHANGE)
    for b, m in np.ndindex(B, M):
        d, found = delay[b, m], chunks[b, m].astype(float)
        asked = np.r_[executed[b, :d], labels[b, d:]]
        low, high = np.minimum(asked, -reach), np.maximum(asked, reach)
        assert (found >= low - 1e-5).all() and (found <= high + 1e-5).all()
        np.testing.assert_array_equal(found[:, ~DISPLACED], asked[:, ~DISPLACED])
        # Where it is after each action, beside where it should have been: nearer and nearer, by HASTE of what is left.
        behind = np.cumsum(found - asked, axis=0)
        for step in range(max(d, 1), H):
            before, now = behind[step - 1], behind[step]
            assert (np.abs(now) <= np.abs(before) + 1e-5).all() and (now * before >= -1e-5).all()
            furthest = (found[step] < low[step] + 1e-5) | (found[step] > high[step] - 1e-5)
            assert (np.isclose(now, (1 - HASTE) * before, atol=1e-5) | furthest).all()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.1, 5))
def test_a_gripper_closes_where_it_would_have_closed_and_once_the_arm_is_there(seed: int, reach: float) -> None:
    rng, horizon = np.random.default_rng(seed), 12
    labels = np.zeros((B, horizon, A), np.float32)
    labels[..., :2] = rng.uniform(-reach, reach, (B, horizon, 2))
    executed, delay = labels.copy(), rng.integers(0, 4, (B, M))
    closes = rng.integers(1, 7, B)
    labels[..., 2] = np.arange(horizon) >= closes[:, None]
    pushed = rng.normal(size=(B, M, horizon, A)) * DISPLACED * reach
    chunks = begin(labels, executed, delay, pushed, np.array([reach, reach, 1]), DISPLACED, CHANGE)
    for b, m in np.ndindex(B, M):
        c, found = closes[b], chunks[b, m].astype(float)
        if c < delay[b, m]:
            continue  # it closes with what is given
        closed = found[:, 2] > 0.5
        at = int(closed.argmax()) if closed.any() else horizon
        assert at >= c and closed[at:].all()
        asked = np.insert(labels[b], c, np.zeros((at - c, A)), axis=0)[:horizon]
        behind = np.abs(np.cumsum(found - asked, axis=0)[:, :2]).max(axis=1)
        if at < horizon:
            assert (behind[at - 1 - (SETTLE if at > c else 0) :] <= COUNTS * reach + 1e-5).all()
        if at > c:
            counted = behind[: at - SETTLE - 1]
            assert (counted > COUNTS * reach - 1e-5).any() or len(counted) <= delay[b, m], "it waited for nothing"


def test_an_arm_that_was_pushed_makes_up_for_it_settles_and_closes() -> None:
    labels = np.zeros((1, 10, 2), np.float32)
    labels[0, :, 0] = [0.05, 0.05, 0.01, 0, 0, 0, 0.05, 0.05, 0, 0]
    labels[0, 3:, 1] = 1
    pushed = np.full((1, 1, 10, 2), [-0.02, 0.0])
    found = begin(
        labels, labels, np.array([[2]]), pushed, np.array([0.05, 1]), np.array([True, False]), np.array([0, 0.1])
    )[0, 0]
    np.testing.assert_allclose(found[:, 0], [0.03, 0.03, 0.034, 0.016, 0, 0, 0, 0, 0, 0.05], atol=1e-6)
    np.testing.assert_array_equal(found[:, 1], [0, 0, 0, 0, 0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize(("opened", "closed"), [(0.0, 1.0), (0.08, 0.045), (0.5, 1.0), (-1.0, 1.0)])
def test_a_gripper_waits_in_whatever_numbers_it_is_told(opened: float, closed: float) -> None:
    labels = np.zeros((1, 10, 2), np.float32)
    labels[0, :, 1] = [opened] * 3 + [closed] * 7
    pushed, change = np.full((1, 1, 10, 2), [-0.06, 0.0]), np.array([0, 0.2 * labels[..., 1].std()])
    reach = np.abs(labels).max(axis=(0, 1)) + [0.05, 0]
    found = begin(labels, labels, np.array([[1]]), pushed, reach, np.array([True, False]), change)[0, 0]
    np.testing.assert_allclose(found[:, 1], [opened] * 6 + [closed] * 4)


def test_without_a_push_it_is_what_was_executed_and_then_the_labels() -> None:
    labels, executed, delay, push = case(0)
    chunks = begin(labels, executed, delay, 0 * push, np.full(A, 0.1), DISPLACED, CHANGE)
    for b, m in np.ndindex(B, M):
        np.testing.assert_array_equal(chunks[b, m], np.r_[executed[b, : delay[b, m]], labels[b, delay[b, m] :]])


def test_what_is_given_is_executed_and_pushed() -> None:
    labels, executed, delay, push = case(1)
    chunks = begin(labels, executed, delay, push, np.full(A, 100.0), DISPLACED, CHANGE)
    for b, m in np.ndindex(B, M):
        d = delay[b, m]
        np.testing.assert_allclose(chunks[b, m, :d], executed[b, :d] + push[b, m, :d], rtol=1e-5, atol=1e-6)
        owed = push[b, m, :d].sum(axis=0)
        made = HASTE * (1 - HASTE) ** np.arange(H - d)[:, None] * owed
        np.testing.assert_allclose(chunks[b, m, d:], labels[b, d:] - made, rtol=1e-5, atol=1e-5)


def test_a_push_is_noise_or_stops_the_robot_and_is_drawn_alike_in_parts() -> None:
    executed, unit = np.random.default_rng(0).normal(size=(2_000, H, A)) + 3, np.array([0.5, 2.0, 0.0])

    def pushed(part: int, parts: int) -> np.ndarray:
        ours = slice(part, None, parts)
        return push(executed[ours], unit, np.random.default_rng(1), (len(executed), M), ours)

    whole = pushed(0, 1)
    assert whole.shape == (len(executed), M, H, A) and not whole[..., 2].any()
    np.testing.assert_array_equal(whole[1::2], pushed(1, 2))
    left = (np.abs(executed[:, None] + whole) / np.where(unit > 0, unit, np.inf)).max(axis=(2, 3))  # [B, M]
    still = left < 0.2
    assert abs(still.mean() - STILL) < 0.02
    noise = (whole / np.where(unit > 0, unit, np.inf))[~still][..., :2]
    np.testing.assert_allclose(noise.std(), DISTURBED / np.sqrt(3), rtol=0.05)  # of sizes from 0 to DISTURBED
    assert abs(noise.mean()) < 0.02
