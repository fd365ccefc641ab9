from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from aegis_policy import Feature
from aegis_policy.data.normalize import SMALLEST_STD, Moments, NormStats

FEATURES = (Feature("x", "m"), Feature("yaw", "rad"))


def moments(rng_seed: int = 0, std: tuple[float, float] = (0.2, 2.0)) -> Moments:
    rng = np.random.default_rng(rng_seed)
    return Moments.of(rng.normal((1.0, -3.0), std, size=(5000, 2)), FEATURES)


def test_normalised_data_has_mean_0_and_deviation_1_and_comes_back():
    values = np.random.default_rng(1).normal((1.0, -3.0), (0.2, 2.0), size=(5000, 2)).astype(np.float32)
    stats = Moments.of(values, FEATURES)
    normal = stats.normalize(values)
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std(0), 1, atol=1e-4)
    np.testing.assert_allclose(stats.unnormalize(normal), values, atol=1e-5)
    assert ((values < stats.q01).mean(0) < 0.0105).all() and ((values > stats.q99).mean(0) < 0.0105).all()


def test_torch_and_numpy_agree_in_chunks_too():
    values = np.random.default_rng(2).normal(size=(3, 4, 2)).astype(np.float32)
    stats = moments()
    tensor = stats.normalize(torch.tensor(values))
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), stats.normalize(values), rtol=1e-5)
    np.testing.assert_allclose(stats.unnormalize(tensor).numpy(), values, rtol=1e-4, atol=1e-5)


def test_a_near_constant_dimension_is_clamped_and_named(caplog):
    values = np.random.default_rng(3).normal(0, (0.3, 1e-6), size=(100, 2))
    with caplog.at_level(logging.WARNING):
        stats = Moments.of(values, FEATURES)
    assert "'yaw'" in caplog.text and "'x'" not in caplog.text
    assert stats.std[1] == SMALLEST_STD
    assert np.abs(stats.normalize(values)[:, 1]).max() < 0.1


def test_file_is_openpis(tmp_path):
    stats = NormStats(moments(0), moments(1))
    stats.save(tmp_path)
    content = json.loads((tmp_path / "norm_stats.json").read_text())
    assert list(content) == ["norm_stats"] and set(content["norm_stats"]) == {"state", "actions"}
    assert set(content["norm_stats"]["actions"]) == {"mean", "std", "q01", "q99"}
    loaded = NormStats.load(tmp_path)
    for kind in ("state", "actions"):
        for name in ("mean", "std", "q01", "q99"):
            np.testing.assert_array_equal(getattr(getattr(loaded, kind), name), getattr(getattr(stats, kind), name))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda stats: stats["actions"].pop("std"), "std"),
        (lambda stats: stats["state"]["mean"].append(0.0), r"state\.std has shape \[2\], mean has \[3\]"),
        (lambda stats: stats["state"]["q01"].__setitem__(1, float("nan")), r"state\.q01\[1\] is not a finite"),
        (lambda stats: stats["actions"]["std"].__setitem__(0, 0.0), r"actions\.std\[0\] is not positive"),
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
