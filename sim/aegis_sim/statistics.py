"""Intervals for rates: how much a success rate over a few dozen episodes really says."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

Z_95 = 1.959963984540054  # the 97.5% quantile of the standard normal distribution: a two-sided 95% interval


@dataclass(frozen=True)
class Rate:
    """A share of n trials with its 95% interval; `rate` is None, and the interval [0, 1], where nothing was tried."""

    rate: float | None
    n: int
    low: float
    high: float

    def to_dict(self) -> dict[str, float | int | None]:
        return asdict(self)

    def __str__(self) -> str:
        """For people: `0.85 [0.77, 0.91], n = 100`."""
        if self.rate is None:
            return "none tried"
        return f"{self.rate:.2f} [{self.low:.2f}, {self.high:.2f}], n = {self.n}"


def wilson(successes: int, n: int, z: float = Z_95) -> Rate:
    """The Wilson score interval of `successes` out of `n` independent trials.

    The set of p that a score test would not reject: |p_hat - p| <= z sqrt(p (1 - p) / n), solved for p:
        (p_hat + z^2 / 2n  ±  z sqrt(p_hat (1 - p_hat) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    (E. B. Wilson, JASA 22, 1927; recommended for small n by Brown, Cai and DasGupta, Statistical Science 16, 2001.)
    Unlike the normal approximation it stays inside [0, 1] and keeps a width at 0 and at n successes.

    Raises:
        ValueError: fewer than 0 or more than n successes.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n} trials: expected 0 <= successes <= n")
    if n == 0:
        return Rate(rate=None, n=0, low=0.0, high=1.0)
    share = successes / n
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # At both ends the formula gives 0 and 1 exactly; in floating point it is off by a rounding error.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return Rate(rate=share, n=n, low=low, high=high)


def rate_of(outcomes: Iterable[bool]) -> Rate:
    """The rate of True among `outcomes`, with its 95% Wilson interval."""
    trials = [bool(outcome) for outcome in outcomes]
    return wilson(sum(trials), len(trials))
