"""Normalisation of states and actions, kept in openpi's norm_stats.json.

{"norm_stats": {"state": {"mean", "std", "q01", "q99", "normalization"}, "actions": {...}}}

with one number per dimension. `normalization` is ours: openpi keeps it in its training configuration.

mean-std     mean -> 0, standard deviation -> 1; also meant where a file says nothing
quantiles    1% quantile -> -1, 99% quantile -> 1: a few outliers do not squeeze the rest together
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from aegis_policy.policy import Feature

log = logging.getLogger(__name__)

FILE = "norm_stats.json"
SMALLEST_STD = 1e-3
"""In SI units: 1 mm, 1 mrad. What moves less is noise, and dividing by its spread would blow it up."""

Normalization = Literal["mean-std", "quantiles"]
_NUMBERS = ("mean", "std", "q01", "q99")


@dataclass(frozen=True)
class Moments:
    """Mean, standard deviation, 1% and 99% quantile of each of D dimensions, float64 [D], and which normalise."""

    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray
    q99: np.ndarray
    normalization: Normalization = "mean-std"

    @classmethod
    def of(cls, values: np.ndarray, features: Sequence[Feature], normalization: Normalization = "mean-std") -> Moments:
        """Statistics of `values` [N, D]; what would be divided by less than SMALLEST_STD is named in a warning.

        A deviation below SMALLEST_STD is raised to it.
        """
        values = np.asarray(values, np.float64)
        q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
        std = values.std(axis=0)
        moments = cls(values.mean(axis=0), np.maximum(std, SMALLEST_STD), q01, q99, normalization)
        spreads, what = std, "a standard deviation"
        if normalization == "quantiles":
            spreads, what = (q99 - q01) / 2, "half a range from the 1% to the 99% quantile"
        for feature, spread, scale in zip(features, spreads, moments.scale, strict=True):
            if spread < SMALLEST_STD:
                log.warning(
                    "'%s' hardly varies in this data: %s of %.2g %s, taken as %.2g",
                    *(feature.name, what, spread, feature.unit, scale),
                )
        return moments

    @property
    def center(self) -> np.ndarray:
        """What becomes 0, [D]."""
        return self.mean if self.normalization == "mean-std" else (self.q01 + self.q99) / 2

    @property
    def scale(self) -> np.ndarray:
        """What becomes 1 more than that, [D].

        By quantiles, a dimension between which there is next to nothing, such as a gripper that closes in one step of
        a thousand, is divided by its standard deviation: by the quantiles, those steps would be blown up.
        """
        if self.normalization == "mean-std":
            return self.std
        half = (self.q99 - self.q01) / 2
        return np.where(half < SMALLEST_STD, self.std, half)

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """[..., D] in SI units -> the numbers that a model sees, of the same dtype."""
        return (values - self.center.astype(values.dtype)) / self.scale.astype(values.dtype)

    def unnormalize(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `normalize`."""
        return values * self.scale.astype(values.dtype) + self.center.astype(values.dtype)

    def outside(self, other: Moments) -> np.ndarray:
        """Where, as bool [D], most of `other`'s data lies more than 3 deviations away, or spreads 5 times as wide."""
        return (np.abs(other.mean - self.mean) > 3 * self.std) | (other.std > 5 * self.std)


@dataclass(frozen=True)
class NormStats:
    """Statistics of a policy's states [S] and actions [A]."""

    state: Moments
    actions: Moments

    def to_dict(self) -> dict[str, Any]:
        """What norm_stats.json holds under "norm_stats"."""
        return {
            kind: {name: getattr(moments, name).tolist() for name in _NUMBERS}
            | {"normalization": moments.normalization}
            for kind, moments in (("state", self.state), ("actions", self.actions))
        }

    @classmethod
    def from_dict(cls, stats: Mapping[str, Any], path: Path) -> NormStats:
        """The inverse of `to_dict`; `path` is where they were found, for errors.

        Raises:
            KeyError, TypeError: a part is missing, or is no number.
            ValueError: what cannot normalise.
        """
        return cls(_moments(stats["state"], "state", path), _moments(stats["actions"], "actions", path))

    def check(self, state: int, actions: int, where: str | Path) -> None:
        """Raise ValueError unless they are of so many numbers: one alone would stand for all of them."""
        for kind, moments, width in (("state", self.state, state), ("actions", self.actions, actions)):
            if len(moments.mean) != width:
                raise ValueError(
                    f"{where}: normalisation of {len(moments.mean)} numbers of {kind}, and the policy has {width}: it "
                    "is another's"
                )

    def save(self, folder: str | Path) -> None:
        """Write `folder`/norm_stats.json."""
        Path(folder, FILE).write_text(json.dumps({"norm_stats": self.to_dict()}, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> NormStats:
        """Read `folder`/norm_stats.json.

        Raises:
            ValueError: the file lacks a part, or holds what cannot normalise; says which.
        """
        path = Path(folder, FILE)
        try:
            return cls.from_dict(json.loads(path.read_text())["norm_stats"], path)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not in openpi's norm_stats.json form: {error!r}") from error


def _moments(stats: dict[str, Any], kind: str, path: Path) -> Moments:
    arrays = {name: np.asarray(stats[name], np.float64) for name in _NUMBERS}
    shape = arrays["mean"].shape
    for name, values in arrays.items():
        if values.ndim != 1 or values.shape != shape:
            raise ValueError(f"{path}: {kind}.{name} has shape {list(values.shape)}, mean has {list(shape)}")
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {kind}.{name}[{int(np.argmin(np.isfinite(values)))}] is not a finite number")
    if (arrays["std"] <= 0).any():
        raise ValueError(f"{path}: {kind}.std[{int(np.argmin(arrays['std']))}] is not positive")
    if (inverted := arrays["q99"] < arrays["q01"]).any():
        raise ValueError(f"{path}: {kind}.q99[{int(np.argmax(inverted))}] is below q01")
    normalization = stats.get("normalization", "mean-std")  # files from before there was a choice do not say
    if normalization not in get_args(Normalization):
        known = " and ".join(get_args(Normalization))
        raise ValueError(f"{path}: {kind}.normalization is {normalization!r}; this reads {known}")
    return Moments(**arrays, normalization=normalization)
