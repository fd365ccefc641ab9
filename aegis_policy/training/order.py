"""Which rows of the data sets a step sees: a function of the seed and the step alone, so that a run can be resumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Order:
    """Pass after pass over the rows of some data sets, shuffled.

    A pass has as many rows as there are in all. Without weights it has every row once. With weights it has of each data
    set the share that its weight gives it, to rounding; the rows of one come in shuffled passes of their own, so that
    they are seen equally often, however large or small their share is.

    Args:
        sizes: rows of each of K data sets, which follow one another: the second begins where the first ends.
        weights: of each of them, positive, in any unit; none for every row once.
        seed: of all shuffling.

    Raises:
        ValueError: a weight is so small that its data set would have no row in a pass.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int):
        self.length, self._seed = sum(sizes), seed
        self._sizes, self._starts = sizes, np.cumsum([0, *sizes[:-1]])
        self._shares = apportion(self.length, weights) if weights else None
        if self._shares is not None and not self._shares.all():
            number = int(np.argmin(self._shares))
            raise ValueError(
                f"--dataset-weights: {weights[number]:g} gives data set {number + 1} less than one of the "
                f"{self.length} samples of a pass; raise it, or leave the data set out"
            )
        self._last: tuple[int, np.ndarray] | None = None

    def rows(self, step: int, count: int) -> np.ndarray:
        """The rows of a step, int [count], when every step takes as many."""
        passes, offsets = np.divmod(step * count + np.arange(count), self.length)
        return np.array([self._pass(int(number))[offset] for number, offset in zip(passes, offsets, strict=True)])

    def _pass(self, number: int) -> np.ndarray:
        if self._last is None or self._last[0] != number:
            rng = np.random.default_rng([self._seed, number])
            self._last = number, rng.permutation(self.length if self._shares is None else self._mixture(number))
        return self._last[1]

    def _mixture(self, number: int) -> np.ndarray:
        """The rows of a pass, data set by data set."""
        assert self._shares is not None
        return np.concatenate([self._of(i, number * int(share), int(share)) for i, share in enumerate(self._shares)])

    def _of(self, dataset: int, first: int, count: int) -> np.ndarray:
        """`count` rows of one data set, from the place `first` of its own passes on."""
        passes, offsets = np.divmod(first + np.arange(count), self._sizes[dataset])
        rows = np.empty(count, int)
        for number in np.unique(passes):
            order = np.random.default_rng([self._seed, number, dataset + 1]).permutation(self._sizes[dataset])
            rows[passes == number] = order[offsets[passes == number]]
        return self._starts[dataset] + rows


def apportion(total: int, weights: Sequence[float]) -> np.ndarray:
    """`total` in whole parts, in proportion to K weights: the largest remainders are rounded up, int [K]."""
    shares = np.asarray(weights, float) / max(weights)
    exact = total * shares / shares.sum()
    whole = np.floor(exact).astype(int)
    whole[np.argsort(whole - exact, kind="stable")[: total - whole.sum()]] += 1
    return whole
