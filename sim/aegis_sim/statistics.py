"""What a few dozen episodes really say: intervals for rates, spreads for measures, a test for pairs, and smoothness."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

Z_95 = 1.959963984540054  # the 97.5% quantile of the standard normal distribution: a two-sided 95% interval


@dataclass(frozen=True)
class Rate:
    """A share of n trials with its 95% interval; `rate` is None, and the interval [0, 1], where nothing was tried."""

    rate: float | None
    n: int
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

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
    return Rate(successes / n, n, *_interval(successes / n, n, z))


def _interval(share: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson's, of a share of n trials."""
    scale = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale
    # At both ends the formula gives 0 and 1 exactly; in floating point it is off by a rounding error.
    return (0.0 if share == 0 else middle - half), (1.0 if share == 1 else middle + half)


def rate_of_groups(groups: Iterable[Sequence[bool]]) -> Rate:
    """The rate over all outcomes, of which those in a group hang together, such as answers about one scene.

    Its interval is Wilson's of as many independent trials as these are worth, n / D with the design effect
    D = G / (G - 1) sum_g (sum_i (x_gi - p_hat))^2 / (n p_hat (1 - p_hat)), 1 at least, over G groups: what the variance
    of their mean is to that of independent ones (L. Kish, Survey Sampling, 1965; E. L. Korn and B. I. Graubard, Survey
    Methodology 24, 1998).
    """
    kept = [np.asarray(group, float) for group in groups if len(group)]
    n = sum(map(len, kept))
    found = wilson(round(sum(group.sum() for group in kept)), n)
    if len(kept) < 2 or found.rate in (None, 0.0, 1.0):
        return found
    share = float(found.rate)
    between = sum(float((group - share).sum()) ** 2 for group in kept) * len(kept) / (len(kept) - 1)
    effect = max(between / (n * share * (1 - share)), 1.0)
    return Rate(share, n, *_interval(share, n / effect))


def rate_of(outcomes: Iterable[bool]) -> Rate:
    """The rate of True among `outcomes`, with its 95% Wilson interval."""
    trials = [bool(outcome) for outcome in outcomes]
    return wilson(sum(trials), len(trials))


@dataclass(frozen=True)
class Spread:
    """n measured values by their quantiles; all of them None where nothing was measured."""

    n: int
    q25: float | None
    median: float | None
    q75: float | None

    def to_dict(self) -> dict[str, float | int | None]:
        return asdict(self)

    def __str__(self) -> str:
        """For people: `2.4 [1.9, 3.1], n = 100`."""
        if self.median is None:
            return "none measured"
        return f"{self.median:.3g} [{self.q25:.3g}, {self.q75:.3g}], n = {self.n}"


def three_digits(value: float) -> str:
    """A measure for people: rounded to three significant digits, `1450` and not `1.45e+03`."""
    return f"{float(f'{value:.3g}'):g}"


def quantiles(values: Iterable[float], at: tuple[float, ...]) -> list[float | None]:
    """Quantiles of `values`, with straight lines between them (Hyndman and Fan's type 7); None where there are none."""
    measured = list(values)
    return [float(found) for found in np.quantile(measured, at)] if measured else [None] * len(at)


def spread_of(values: Iterable[float]) -> Spread:
    """The median of `values` and the quartiles around it."""
    measured = list(values)
    return Spread(len(measured), *quantiles(measured, (0.25, 0.5, 0.75)))


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact p-value, two-sided, of as lopsided a split of the discordant pairs, or a more lopsided one.

    Two policies run the same episodes. Where both succeed or both fail, the pair says nothing about which is better; if
    neither is, each other pair falls to either side like a fair coin: with b and c of them,
        p = min(1, 2 P(X <= min(b, c))),  X ~ Binomial(b + c, 1/2)
    (Q. McNemar, Psychometrika 12, 1947, with the binomial in place of its chi-squared approximation, which needs more
    discordant pairs than an evaluation has.) 1 where there is no such pair.

    Args:
        only_first: b, episodes where the first alone succeeded.
        only_second: c, where the second alone did.

    Raises:
        ValueError: a negative count.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"{only_first} and {only_second} discordant pairs: expected counts")
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)


def rms_jerk(positions: np.ndarray, rate: float) -> float | None:
    """How jerkily a point moved: the root mean square of the jerk's length over its path, m/s^3.

    Jerk, the third derivative of position, is what smooth human reaching keeps least (T. Flash and N. Hogan, Journal of
    Neuroscience 5, 1985). Here it is the third difference of the measured positions times `rate`^3. As a root mean
    square it does not grow with an episode's length by itself, but it does with speed: compare it at equal tasks
    (N. Hogan and D. Sternad, Journal of Motor Behavior 41, 2009).

    Args:
        positions: [T, 3], m.
        rate: of the measurements, Hz.

    Returns:
        None for fewer than four positions, which have no third difference.
    """
    if len(positions) < 4:
        return None
    jerk = np.diff(np.asarray(positions, np.float64), n=3, axis=0) * rate**3  # (T - 3, 3)
    return float(np.sqrt(np.square(jerk).sum(axis=1).mean()))
