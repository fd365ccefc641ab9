"""A seed means the same noise with torch and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aegis_policy.inference.noise import randn

SEEDS = (0, 1, 2**31 + 5, 2**32 - 1, 2**40 + 9)
SHAPES = ((10, 7), (16, 32), (3, 7), (4, 4), (5, 3), (1, 1), (2, 7))
"""Whole blocks of 16, blocks and a rest, and fewer than a block, even and odd."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_torchs_numbers(seed: int, shape: tuple[int, int]) -> None:
    theirs = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()
    ours = randn(seed, *shape)
    assert ours.dtype == np.float32 and ours.shape == shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_no_seed_is_a_fresh_one() -> None:
    first, second = (randn(None, 10, 7) for _ in range(2))
    assert np.abs(first - second).max() > 0.1
    assert np.abs(np.concatenate([randn(None, 100, 10) for _ in range(10)]).std() - 1) < 0.1
