"""Demonstrations in a LeRobot folder, v3 or v2.1. Needs the extra `lerobot` (pyarrow and PyAV, not lerobot itself).

observation.state, action    float [T, S], [T, A], one row of a parquet file each
every feature with dtype video (MP4), or image (PNG or JPEG inside parquet): a camera; `observation.images.front`
becomes `front`. fps is the control rate, the task the instruction; an episode has one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from aegis_policy.data.source import Episode, Layout, checked_table, choose_cameras

try:
    import pyarrow as pa
    import pyarrow.compute as pc

    from aegis_policy.data.lerobot_meta import (
        ACTION,
        IMAGES,
        STATE,
        Entry,
        features_of,
        is_depth,
        read_meta,
        read_table,
    )
    from aegis_policy.data.video import VideoInfo, VideoReader
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"LeRobot data sets need the package '{error.name}': pip install \"aegis-policy[lerobot]\"", name=error.name
    ) from error

FRAME, TIME, TASK, EPISODE = "frame_index", "timestamp", "task_index", "episode_index"
VIDEOS_OPEN = 16
"""So many at most, those that were read last: each holds a decoder's memory."""


class LeRobotSource:
    """The episodes of one folder; a `Source`.

    Raises:
        ValueError: the folder cannot be read or is not sound; says which file, episode and row, and what is wrong.
    """

    def __init__(self, path: Path, cameras: Sequence[str] | None = None):
        self.path = path
        self._meta = read_meta(path)
        self._videos: dict[Path, VideoReader] = {}
        self.kind = f"LeRobot {self._meta.version}"
        features, where = self._meta.features, path / "meta" / "info.json"
        for key in (STATE, ACTION):
            if key not in features:
                raise ValueError(f"{where}: no feature '{key}'; it has {sorted(features)}")
        self._keys: dict[str, str] = {}
        for key in filter(lambda key: _is_camera(features[key]), features):
            if (other := self._keys.setdefault(_camera(key), key)) != key:
                raise ValueError(
                    f"{where}: '{other}' and '{key}' would both be the camera '{_camera(key)}'; rename one"
                )
        sizes = {name: self._size(name) for name in self._keys if cameras is None or name in cameras}
        chosen = choose_cameras(path, sizes or dict.fromkeys(self._keys, (0, 0)), cameras)
        state, actions = (features_of(key, features[key], where) for key in (STATE, ACTION))
        self.layout = Layout(chosen, state, actions, self._meta.rate)
        self.episodes = list(self._read_episodes())
        self._check_videos()

    def images(self, episode: int, camera: str, steps: slice) -> np.ndarray:
        """See `Source.images`."""
        entry, key = self._meta.entries[episode], self._keys[camera]
        where = f"episode {entry.index}: camera '{camera}'"
        try:
            if key in entry.videos:
                video = entry.videos[key]
                images = self._video(video.path).frames(video.start, self._meta.rate, steps)
            else:
                images = _decoded(entry, key, steps)
        except ValueError as error:
            raise ValueError(f"{self.path}: {where}: {error}") from error
        if images.shape[1:3] != self.layout.cameras[camera]:
            raise ValueError(
                f"{self.path}: {where} is {list(images.shape[1:3])}, expected {list(self.layout.cameras[camera])}"
            )
        return images

    def _video(self, path: Path) -> VideoReader:
        video = self._videos.pop(path, None) or VideoReader(path)
        self._videos[path] = video  # the last one read lies last
        if len(self._videos) > VIDEOS_OPEN:
            self._videos.pop(next(iter(self._videos))).close()
        return video

    def _size(self, camera: str) -> tuple[int, int]:
        """Height and width in the first episode."""
        entry, key = self._meta.entries[0], self._keys[camera]
        if key in entry.videos:
            info = self._header(entry, camera)
            return info.height, info.width
        height, width = _decoded(entry, key, slice(0, 1)).shape[1:3]
        return height, width

    def _header(self, entry: Entry, camera: str) -> VideoInfo:
        try:
            return self._video(entry.videos[self._keys[camera]].path).info
        except ValueError as error:
            raise ValueError(f"{self.path}: episode {entry.index}: camera '{camera}': {error}") from error

    def _read_episodes(self) -> Iterator[Episode]:
        columns = [STATE, ACTION, FRAME, TIME, TASK, EPISODE]
        images = [self._keys[name] for name in self.layout.cameras]
        for path, entries in groupby(self._meta.entries, key=lambda entry: entry.data):
            for key in images:  # a column of images is large: see that it is there, read it when it is asked for
                if self._meta.features[key]["dtype"] == "image":
                    read_table(path, [key], episode=-1)
            table = read_table(path, columns)
            owners = _numbers(f"{path}", table, EPISODE)
            order = np.argsort(owners, kind="stable")
            for entry in entries:
                start, end = np.searchsorted(owners, [entry.index, entry.index + 1], sorter=order)
                yield self._episode(entry, table.take(order[start:end]))

    def _episode(self, entry: Entry, table: pa.Table) -> Episode:
        where = f"{entry.data}: episode {entry.index}"
        steps = table.num_rows
        if not steps or steps != entry.length:
            raise ValueError(f"{where}: {steps} rows, but the meta files say {entry.length}; expected at least one")
        state = checked_table(where, STATE, _matrix(where, table, STATE), len(self.layout.state))
        actions = checked_table(where, ACTION, _matrix(where, table, ACTION), len(self.layout.actions))
        _check_rows(where, FRAME, _numbers(where, table, FRAME), np.arange(steps), 0)
        times = np.arange(steps) / self._meta.rate
        _check_rows(where, TIME, _numbers(where, table, TIME), times, 0.5 / self._meta.rate)
        task = _numbers(where, table, TASK)
        _check_rows(where, TASK, task, np.full(steps, task[0]), 0)  # an episode shows one thing
        text = self._meta.tasks.get(int(task[0]))
        instruction = text.strip() if isinstance(text, str) else ""
        if not instruction:
            raise ValueError(f"{where}: task {int(task[0])} has no text in the meta files")
        return Episode(f"episode {entry.index}", state, actions, instruction)

    def _check_videos(self) -> None:
        """That the videos are there, as large as the first, and long enough, as far as their headers tell."""
        alone = not self._meta.version.startswith("v3.")  # an episode has a video to itself
        for camera, size in self.layout.cameras.items():
            headers: dict[Path, VideoInfo] = {}
            for entry in self._meta.entries:
                if not (video := entry.videos.get(self._keys[camera])):
                    continue
                info = headers[video.path] = headers.get(video.path) or self._header(entry, camera)
                where = f"{self.path}: episode {entry.index}: camera '{camera}': {video.path}"
                if (info.height, info.width) != size:
                    raise ValueError(f"{where} is {[info.height, info.width]}, expected {list(size)}")
                end = round(video.start * self._meta.rate) + entry.length
                if info.frames < end or (alone and info.frames != end):
                    raise ValueError(f"{where} has {info.frames} frames, expected {end}")


