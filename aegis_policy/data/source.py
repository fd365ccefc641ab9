"""Where demonstrations come from: the one contract behind which a robomimic file and a LeRobot folder look alike.

A source tells its layout and its episodes when it is opened, and hands out images when they are asked for. Whoever
learns from demonstrations, looks at them or converts them sees this and nothing of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from aegis_policy.policy import Feature

HDF5_SUFFIXES = (".hdf5", ".h5")


@dataclass(frozen=True)
class Layout:
    """What all episodes of a source, and all sources of a dataset, have in common.

    Attributes:
        cameras: name -> height and width, in the order asked for, or sorted.
        state, actions: names and units of the S state and the A action dimensions.
        control_hz: actions per second.
    """

    cameras: dict[str, tuple[int, int]]
    state: tuple[Feature, ...]
    actions: tuple[Feature, ...]
    control_hz: float

    def difference(self, other: Layout) -> str:
        """In what `other` differs from this one; empty when in nothing."""
        names = [name for name in vars(self) if getattr(self, name) != getattr(other, name)]
        return "; ".join(f"{name} {getattr(other, name)} instead of {getattr(self, name)}" for name in names)


@dataclass(frozen=True)
class Episode:
    """One demonstration of T steps.

    Attributes:
        name: as its source calls it.
        state: float32 [T, S], SI units.
        actions: float32 [T, A], SI units.
        instruction: what the demonstration shows.
        executed: float32 [T, A], what the robot was made to do instead of `actions`, where the file tells.
    """

    name: str
    state: np.ndarray
    actions: np.ndarray
    instruction: str
    executed: np.ndarray | None = None


class Source(Protocol):
    """Demonstrations in some files."""

    path: Path
    kind: str
    layout: Layout
    episodes: list[Episode]

    def images(self, episode: int, camera: str, steps: slice) -> np.ndarray:
        """What a camera saw: uint8 [n, H, W, 3], the right way up, of n consecutive steps of an episode.

        Raises:
            ValueError: the images cannot be read, or are not as many or as large as they should be; says which.
        """
        ...


def open_source(path: str | Path, cameras: Sequence[str] | None = None) -> Source:
    """Open a robomimic-layout HDF5 file, or a LeRobot folder (v3 or v2.1).

    Args:
        path: the file or the folder.
        cameras: which cameras, in which order; all of them, sorted by name, when None.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it cannot be read or is not sound; says which file, episode and row, and what is wrong.
        ModuleNotFoundError: a LeRobot folder, and the extra `lerobot` is not installed.
    """
    path = Path(path)
    if path.is_dir():
        from aegis_policy.data.lerobot import LeRobotSource

        return LeRobotSource(path, cameras)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such demonstration file or folder")
    from aegis_policy.data.robomimic import RobomimicSource

    return RobomimicSource(path, cameras)


def choose_cameras(
    path: Path, found: dict[str, tuple[int, int]], wanted: Sequence[str] | None
) -> dict[str, tuple[int, int]]:
    """The cameras `wanted` of those `found`, or all of these, sorted by name.

    Raises:
        ValueError: one is missing, or there is none at all.
    """
    missing = [name for name in wanted or () if name not in found]
    if missing or not found:
        raise ValueError(f"{path}: no images of camera {', '.join(missing) or 'any name'}; it has {sorted(found)}")
    return {name: found[name] for name in wanted or sorted(found)}


def checked_table(where: str, key: str, values: np.ndarray, width: int) -> np.ndarray:
    """`values` as float32 [T, width].

    Raises:
        ValueError: no numbers, another shape, or a number that is not finite; says in which row.
    """
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{where}: '{key}' is {values.dtype}, expected numbers")
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"{where}: '{key}' has shape {list(values.shape)}, expected [steps, {width}]")
    values = values.astype(np.float32)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ValueError(f"{where}: '{key}', row {int(np.argmin(finite))}: not a finite number")
    return values
