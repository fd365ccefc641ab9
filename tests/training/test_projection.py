"""The algebra of the projection, on gradients of any shape and size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aegis_policy.training.projection import project

ROUNDING = 2.0**-23  # of a float32


@st.composite
def layers(draw: st.DrawFn) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Gradients of a layer with up to four parameters: task, anchor; of very different sizes, with zeros in them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=4))
    task_size, anchor_size = 10.0 ** draw(st.integers(-12, 6)), 10.0 ** draw(st.integers(-12, 6))
    zeros, shared = draw(st.sampled_from([0.0, 0.5])), draw(st.sampled_from([0.0, 1.0, -1.0, -100.0]))

    def gradient(shape: list[int], size: float, towards: np.ndarray | float) -> torch.Tensor:
        values = (rng.normal(size=shape) + towards) * (rng.random(shape) >= zeros) * size
        return torch.tensor(values.astype(np.float32))

    common = [rng.normal(size=shape) for shape in shapes]
    task = [gradient(shape, task_size, shared * part) for shape, part in zip(shapes, common, strict=True)]
    anchor = [gradient(shape, anchor_size, part) for shape, part in zip(shapes, common, strict=True)]
    return task, anchor


def vector(gradients: list[torch.Tensor]) -> np.ndarray:
    return np.concatenate([gradient.numpy().astype(np.float64).ravel() for gradient in gradients])


@given(layers())
def test_inner_product_is_never_negative_beyond_rounding(layer):
    task, anchor = layer
    after = vector(project(task, anchor).gradients)
    assert after @ vector(anchor) >= -ROUNDING * (np.abs(after) @ np.abs(vector(anchor)))


@given(layers())
def test_no_conflict_leaves_the_very_same_tensors(layer):
    task, anchor = layer
    result = project(task, anchor)
    if vector(task) @ vector(anchor) >= 0:
        assert not result.projected and result.shed == 0
        assert all(after is before for after, before in zip(result.gradients, task, strict=True))
    else:
        assert result.projected


@given(layers())
def test_norm_never_grows(layer):
    task, anchor = layer
    after = vector(project(task, anchor).gradients)
    assert np.linalg.norm(after) <= np.linalg.norm(vector(task)) * (1 + ROUNDING)


@given(layers())
def test_shed_energy_is_what_was_lost(layer):
    task, anchor = layer
    result = project(task, anchor)
    before, after = vector(task), vector(result.gradients)
    if before.any():
        assert result.shed == pytest.approx(1 - (after @ after) / (before @ before), abs=1e-6)
    assert 0 <= result.shed <= 1


@given(layers(), st.integers(0, 3))
def test_a_missing_gradient_is_a_zero(layer, which):
    task, anchor = layer
    which %= len(task)
    zeroed = [torch.zeros_like(g) if i == which else g for i, g in enumerate(task)]
    absent = [None if i == which else g for i, g in enumerate(task)]
    expected, got = project(zeroed, anchor), project(absent, anchor)
    assert (got.projected, got.shed) == (expected.projected, expected.shed)
    for a, b in zip(expected.gradients, got.gradients, strict=True):
        assert torch.equal(a, torch.zeros_like(a) if b is None else b)


def test_golden_case_by_hand():
    # <g, g_ot> = 3*(-1) + 4*0 + 1*1 = -2, ||g_ot||^2 = 2: g becomes (3, 4, 1) + (-1, 0, 1) = (2, 4, 2)
    result = project(
        [torch.tensor([3.0, 4.0]), torch.tensor([[1.0]])], [torch.tensor([-1.0, 0.0]), torch.tensor([[1.0]])]
    )
    assert [g.tolist() for g in result.gradients] == [[2.0, 4.0], [[2.0]]]
    assert result.projected and result.shed == pytest.approx(1 - 24 / 26)


def test_agrees_with_an_independent_computation():
    rng = np.random.default_rng(0)
    task, anchor = rng.normal(size=(2, 5000)).astype(np.float32)
    anchor -= 0.3 * task
    unit = anchor.astype(np.float64) / np.linalg.norm(anchor.astype(np.float64))
    expected = task - unit * min(0.0, float(unit @ task))
    result = project(list(torch.tensor(task).split([1000, 4000])), list(torch.tensor(anchor).split([1000, 4000])))
    assert result.projected
    np.testing.assert_allclose(vector(result.gradients), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [1e-30, 1e-38, 1e-44])
def test_no_epsilon_a_minute_anchor_gradient_counts_in_full(size):
    anchor = torch.tensor([size, 0.0])
    result = project([torch.tensor([-1.0, 1.0])], [anchor])
    assert result.projected and abs(result.gradients[0][0].item()) <= ROUNDING
    assert result.gradients[0][1].item() == 1


@pytest.mark.parametrize("anchor", [torch.zeros(3), None])
def test_a_zero_anchor_gradient_is_skipped(anchor):
    task = torch.tensor([1.0, -2.0, 3.0])
    result = project([task], [anchor])
    assert not result.projected and result.shed == 0 and result.gradients[0] is task
