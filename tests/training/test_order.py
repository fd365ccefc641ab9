"""Which rows a step sees: as ever without weights, in the asked shares with them, always the same for seed and step."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_policy.training.order import Order, apportion

SIZES = (40, 7, 13)
WEIGHTS = (1.0, 2.0, 0.5)


def test_without_weights_the_order_is_the_one_that_runs_have_had():
    order = Order(SIZES, (), seed=3)
    expected = np.concatenate([np.random.default_rng([3, number]).permutation(60) for number in range(3)])
    np.testing.assert_array_equal(np.concatenate([order.rows(step, 8) for step in range(22)]), expected[: 22 * 8])


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_shares_hold_in_every_pass_and_all_rows_of_a_data_set_come_equally_often(sizes, seed, data):
    weights = data.draw(st.lists(st.floats(0.5, 2), min_size=len(sizes), max_size=len(sizes)))
    total, starts = sum(sizes), np.cumsum([0, *sizes])
    try:
        order = Order(sizes, weights, seed)
    except ValueError:
        assert not apportion(total, weights).all()
        return
    counts = np.zeros(total, int)
    for number in range(5):
        rows = order.rows(number, total)  # one step that is a whole pass
        seen = np.histogram(rows, starts)[0]
        assert (np.abs(seen - total * np.array(weights) / sum(weights)) < 1).all()
        counts += np.bincount(rows, minlength=total)
        for start, end in pairwise(starts):
            assert np.ptp(counts[start:end]) <= 1


def test_the_rows_of_a_step_do_not_depend_on_what_was_asked_before():
    first, again = Order(SIZES, WEIGHTS, 0), Order(SIZES, WEIGHTS, 0)
    for step in (30, 2):
        again.rows(step, 8)
    for step in range(12):
        np.testing.assert_array_equal(first.rows(step, 8), again.rows(step, 8))
    assert (first.rows(0, 60) != Order(SIZES, WEIGHTS, 1).rows(0, 60)).any()
    assert (first.rows(0, 60) != first.rows(1, 60)).any()


def test_what_a_small_share_leaves_out_is_another_part_each_time():
    order = Order((40, 20), (1, 2), seed=0)  # 20 of the first's 40 in a pass
    seen = [set(rows[rows < 40]) for rows in (order.rows(number, 60) for number in range(4))]
    assert [len(part) for part in seen] == [20] * 4 and not seen[0] & seen[1]
    assert seen[0] not in (seen[2], seen[3])


@given(total=st.integers(1, 10**6), weights=st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=6))
def test_apportioning_leaves_nothing_over(total, weights):
    shares = apportion(total, weights)
    assert shares.sum() == total and (shares >= 0).all()
    exact = total * (np.array(weights) / max(weights)) / (np.array(weights) / max(weights)).sum()
    assert (np.abs(shares - exact) < 1 + 1e-6).all()


def test_a_weight_that_would_never_be_seen_is_refused():
    with pytest.raises(ValueError, match=r"--dataset-weights: 0\.01 gives data set 2 less than one of the 60 samples"):
        Order(SIZES, (1, 0.01, 1), 0)
