from __future__ import annotations

import json
import logging
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aegis_policy import Feature
from aegis_policy.data.normalize import SMALLEST_STD, Moments, Normalization, NormStats

FEATURES = (Feature("x", "m"), Feature("yaw", "rad"))


def moments(
    rng_seed: int = 0, std: tuple[float, float] = (0.2, 2.0), normalization: Normalization = "mean-std"
) -> Moments:
    rng = np.random.default_rng(rng_seed)
    return Moments.of(rng.normal((1.0, -3.0), std, size=(5000, 2)), FEATURES, normalization)


def test_normalised_data_has_mean_0_and_deviation_1_and_comes_back():
    values = np.random.default_rng(1).normal((1.0, -3.0), (0.2, 2.0), size=(5000, 2)).astype(np.float32)
    stats = Moments.of(values, FEATURES)
    normal = stats.normalize(values)
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std(0), 1, atol=1e-4)
    np.testing.assert_allclose(stats.unnormalize(normal), values, atol=1e-5)
    assert ((values < stats.q01).mean(0) < 0.0105).all() and ((values > stats.q99).mean(0) < 0.0105).all()


def test_by_quantiles_1_and_99_percent_become_minus_1_and_1_and_outliers_do_not_matter():
    values = np.random.default_rng(1).normal((1.0, -3.0), (0.2, 2.0), size=(5000, 2))
    values[:10] = 1e6
    stats = Moments.of(values, FEATURES, "quantiles")
    np.testing.assert_allclose(np.quantile(stats.normalize(values), [0.01, 0.99], axis=0), [[-1, -1], [1, 1]])
    np.testing.assert_allclose(stats.normalize(values[10:]).std(0), 1 / 2.326, rtol=0.1)
    np.testing.assert_allclose(stats.unnormalize(stats.normalize(values)), values)


@given(
    values=arrays(np.float64, st.tuples(st.integers(1, 40), st.just(2)), elements=st.floats(-1e3, 1e3, width=32)),
    normalization=st.sampled_from(get_args(Normalization)),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_whatever_is_normalised_comes_back(values, normalization, dtype):
    stats = Moments.of(values, FEATURES, normalization)
    normal = stats.normalize(values.astype(dtype))
    assert normal.dtype == dtype and np.isfinite(normal).all() and (stats.scale >= SMALLEST_STD).all()
    # rounding: of a number as large as the data, and of one as many spreads away
    within = 4 * np.finfo(dtype).eps * (np.abs(values).max(0) + np.abs(stats.center) + stats.scale)
    assert (np.abs(stats.unnormalize(normal) - values) <= within).all()


def test_chunks_are_normalised_number_by_number():
    values = np.random.default_rng(2).normal(size=(3, 4, 2)).astype(np.float32)
    for normalization in get_args(Normalization):
        stats = moments(normalization=normalization)
        np.testing.assert_array_equal(stats.normalize(values)[1, 2], stats.normalize(values[1, 2]))


def test_a_near_constant_dimension_is_clamped_and_named(caplog):
    values = np.random.default_rng(3).normal(0, (0.3, 1e-6), size=(100, 2))
    with caplog.at_level(logging.WARNING):
        stats = Moments.of(values, FEATURES)
    assert "'yaw'" in caplog.text and "'x'" not in caplog.text
    assert stats.std[1] == SMALLEST_STD
    assert np.abs(stats.normalize(values)[:, 1]).max() < 0.1


def test_by_quantiles_what_they_do_not_see_is_divided_by_its_deviation(caplog):
    rng = np.random.default_rng(3)
    values = rng.normal(0, (0.3, 1e-6), size=(1000, 2))
    with caplog.at_level(logging.WARNING):
        stats = Moments.of(values, FEATURES, "quantiles")
    assert "'yaw' hardly varies in this data: half a range from the 1% to the 99% quantile" in caplog.text
    assert "'x'" not in caplog.text and stats.scale[1] == SMALLEST_STD
    assert np.abs(stats.normalize(values)[:, 1]).max() < 0.1
    values[::250, 1] = 1.0  # it does vary, in so few steps that no quantile shows it: they must not become thousands
    stats = Moments.of(values, FEATURES, "quantiles")
    assert stats.scale[1] == pytest.approx(values[:, 1].std())
    assert np.abs(stats.normalize(values)[:, 1]).max() < 20


def test_file_is_openpis(tmp_path):
    stats = NormStats(moments(0, normalization="quantiles"), moments(1))
    stats.save(tmp_path)
    content = json.loads((tmp_path / "norm_stats.json").read_text())
    assert list(content) == ["norm_stats"] and set(content["norm_stats"]) == {"state", "actions"}
    assert set(content["norm_stats"]["actions"]) == {"mean", "std", "q01", "q99", "normalization"}
    loaded = NormStats.load(tmp_path)
    assert (loaded.state.normalization, loaded.actions.normalization) == ("quantiles", "mean-std")
    for kind in ("state", "actions"):
        for name in ("mean", "std", "q01", "q99"):
            np.testing.assert_array_equal(getattr(getattr(loaded, kind), name), getattr(getattr(stats, kind), name))


def test_a_file_from_before_there_was_a_choice_means_mean_and_deviation(tmp_path):
    stats = NormStats(moments(0), moments(1))
    stats.save(tmp_path)
    path = tmp_path / "norm_stats.json"
    content = json.loads(path.read_text())
    for part in content["norm_stats"].values():
        del part["normalization"]
    path.write_text(json.dumps(content))
    values = np.random.default_rng(4).normal(size=(9, 2))
    np.testing.assert_array_equal(NormStats.load(tmp_path).state.normalize(values), stats.state.normalize(values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda stats: stats["actions"].pop("std"), "std"),
        (lambda stats: stats["state"]["mean"].append(0.0), r"state\.std has shape \[2\], mean has \[3\]"),
        (lambda stats: stats["state"]["q01"].__setitem__(1, float("nan")), r"state\.q01\[1\] is not a finite"),
        (lambda stats: stats["actions"]["std"].__setitem__(0, 0.0), r"actions\.std\[0\] is not positive"),
        (lambda stats: stats["state"]["q99"].__setitem__(1, -99.0), r"state\.q99\[1\] is below q01"),
        (lambda stats: stats["state"].update(normalization="min-max"), r"state\.normalization is 'min-max'; this"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, damage, message):
    NormStats(moments(0), moments(1)).save(tmp_path)
    path = tmp_path / "norm_stats.json"
    content = json.loads(path.read_text())
    damage(content["norm_stats"])
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        NormStats.load(tmp_path)
    assert str(path) in str(error.value)


def test_outside_names_data_from_elsewhere():
    same, moved, wide = moments(5), moments(6), moments(7, (0.2, 30.0))
    assert not same.outside(moved).any()
    assert same.outside(wide).tolist() == [False, True]
    elsewhere = Moments.of(np.random.default_rng(8).normal((3.0, -3.0), (0.2, 2.0), size=(100, 2)), FEATURES)
    assert same.outside(elsewhere).tolist() == [True, False]
