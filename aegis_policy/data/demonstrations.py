"""Demonstrations in robomimic's HDF5 layout -> samples to imitate: images, state, a chunk of actions, an instruction.

data           attributes control_hz, state_features, action_features (JSON: [[name, unit], ...])
data/demo_N    attribute instruction
  actions      [T, A], SI units         obs/state    [T, S], SI units
  obs/<camera>_image   uint8 [T, H, W, 3], the right way up

Anything else in the files is left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from aegis_policy.data.normalize import Moments, NormStats
from aegis_policy.policy import Camera, Feature

IMAGE = "_image"
IN_MEMORY = 4 * 2**30
"""Bytes of images that are held in memory; more are read from the files as they are needed."""


class Samples(NamedTuple):
    """B samples in SI units.

    Attributes:
        images: uint8 [B, K, H, W, 3], in the order of `Demonstrations.cameras`.
        state: float32 [B, S].
        actions: float32 [B, H, A], the action of this step and the H - 1 that follow.
        instruction: int [B], index into `Demonstrations.instructions`.
    """

    images: np.ndarray
    state: np.ndarray
    actions: np.ndarray
    instruction: np.ndarray


class Sample(NamedTuple):
    """One sample, in SI units: images uint8 [K, H, W, 3], state [S], actions [H, A], instruction."""

    images: np.ndarray
    state: np.ndarray
    actions: np.ndarray
    instruction: str


@dataclass(frozen=True)
class _Layout:
    """What all files of one dataset must have in common."""

    cameras: dict[str, tuple[int, int]]
    state: tuple[Feature, ...]
    actions: tuple[Feature, ...]
    control_hz: float


@dataclass(frozen=True)
class _Episode:
    path: Path
    name: str
    start: int  # row of the dataset
    state: np.ndarray
    actions: np.ndarray
    instruction: str


class Demonstrations(Dataset[Sample]):
    """Every step of every demonstration in some files.

    Args:
        paths: HDF5 files with the same cameras, features and control rate.
        horizon: H, actions in a chunk.
        cameras: which images, in which order; all of them, sorted by name, when None.
        in_memory: bytes of images to hold in memory at most.

    Raises:
        ValueError: a file cannot be read or does not fit; says which file, demonstration and row, and what is wrong.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        horizon: int,
        cameras: Sequence[str] | None = None,
        in_memory: int = IN_MEMORY,
    ):
        if not paths:
            raise ValueError("no demonstration file given")
        self.horizon = horizon
        self._files = {Path(path): _open(Path(path)) for path in paths}
        layouts = {path: _layout(path, file, cameras) for path, file in self._files.items()}
        layout = next(iter(layouts.values()))
        for path, other in layouts.items():
            if other != layout:
                raise ValueError(f"{path}: does not go with {paths[0]}: {_difference(layout, other)}")
        self.cameras = [Camera(name, *size) for name, size in layout.cameras.items()]
        self.state_features, self.action_features = layout.state, layout.actions
        self.control_hz = layout.control_hz

        self._episodes: list[_Episode] = []
        rows = 0
        for path, file in self._files.items():
            for name in sorted(file["data"], key=_natural):
                episode = _episode(path, name, file["data"][name], rows, layout)
                self._episodes.append(episode)
                rows += len(episode.actions)
        if not rows:
            raise ValueError(f"{', '.join(map(str, paths))}: no demonstration inside")
        self._length = rows
        self.instructions = sorted({episode.instruction for episode in self._episodes})
        self.state = np.concatenate([episode.state for episode in self._episodes])
        self.actions = np.concatenate([episode.actions for episode in self._episodes])
        lengths = [len(episode.actions) for episode in self._episodes]
        self._episode = np.repeat(np.arange(len(lengths)), lengths)  # [N], of each row
        self._end = np.repeat(np.cumsum(lengths), lengths)  # [N], first row after the episode
        number = {text: i for i, text in enumerate(self.instructions)}
        self._instruction = np.repeat([number[episode.instruction] for episode in self._episodes], lengths)
        # Beyond its end a demonstration says: stay there. For displacements that is zero; repeating the last one would
        # teach the arm to go on moving after the job is done. Dimensions that are set points (the gripper) are held.
        self._displacement = np.array([is_displacement(feature) for feature in self.action_features])
        self._images = self._load_images() if rows * self._bytes_per_row() <= in_memory else None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Sample:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a dataset of {len(self)}")
        images, state, actions, instruction = self.gather(np.array([row]))
        return Sample(images[0], state[0], actions[0], self.instructions[instruction[0]])

    def gather(self, rows: np.ndarray) -> Samples:
        """The samples of rows [B]."""
        if self._images is None:
            images = np.stack([self._read_images(row) for row in rows])
        else:
            images = np.stack([stored[rows] for stored in self._images], axis=1)
        steps = rows[:, None] + np.arange(self.horizon)  # (B, H)
        last = self._end[rows][:, None] - 1
        actions = self.actions[np.minimum(steps, last)]
        actions[(steps > last)[..., None] & self._displacement] = 0
        return Samples(images, self.state[rows], actions, self._instruction[rows])

    def norm_stats(self) -> NormStats:
        return NormStats(
            Moments.of(self.state, self.state_features),
            Moments.of(self.actions, self.action_features),
        )

    @property
    def episodes(self) -> int:
        return len(self._episodes)

    def _bytes_per_row(self) -> int:
        return sum(camera.height * camera.width * 3 for camera in self.cameras)

    def _load_images(self) -> list[np.ndarray]:
        shapes = [(len(self), camera.height, camera.width, 3) for camera in self.cameras]
        images = [np.empty(shape, np.uint8) for shape in shapes]
        for episode in tqdm(self._episodes, desc="read demonstrations", unit="demo", leave=False):
            observed = self._files[episode.path]["data"][episode.name]["obs"]
            rows = slice(episode.start, episode.start + len(episode.actions))
            for camera, stored in zip(self.cameras, images, strict=True):
                stored[rows] = _read(observed[camera.name + IMAGE], f"{episode.path}: {episode.name}")
        return images

    def _read_images(self, row: int) -> np.ndarray:
        episode = self._episodes[self._episode[row]]
        observed = self._files[episode.path]["data"][episode.name]["obs"]
        return np.stack([observed[camera.name + IMAGE][row - episode.start] for camera in self.cameras])


