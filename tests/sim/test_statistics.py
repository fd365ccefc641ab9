"""The statistics against SciPy's own, at their ends, and as properties that hold for any count or path."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import make_interp_spline
from scipy.stats import binomtest

from aegis_sim.statistics import Spread, mcnemar, rate_of, rate_of_groups, rms_jerk, spread_of, wilson

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


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_equals_the_exact_binomial_test(first, second):
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first) <= 1


def test_mcnemar_golden_values():
    """By hand: 2 (1 + 6) / 2^6; a draw; no pair that differs."""
    assert (mcnemar(1, 5), mcnemar(3, 3), mcnemar(0, 0)) == (14 / 64, 1.0, 1.0)
    with pytest.raises(ValueError, match="counts"):
        mcnemar(-1, 2)


values = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50)


@given(values)
def test_a_spread_is_the_standard_librarys_quartiles(measured):
    low, middle, high = statistics.quantiles(measured, n=4, method="inclusive")
    found = spread_of(measured)
    assert found.n == len(measured)
    assert (found.q25, found.median, found.q75) == pytest.approx((low, middle, high), abs=1e-6)


def test_a_spread_of_nothing_says_so():
    assert spread_of([]) == Spread(0, None, None, None) and str(spread_of([])) == "none measured"
    assert str(spread_of(iter([1.0, 2.0, 4.0]))) == "2 [1.5, 3], n = 3"


coefficients = st.lists(st.floats(-2, 2), min_size=12, max_size=12).map(lambda c: np.reshape(c, (4, 3)))


@given(coefficients, st.integers(4, 60), st.sampled_from([10.0, 20.0]))
def test_a_cubic_path_has_the_jerk_of_its_third_derivative(cubic, samples, rate):
    """SciPy's spline through the samples of a cubic is that cubic, and says what its third derivative is."""
    times = np.arange(samples) / rate
    path = sum(c * times[:, None] ** power for power, c in enumerate(cubic))
    third = make_interp_spline(times, path, k=3).derivative(3)(times[len(times) // 2])
    assert rms_jerk(path, rate) == pytest.approx(np.linalg.norm(third), abs=1e-4 * rate**3 / 1000)
    assert np.linalg.norm(third) == pytest.approx(6 * np.linalg.norm(cubic[3]), abs=1e-2)


@given(st.integers(0, 2**32 - 1), st.integers(4, 40), st.floats(0.5, 3))
def test_jerk_scales_as_metres_per_cubed_second(seed, samples, factor):
    path = np.random.default_rng(seed).normal(size=(samples, 3))
    jerk = rms_jerk(path, 10.0)
    assert rms_jerk(factor * path + 5.0, 10.0) == pytest.approx(factor * jerk)
    assert rms_jerk(path, 10.0 * factor) == pytest.approx(factor**3 * jerk)
    assert rms_jerk(path[::-1], 10.0) == pytest.approx(jerk)
    assert rms_jerk(path[:3], 10.0) is None


def test_stopping_at_a_width_of_a_fifth_hardly_biases_the_interval():
    """Exactly, by counting all ways to stop: the interval covers at least 92%, the rate is off by 0.02 at most."""
    true = np.arange(0.02, 1.0, 0.04)
    covered, expected = np.zeros(len(true)), np.zeros(len(true))
    going, n = {0: np.ones(len(true))}, 0  # successes so far -> probability, for each true rate
    while going:
        n += 1
        after: dict[int, np.ndarray] = {}
        for successes, weight in going.items():
            after[successes] = after.get(successes, 0) + weight * (1 - true)
            after[successes + 1] = after.get(successes + 1, 0) + weight * true
        stops = {successes for successes in after if wilson(successes, n).width < 0.2}
        for successes in stops:
            found = wilson(successes, n)
            covered += after[successes] * ((found.low <= true) & (true <= found.high))
            expected += after[successes] * found.rate
        going = {successes: weight for successes, weight in after.items() if successes not in stops}
    assert covered.min() > 0.92 and covered.mean() > 0.95
    assert np.abs(expected - true).max() < 0.02


@given(st.lists(st.lists(st.booleans(), max_size=9), max_size=30))
def test_what_hangs_together_is_worth_no_more_than_what_does_not(groups):
    whole, ours = rate_of(one for group in groups for one in group), rate_of_groups(groups)
    assert (ours.rate, ours.n) == (whole.rate, whole.n)
    assert ours.low <= whole.low + 1e-12 and whole.high <= ours.high + 1e-12 and 0 <= ours.low <= ours.high <= 1


def test_groups_of_one_mind_are_worth_one_each():
    groups = [[right] * 8 for right in [True] * 30 + [False] * 10]
    ours, each = rate_of_groups(groups), wilson(30, 40)
    assert ours.rate == each.rate and ours.n == 320
    assert (ours.low, ours.high) == pytest.approx((each.low, each.high), abs=0.01)


def test_the_interval_of_groups_holds_the_truth_as_often_as_it_says():
    """Scenes of which some are hard: eight questions each, answered with the scene's own probability."""
    rng, hit, alone = np.random.default_rng(0), 0, 0
    for _ in range(1_000):
        chance = rng.beta(4, 1, 100)[:, None]  # mean .8
        groups = rng.random((100, 8)) < chance
        ours, naive = rate_of_groups(groups), rate_of(groups.ravel())
        hit, alone = hit + (ours.low <= 0.8 <= ours.high), alone + (naive.low <= 0.8 <= naive.high)
    assert 930 <= hit <= 970 and alone < 900
