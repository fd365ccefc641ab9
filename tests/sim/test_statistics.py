"""The Wilson interval against SciPy's own, at its ends, and as properties that hold for any count."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from aegis_sim.statistics import rate_of, wilson

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_wilson_equals_scipy(count):
    successes, n = count
    expected = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    ours = wilson(successes, n)
    assert ours.rate == successes / n
    assert ours.low == pytest.approx(expected.low, abs=1e-12)
    assert ours.high == pytest.approx(expected.high, abs=1e-12)


def test_wilson_golden_values():
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    golden = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (successes, n), (low, high) in golden.items():
        ours = wilson(successes, n)
        assert (round(ours.low, 4), round(ours.high, 4)) == (low, high)


@given(counts)
def test_interval_holds_the_rate_and_mirrors(count):
    successes, n = count
    ours, mirrored = wilson(successes, n), wilson(n - successes, n)
    assert 0 <= ours.low <= ours.rate <= ours.high <= 1
    assert ours.low < ours.high
    assert mirrored.low == pytest.approx(1 - ours.high, abs=1e-12)


@given(counts, st.integers(2, 10))
def test_more_trials_narrow_the_interval(count, times):
    successes, n = count
    few, many = wilson(successes, n), wilson(successes * times, n * times)
    assert many.high - many.low < few.high - few.low


def test_nothing_tried_says_nothing():
    nothing = wilson(0, 0)
    assert (nothing.rate, nothing.low, nothing.high) == (None, 0.0, 1.0)
    assert json.loads(json.dumps(nothing.to_dict())) == {"rate": None, "n": 0, "low": 0.0, "high": 1.0}


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (1, 0)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, n)


def test_rate_of_counts_what_is_true():
    assert rate_of([True, False, True, True]) == wilson(3, 4)
    assert str(rate_of([True] * 3 + [False])) == "0.75 [0.30, 0.95], n = 4"