def is_displacement(feature: Feature) -> bool:
    """Whether an action is a displacement per step (named d..., in m or rad) and not a set point."""
    return feature.name.startswith("d") and feature.unit in ("m", "rad")


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such demonstration file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not a whole HDF5 file: {error}") from error


def _layout(path: Path, file: h5py.File, cameras: Sequence[str] | None) -> _Layout:
    if not isinstance(file.get("data"), h5py.Group):
        raise ValueError(f"{path}: not in robomimic's layout: there is no group 'data' (has {sorted(file)})")
    data = file["data"]
    for name in ("control_hz", "state_features", "action_features"):
        if name not in data.attrs:
            raise ValueError(f"{path}: 'data' lacks the attribute '{name}' (see docs/data.md)")
    rate = float(data.attrs["control_hz"])
    if not (np.isfinite(rate) and rate > 0):
        raise ValueError(f"{path}: control_hz is {rate}, expected actions per second")
    state, actions = (_features(path, name, data.attrs[name]) for name in ("state_features", "action_features"))
    return _Layout(_cameras(path, data, cameras), state, actions, rate)


def _features(path: Path, name: str, text: Any) -> tuple[Feature, ...]:
    try:
        return tuple(Feature(str(feature), str(unit)) for feature, unit in json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: attribute '{name}' is not a JSON list of [name, unit] pairs: {error}") from error


def _cameras(path: Path, data: h5py.Group, wanted: Sequence[str] | None) -> dict[str, tuple[int, int]]:
    """Camera name -> height and width, as in the first demonstration."""
    first = next((data[name] for name in sorted(data, key=_natural)), None)
    observed = {} if first is None else first.get("obs", {})
    found = {
        name.removesuffix(IMAGE): tuple(observed[name].shape[1:3]) for name in sorted(observed) if name.endswith(IMAGE)
    }
    missing = [name for name in wanted or () if name not in found]
    if missing or not found:
        raise ValueError(f"{path}: no images of camera {', '.join(missing) or 'any name'}; it has {sorted(found)}")
    return {name: found[name] for name in wanted or found}


def _episode(path: Path, name: str, group: h5py.Group, start: int, layout: _Layout) -> _Episode:
    where = f"{path}: {name}"
    instruction = str(group.attrs.get("instruction", "")).strip()
    if not instruction:
        raise ValueError(f"{where}: the attribute 'instruction' is missing or empty")
    actions = _table(where, group, "actions", len(layout.actions))
    state = _table(where, group, "obs/state", len(layout.state))
    steps = len(actions)
    if not steps or len(state) != steps:
        raise ValueError(f"{where}: {steps} actions and {len(state)} states; expected as many of each, at least one")
    if group.attrs.get("num_samples", steps) != steps:
        raise ValueError(f"{where}: num_samples says {group.attrs['num_samples']}, but there are {steps} actions")
    for camera, size in layout.cameras.items():
        key, shape = f"obs/{camera}{IMAGE}", (steps, *size, 3)
        if key not in group:
            raise ValueError(f"{where}: no '{key}'; other demonstrations have that camera")
        if group[key].shape != shape or group[key].dtype != np.uint8:
            raise ValueError(
                f"{where}: '{key}' is {group[key].dtype}{list(group[key].shape)}, expected uint8{list(shape)}"
            )
    return _Episode(path, name, start, state, actions, instruction)


def _table(where: str, group: h5py.Group, key: str, width: int) -> np.ndarray:
    """float32 [T, width], every number finite."""
    if key not in group:
        raise ValueError(f"{where}: no '{key}'")
    values = _read(group[key], f"{where}: '{key}'").astype(np.float32)
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"{where}: '{key}' has shape {list(values.shape)}, expected [steps, {width}]")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ValueError(f"{where}: '{key}', row {int(np.argmin(finite))}: not a finite number")
    return values


def _read(dataset: h5py.Dataset, where: str) -> np.ndarray:
    try:
        return dataset[:]
    except OSError as error:
        raise ValueError(f"{where}: damaged: {error}") from error


def _difference(first: _Layout, other: _Layout) -> str:
    names = [name for name in vars(first) if getattr(first, name) != getattr(other, name)]
    return "; ".join(f"{name} {getattr(other, name)} instead of {getattr(first, name)}" for name in names)


def _natural(name: str) -> tuple[str, int]:
    """demo_2 before demo_10."""
    stem, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
    return stem, int(number or -1)
