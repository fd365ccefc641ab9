"""Demonstrations out to a LeRobot v3 folder: one data file, one video per camera, the meta files. See `lerobot`."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from aegis_policy.data.lerobot_meta import ACTION, IMAGES, STATE, UNITS
from aegis_policy.data.source import Episode, Source
from aegis_policy.data.video import CODEC, PIXELS, VideoWriter
from aegis_policy.policy import Feature

log = logging.getLogger(__name__)

FIRST = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA, VIDEO = f"data/{FIRST}.parquet", f"videos/{{video_key}}/{FIRST}.mp4"
COUNTERS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64"}
COUNTERS["task_index"] = "int64"
PANDAS = {
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ],
}
"""LeRobot looks an instruction up in the index of a pandas table; this makes pandas read the column as its index."""


def write_lerobot(source: Source, root: Path) -> None:
    """Write all of `source` into the new folder `root`: numbers exact, images as video, nearly lossless."""
    if any(episode.executed is not None for episode in source.episodes):
        log.warning(
            "%s: what was executed in place of the labels stays behind, as LeRobot has no place for it; "
            "--max-delay is better trained on the source",
            source.path,
        )
    tasks = list(dict.fromkeys(episode.instruction for episode in source.episodes))
    rate, keys = source.layout.control_hz, {name: IMAGES + name for name in source.layout.cameras}
    pixels = {name: _Pixels() for name in keys}
    rows: list[dict[str, Any]] = []
    data = root / _first(DATA)
    data.parent.mkdir(parents=True)
    with ExitStack() as stack:
        table = stack.enter_context(pq.ParquetWriter(data, _schema(source)))
        videos = {
            name: stack.enter_context(VideoWriter(root / _first(VIDEO, key), source.layout.cameras[name], rate))
            for name, key in keys.items()
        }
        start = 0
        for number, episode in enumerate(tqdm(source.episodes, desc="write LeRobot", unit="demo")):
            end = start + len(episode.actions)
            table.write_table(_rows(source, episode, number, start, tasks.index(episode.instruction)))
            for name, video in videos.items():
                images = source.images(number, name, slice(0, end - start))
                video.append(images)
                pixels[name].add(images)
            rows.append(_place(episode, number, start, end, rate, list(keys.values())))
            start = end
    _write_meta(source, root, tasks, rows, {keys[name]: found.stats() for name, found in pixels.items()})


def _first(template: str, key: str = "") -> str:
    """The path of the one file that there is of a kind."""
    return template.format(video_key=key, chunk_index=0, file_index=0)


def _schema(source: Source) -> pa.Schema:
    widths = ((STATE, len(source.layout.state)), (ACTION, len(source.layout.actions)))
    vectors = [pa.field(key, pa.list_(pa.float32(), width)) for key, width in widths]
    return pa.schema([*vectors, *(pa.field(key, kind) for key, kind in COUNTERS.items())])


def _rows(source: Source, episode: Episode, number: int, start: int, task: int) -> pa.Table:
    steps = np.arange(len(episode.actions))
    vectors = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        for values in (episode.state, episode.actions)
    ]
    times = (steps / source.layout.control_hz).astype(np.float32)
    counters = [times, steps, np.full_like(steps, number), steps + start, np.full_like(steps, task)]
    return pa.table([*vectors, *map(pa.array, counters)], schema=_schema(source))


def _place(episode: Episode, number: int, start: int, end: int, rate: float, keys: list[str]) -> dict[str, Any]:
    """Where an episode lies: its row in meta/episodes."""
    first = {"chunk_index": 0, "file_index": 0}
    row = {"episode_index": number, "tasks": [episode.instruction], "length": end - start}
    row |= {"dataset_from_index": start, "dataset_to_index": end}
    for folder in ("data", "meta/episodes", *(f"videos/{key}" for key in keys)):
        row |= {f"{folder}/{name}": value for name, value in first.items()}
    for key in keys:
        row |= {f"videos/{key}/from_timestamp": start / rate, f"videos/{key}/to_timestamp": end / rate}
    return row


def _write_meta(
    source: Source, root: Path, tasks: list[str], rows: list[dict[str, Any]], images: dict[str, dict[str, Any]]
) -> None:
    meta = root / "meta"
    episodes = meta / "episodes" / _first(f"{FIRST}.parquet")
    episodes.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), episodes)
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks)})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(PANDAS)}), meta / "tasks.parquet")
    stats = {
        STATE: _stats(np.concatenate([episode.state for episode in source.episodes])),
        ACTION: _stats(np.concatenate([episode.actions for episode in source.episodes])),
        **images,
    }
    for name, content in (("stats", stats), ("info", _info(source, tasks, rows))):
        (meta / f"{name}.json").write_text(json.dumps(content, indent=4) + "\n")


def _info(source: Source, tasks: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    rate = source.layout.control_hz
    fps = int(rate) if rate == int(rate) else rate
    features = {STATE: _vector(source.layout.state), ACTION: _vector(source.layout.actions)}
    features |= {IMAGES + name: _camera(size, fps) for name, size in source.layout.cameras.items()}
    features |= {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in COUNTERS.items()}
    return {
        **{"codebase_version": "v3.0", "robot_type": None, "fps": fps, "features": features},
        **{"total_episodes": len(rows), "total_frames": rows[-1]["dataset_to_index"], "total_tasks": len(tasks)},
        **{"chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200},
        **{"splits": {"train": f"0:{len(rows)}"}, "data_path": DATA, "video_path": VIDEO},
    }


def _vector(features: tuple[Feature, ...]) -> dict[str, Any]:
    names, units = [feature.name for feature in features], [feature.unit for feature in features]
    return {"dtype": "float32", "shape": [len(features)], "names": names, UNITS: units}


def _camera(size: tuple[int, int], fps: float) -> dict[str, Any]:
    height, width = size
    info = {
        **{"video.height": height, "video.width": width, "video.channels": 3, "video.fps": fps},
        **{"video.codec": CODEC.removeprefix("lib").replace("x", "h"), "video.pix_fmt": PIXELS},
        **{"is_depth_map": False, "has_audio": False},
    }
    return {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": info}


def _stats(values: np.ndarray) -> dict[str, Any]:
    values = values.astype(np.float64)
    quantiles = {f"q{percent:02d}": np.quantile(values, percent / 100, axis=0) for percent in (1, 10, 50, 90, 99)}
    moments = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0), **quantiles}
    return {**{name: found.tolist() for name, found in moments.items()}, "count": [len(values)]}


class _Pixels:
    """Statistics of a camera's pixels per channel, 0 to 1, in LeRobot's shape [3, 1, 1]."""

    def __init__(self) -> None:
        self._images = 0
        self._seen = np.zeros((3, 256), np.int64)  # how many pixels of each channel have each value

    def add(self, images: np.ndarray) -> None:
        self._images += len(images)
        self._seen += [np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(3)]

    def stats(self) -> dict[str, Any]:
        values, share = np.arange(256) / 255, self._seen / self._seen.sum(axis=1, keepdims=True)
        mean = share @ values
        least = np.array([values[np.flatnonzero(channel)[0]] for channel in self._seen])
        most = np.array([values[np.flatnonzero(channel)[-1]] for channel in self._seen])
        found = {"min": least, "max": most, "mean": mean, "std": np.sqrt(np.maximum(share @ values**2 - mean**2, 0))}
        return {**{name: v.reshape(3, 1, 1).tolist() for name, v in found.items()}, "count": [self._images]}
