"""Who sees whom, for any number of samples, horizon and padding."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_policy.model.masks import additive, positions, prefix_mask, suffix_mask

VALID = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=3)
)


@settings(max_examples=60)
@given(rows=VALID, samples=st.integers(1, 4), horizon=st.integers(1, 5))
def test_suffix(rows: list[list[bool]], samples: int, horizon: int) -> None:
    valid = torch.tensor(rows)
    batch, length = valid.shape
    mask = suffix_mask(valid, samples, horizon)
    n = samples * (1 + horizon)
    assert mask.shape == (batch, n, length + n)
    for row in range(batch):
        for query in range(n):
            sample, place = divmod(query, 1 + horizon)
            own = [0] if place == 0 else list(range(1 + horizon))
            sees = {length + sample * (1 + horizon) + key for key in own}
            sees |= {key for key in range(length) if rows[row][key]}
            assert set(mask[row, query].nonzero().flatten().tolist()) == sees


@given(rows=VALID)
def test_prefix_and_positions(rows: list[list[bool]]) -> None:
    valid = torch.tensor(rows)
    mask, place = prefix_mask(valid), positions(valid)
    assert mask.shape == (*valid.shape, valid.shape[1])
    assert (mask == valid[:, None, :]).all()
    for row, seen in zip(place, valid, strict=True):
        assert row[seen].tolist() == list(range(1, int(seen.sum()) + 1))
        assert (row >= 1).all()


def test_additive_mask_hides_exactly_what_is_not_allowed() -> None:
    allowed = torch.tensor([[[True, False], [True, True]]])
    for dtype in (torch.float32, torch.bfloat16):
        masks = additive(allowed, dtype)
        assert set(masks) == {"full_attention", "sliding_attention"}
        for mask in masks.values():
            assert mask.dtype == dtype and mask.shape == (1, 1, 2, 2)
            assert torch.equal(mask[:, 0] == 0, allowed)
            assert mask[0, 0, 0, 1] == torch.finfo(dtype).min
