"""Demonstrations in robomimic's HDF5 layout, in and out.

data           attributes control_hz, state_features, action_features (JSON: [[name, unit], ...])
data/demo_N    attribute instruction
  actions      [T, A], SI units         obs/state    [T, S], SI units
  obs/<camera>_image   uint8 [T, H, W, 3], the right way up
  executed_actions     [T, A], SI units, where the robot was made to do something else than `actions`

Anything else in the files is left alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from aegis_policy.data.source import Episode, Layout, Source, checked_table, choose_cameras
from aegis_policy.policy import Feature

IMAGE, EXECUTED = "_image", "executed_actions"
GYM = 2
"""How robomimic calls, in `env_args`, an environment by gymnasium's interface; it asks for one of its own numbers."""


class RobomimicSource:
    """The demonstrations of one HDF5 file; a `Source`.

    Raises:
        ValueError: the file cannot be read or is not sound; says which demonstration and row, and what is wrong.
    """

    kind = "robomimic HDF5"

    def __init__(self, path: Path, cameras: Sequence[str] | None = None):
        self.path = path
        self._data = _data(path)
        self.layout = _layout(path, self._data, cameras)
        names = sorted(self._data, key=_natural)
        self.episodes = [_episode(path, name, self._data.get(name), self.layout) for name in names]

    def images(self, episode: int, camera: str, steps: slice) -> np.ndarray:
        """See `Source.images`."""
        name = self.episodes[episode].name
        return _read(self._data[f"{name}/obs/{camera}{IMAGE}"], steps, f"{self.path}: {name}")


def write_robomimic(source: Source, path: Path) -> None:
    """Write all of `source` to a new HDF5 file at `path`, lossless."""
    layout = source.layout
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(len(episode.actions) for episode in source.episodes)
        data.attrs["env_args"] = json.dumps(
            {"env_name": source.path.name, "type": GYM, "env_kwargs": {}, "converted_from": source.kind}
        )
        data.attrs["control_hz"] = layout.control_hz
        for name, features in (("state_features", layout.state), ("action_features", layout.actions)):
            data.attrs[name] = json.dumps([[feature.name, feature.unit] for feature in features])
        for number, episode in enumerate(tqdm(source.episodes, desc="write HDF5", unit="demo")):
            steps = len(episode.actions)
            group = data.create_group(f"demo_{number}")
            group.attrs["num_samples"], group.attrs["instruction"] = steps, episode.instruction
            arrays = {
                "actions": episode.actions,
                "dones": (np.arange(steps) == steps - 1).astype(np.uint8),
                "obs/state": episode.state,
            }
            if episode.executed is not None:
                arrays[EXECUTED] = episode.executed
            for key, values in arrays.items():
                _write(group, key, values)
            for name in layout.cameras:  # one after the other: a long episode of one fills gigabytes
                _write(group, f"obs/{name}{IMAGE}", source.images(number, name, slice(0, steps)))


def _write(group: h5py.Group, key: str, values: np.ndarray) -> None:
    group.create_dataset(key, data=values, compression="gzip", compression_opts=1)


def _data(path: Path) -> h5py.Group:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: not a whole HDF5 file: {error}") from error
    if not isinstance(file.get("data"), h5py.Group):
        raise ValueError(f"{path}: not in robomimic's layout: there is no group 'data' (has {sorted(file)})")
    return file["data"]


def _layout(path: Path, data: h5py.Group, cameras: Sequence[str] | None) -> Layout:
    for name in ("control_hz", "state_features", "action_features"):
        if name not in data.attrs:
            raise ValueError(f"{path}: 'data' lacks the attribute '{name}' (see docs/data.md)")
    rate = _attribute(data, "control_hz")
    if not (isinstance(rate, int | float) and np.isfinite(rate) and rate > 0):
        raise ValueError(f"{path}: control_hz is {rate}, expected actions per second")
    state, actions = (_features(path, name, _attribute(data, name)) for name in ("state_features", "action_features"))
    if not len(data):
        raise ValueError(f"{path}: no demonstration inside")
    found: dict[str, tuple[int, int]] = {}
    for demo in sorted(data, key=_natural, reverse=True):  # the first one has the last word on sizes
        observed = data[demo].get("obs") if isinstance(data.get(demo), h5py.Group) else None
        images = {name: observed.get(name) for name in observed} if isinstance(observed, h5py.Group) else {}
        found |= {
            name.removesuffix(IMAGE): values.shape[1:3]
            for name, values in images.items()
            if name.endswith(IMAGE) and isinstance(values, h5py.Dataset) and len(values.shape or ()) == 4
        }
    return Layout(choose_cameras(path, found, cameras), state, actions, float(rate))