def _is_camera(feature: dict[str, Any]) -> bool:
    return feature.get("dtype") in ("video", "image") and not is_depth(feature)


def _camera(key: str) -> str:
    return key.removeprefix(IMAGES).removeprefix("observation.")


def _decoded(entry: Entry, key: str, steps: slice) -> np.ndarray:
    """uint8 [n, H, W, 3] out of a column of encoded images."""
    from PIL import Image, UnidentifiedImageError

    images = []
    cells = read_table(entry.data, [key], episode=entry.index)[key][steps.start : steps.stop].to_pylist()
    for row, cell in enumerate(cells, steps.start):
        if not cell or not cell.get("bytes"):
            raise ValueError(f"{entry.data}: '{key}', row {row}: no image inside the file")
        try:
            images.append(np.array(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{entry.data}: '{key}', row {row}: not a whole image: {error}") from error
        if images[-1].shape != images[0].shape:
            raise ValueError(f"{entry.data}: '{key}', row {row}: {images[-1].shape}, before {images[0].shape}")
    if len(images) != steps.stop - steps.start:
        raise ValueError(f"{entry.data}: '{key}' has {len(images)} images of {steps.stop - steps.start}")
    return np.stack(images)


def _matrix(where: str, table: pa.Table, key: str) -> np.ndarray:
    """A column of lists (or, of length 1, of numbers) as [T, D]."""
    column = table[key]
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    if not any(kind(column.type) for kind in lists):
        return _numbers(where, table, key)[:, None]
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)  # NaN, which differs, where there is none
    if not (lengths == lengths[0]).all():
        row = int(np.argmin(lengths == lengths[0]))
        raise ValueError(f"{where}: '{key}', row {row}: {lengths[row]} numbers, before {lengths[0]}")
    return _floats(where, key, pc.list_flatten(column)).reshape(len(column), -1)


def _numbers(where: str, table: pa.Table, key: str) -> np.ndarray:
    """A column of numbers as float64 [T]."""
    return _floats(where, key, table[key])


def _floats(where: str, key: str, column: pa.ChunkedArray) -> np.ndarray:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ValueError(f"{where}: '{key}' holds {column.type}, expected numbers")
    return column.to_numpy().astype(np.float64)


def _check_rows(where: str, key: str, values: np.ndarray, expected: np.ndarray, within: float) -> None:
    right = np.abs(values - expected) <= within
    if not right.all():
        row = int(np.argmin(right))
        raise ValueError(f"{where}: '{key}', row {row}: {values[row]:g}, expected {expected[row]:g}")
