"""Normalisation of states and actions, kept in openpi's norm_stats.json.

{"norm_stats": {"state": {"mean", "std", "q01", "q99"}, "actions": {...}}}

with one number per dimension.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from aegis_policy.policy import Feature

log = logging.getLogger(__name__)

FILE = "norm_stats.json"
SMALLEST_STD = 1e-3
"""In SI units: 1 mm, 1 mrad. What moves less is noise, and dividing by its spread would blow it up."""

Array = TypeVar("Array", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Moments:
    """Mean, standard deviation, 1% and 99% quantile of each of D dimensions, float64 [D]."""

    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray
    q99: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, features: Sequence[Feature]) -> Moments:
        """Statistics of `values` [N, D]; a deviation below SMALLEST_STD is raised to it, with a warning."""
        values = np.asarray(values, np.float64)
        std = values.std(axis=0)
        for feature, spread in zip(features, std, strict=True):
            if spread < SMALLEST_STD:
                log.warning(
                    "'%s' hardly varies in this data: a standard deviation of %.2g %s, taken as %g",
                    *(feature.name, spread, feature.unit, SMALLEST_STD),
                )
        q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
        return cls(values.mean(axis=0), np.maximum(std, SMALLEST_STD), q01, q99)

    def normalize(self, values: Array) -> Array:
        """[..., D] in SI units -> mean 0, deviation 1."""
        return (values - _like(self.mean, values)) / _like(self.std, values)

    def unnormalize(self, values: Array) -> Array:
        """The inverse of `normalize`."""
        return values * _like(self.std, values) + _like(self.mean, values)

    def outside(self, other: Moments) -> np.ndarray:
        """Where, as bool [D], most of `other`'s data lies more than 3 deviations away, or spreads 5 times as wide."""
        return (np.abs(other.mean - self.mean) > 3 * self.std) | (other.std > 5 * self.std)


@dataclass(frozen=True)
class NormStats:
    """Statistics of a policy's states [S] and actions [A]."""

    state: Moments
    actions: Moments

    def save(self, folder: str | Path) -> None:
        """Write `folder`/norm_stats.json."""
        stats = {
            kind: {name: values.tolist() for name, values in vars(moments).items()}
            for kind, moments in (("state", self.state), ("actions", self.actions))
        }
        Path(folder, FILE).write_text(json.dumps({"norm_stats": stats}, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> NormStats:
        """Read `folder`/norm_stats.json.

        Raises:
            ValueError: the file lacks a part, or holds what cannot normalise; says which.
        """
        path = Path(folder, FILE)
        try:
            stats = json.loads(path.read_text())["norm_stats"]
            return cls(_moments(stats["state"], "state", path), _moments(stats["actions"], "actions", path))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not in openpi's norm_stats.json form: {error!r}") from error


def _moments(stats: dict[str, Any], kind: str, path: Path) -> Moments:
    arrays = {name: np.asarray(stats[name], np.float64) for name in ("mean", "std", "q01", "q99")}
    shape = arrays["mean"].shape
    for name, values in arrays.items():
        if values.ndim != 1 or values.shape != shape:
            raise ValueError(f"{path}: {kind}.{name} has shape {list(values.shape)}, mean has {list(shape)}")
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {kind}.{name}[{int(np.argmin(np.isfinite(values)))}] is not a finite number")
    if (arrays["std"] <= 0).any():
        raise ValueError(f"{path}: {kind}.std[{int(np.argmin(arrays['std']))}] is not positive")
    return Moments(**arrays)


def _like(constant: np.ndarray, values: Array) -> Array:
    if isinstance(values, torch.Tensor):
        return torch.as_tensor(constant, dtype=values.dtype, device=values.device)
    return constant.astype(values.dtype)