def _attribute(group: h5py.Group, name: str) -> Any:
    """An attribute as Python has it, however it was written: as an array of one, or as bytes."""
    value = group.attrs.get(name)
    if isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.size == 1 else value.tolist()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _features(path: Path, name: str, text: Any) -> tuple[Feature, ...]:
    wrong = f"{path}: attribute '{name}' is not a JSON list of [name, unit] pairs"
    try:
        pairs = json.loads(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{wrong}: {error}") from error
    if not isinstance(pairs, list):
        raise ValueError(f"{wrong}: {text}")
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(each, str) for each in pair)):
            raise ValueError(f"{wrong}: {json.dumps(pair)} is none")
    if repeated := [feature for feature, count in Counter(feature for feature, _ in pairs).items() if count > 1]:
        raise ValueError(f"{path}: attribute '{name}' has '{repeated[0]}' more than once")
    return tuple(Feature(*pair) for pair in pairs)


def _episode(path: Path, name: str, group: h5py.Group | h5py.Dataset | None, layout: Layout) -> Episode:
    where = f"{path}: {name}"
    if group is None:
        raise ValueError(f"{where}: a link to what is not there; bring its file, or remove it")
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{where}: no group of actions and observations")
    instruction = _attribute(group, "instruction")
    if not isinstance(instruction, str) or not instruction.strip():
        raise ValueError(f"{where}: the attribute 'instruction' is missing, empty or no text")
    actions = _table(where, group, "actions", len(layout.actions))
    state = _table(where, group, "obs/state", len(layout.state))
    steps = len(actions)
    if not steps or len(state) != steps:
        raise ValueError(f"{where}: {steps} actions and {len(state)} states; expected as many of each, at least one")
    if "num_samples" in group.attrs and str(said := _attribute(group, "num_samples")) != str(steps):
        raise ValueError(f"{where}: num_samples says {said}, but there are {steps} actions")
    for camera, size in layout.cameras.items():
        key, shape = f"obs/{camera}{IMAGE}", (steps, *size, 3)
        if not isinstance(group.get(key), h5py.Dataset):
            raise ValueError(f"{where}: no '{key}'; other demonstrations have that camera")
        if group[key].shape != shape or group[key].dtype != np.uint8:
            raise ValueError(
                f"{where}: '{key}' is {group[key].dtype}{list(group[key].shape or ())}, expected uint8{list(shape)}"
            )
    disturbed = EXECUTED in group
    executed = _table(where, group, EXECUTED, len(layout.actions)) if disturbed else None
    if executed is not None and len(executed) != steps:
        raise ValueError(f"{where}: {len(executed)} {EXECUTED} of {steps} steps")
    return Episode(name, state, actions, instruction.strip(), executed)


def _table(where: str, group: h5py.Group, key: str, width: int) -> np.ndarray:
    """float32 [T, width], every number finite."""
    if not isinstance(group.get(key), h5py.Dataset):
        raise ValueError(f"{where}: no '{key}'")
    return checked_table(where, key, _read(group[key], slice(None), f"{where}: '{key}'"), width)


def _read(dataset: h5py.Dataset, rows: slice, where: str) -> np.ndarray:
    try:
        return dataset[rows]
    except (OSError, ValueError, TypeError) as error:  # h5py's words for a scalar, or for nothing, name no file
        raise ValueError(f"{where}: damaged: {error}") from error


def _natural(name: str) -> tuple[str, int]:
    """demo_2 before demo_10."""
    stem, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
    return stem, int(number or -1)
