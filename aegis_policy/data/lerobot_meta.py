"""What a LeRobot folder says about itself, v3 and v2.1 alike: rate, features, tasks, and where each episode lies.

v3:    meta/info.json, meta/tasks.parquet, meta/episodes/*/*.parquet; many episodes in a data file and in a video
v2.1:  meta/info.json, meta/tasks.jsonl,   meta/episodes.jsonl;       one episode in a data file and in a video
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aegis_policy.policy import Feature

log = logging.getLogger(__name__)

STATE, ACTION = "observation.state", "action"
IMAGES = "observation.images."
UNITS = "units"
"""Ours: a key beside `names` in a feature of info.json. LeRobot keeps such keys and does not read them."""
UNKNOWN = "1"


@dataclass(frozen=True)
class Video:
    """Where an episode's images of one camera are: in a file, from a second on."""

    path: Path
    start: float


@dataclass(frozen=True)
class Entry:
    """One episode: its number, T, its data file, and, for every camera with videos, its video."""

    index: int
    length: int
    data: Path
    videos: dict[str, Video]


@dataclass(frozen=True)
class Meta:
    """A folder's meta files.

    Attributes:
        version: "v3.0" or "v2.1".
        rate: frames, which are also actions, per second.
        features: as in info.json: key -> dtype, shape, names, ...
        tasks: task_index -> instruction.
        entries: the episodes, in order.
    """

    version: str
    rate: float
    features: dict[str, dict[str, Any]]
    tasks: dict[int, str]
    entries: list[Entry]


def read_meta(root: Path) -> Meta:
    """Read `root`/meta.

    Raises:
        ValueError: not a LeRobot folder, another version, or a file that is damaged or lacks something; says which.
    """
    path = root / "meta" / "info.json"
    info = _info(path)
    version, rate, features = info["codebase_version"], float(info["fps"]), info["features"]
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"{path}: fps is {rate}, expected frames per second")
    try:
        videos = [key for key, feature in features.items() if feature.get("dtype") == "video" and not is_depth(feature)]
        if version.startswith("v3."):
            tasks, entries = _tasks_v3(root), _entries_v3(root, info, videos)
        elif version == "v2.1":
            tasks, entries = _tasks_v21(root), _entries_v21(root, info, videos)
        else:
            raise ValueError(f"{path}: LeRobot's layout {version}; this reads v3.0 and v2.1")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{root / 'meta'}: not in LeRobot's layout {version}: {error!r}") from error
    if not entries:
        raise ValueError(f"{root}: no episode inside")
    if info.get("total_episodes", len(entries)) != len(entries):
        raise ValueError(f"{path}: total_episodes says {info['total_episodes']}, but there are {len(entries)}")
    return Meta(version, rate, features, tasks, sorted(entries, key=lambda entry: entry.index))


def features_of(key: str, feature: dict[str, Any], where: Path) -> tuple[Feature, ...]:
    """Names and units of a vector; what its file does not tell is made up: `state_0`, and the unit "1".

    Raises:
        ValueError: it is not a vector.
    """
    shape = feature.get("shape")
    if not (isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], int)):
        raise ValueError(f"{where}: '{key}' has the shape {shape}, expected [numbers]")
    names = _names(feature.get("names"))
    if not all(isinstance(name, str) for name in names) or not len(names) == len(set(names)) == shape[0]:
        names = [f"{key.rpartition('.')[2]}_{i}" for i in range(shape[0])]
    units = feature.get(UNITS)
    if not isinstance(units, list) or len(units) != shape[0]:
        units = [UNKNOWN] * shape[0]
        log.warning(
            "%s: '%s' has no '%s': taken as pure numbers, and as set points where they are actions; if some are "
            'displacements, name those dx, dq1, delta_... and give every unit, as in "%s": ["m", ...]',
            *(where, key, UNITS, UNITS),
        )
    return tuple(Feature(str(name), str(unit)) for name, unit in zip(names, units, strict=True))


def is_depth(feature: dict[str, Any]) -> bool:
    """Whether the images of a feature are distances, not colours."""
    notes = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(notes.get("is_depth_map") or notes.get("video.is_depth_map"))


def read_table(path: Path, columns: Iterable[str], episode: int | None = None) -> pa.Table:
    """Some columns of a parquet file, of all rows or of those of one episode.

    Raises:
        ValueError: the file is missing or damaged, or lacks a column.
    """
    columns = list(columns)
    with _parquet(path):
        missing = [name for name in columns if name not in pq.read_schema(path).names]
        if missing:
            raise ValueError(f"{path}: no column '{missing[0]}'")
        rows = None if episode is None else [("episode_index", "=", episode)]
        return pq.read_table(path, columns=columns, filters=rows, partitioning=None)


@contextmanager
def _parquet(path: Path) -> Iterator[None]:
    """What goes wrong with a file is a ValueError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole parquet file: {error}") from error


def _info(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path.parents[1]}: not a LeRobot data set: there is no meta/info.json")
    try:
        info = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    for name, kind in (("codebase_version", str), ("fps", (int, float)), ("features", dict), ("data_path", str)):
        if not isinstance(info, dict) or not isinstance(info.get(name), kind):
            raise ValueError(f"{path}: lacks '{name}', or it is no {name}")
    return info


def _names(names: Any) -> list[str]:
    """LeRobot has written a list, {"motors": [...]} and {name: index}."""
    if isinstance(names, dict) and all(isinstance(value, int) for value in names.values()):
        return sorted(names, key=names.__getitem__)
    if isinstance(names, dict):
        return [name for value in names.values() if isinstance(value, list) for name in value]
    return names if isinstance(names, list) else []


def _tasks_v3(root: Path) -> dict[int, str]:
    path = root / "meta" / "tasks.parquet"
    with _parquet(path):
        names = pq.read_schema(path).names
    text = "__index_level_0__" if "task" not in names else "task"  # it is pandas' index, with or without a name
    table = read_table(path, ["task_index", text])
    return dict(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))


def _entries_v3(root: Path, info: dict[str, Any], videos: list[str]) -> list[Entry]:
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise ValueError(f"{root / 'meta/episodes'}: no parquet file inside")
    places = ("chunk_index", "file_index")
    times = ("from_timestamp", "to_timestamp")
    columns = ["episode_index", "length", *(f"data/{name}" for name in places)]
    columns += [f"videos/{key}/{name}" for key in videos for name in (*places, *times)]
    return [_entry_v3(root, info, videos, row) for file in files for row in read_table(file, columns).to_pylist()]


def _entry_v3(root: Path, info: dict[str, Any], videos: list[str], row: dict[str, Any]) -> Entry:
    index, length = row["episode_index"], row["length"]
    data = info["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
    found = {}
    for key in videos:
        chunk, file, start, end = (
            row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        )
        if None in (chunk, file, start, end):
            raise ValueError(f"{root / 'meta/episodes'}: episode {index}: no images of camera '{key}'")
        if abs((end - start) * info["fps"] - length) >= 0.5:
            raise ValueError(
                f"{root / 'meta/episodes'}: episode {index}: '{key}' lasts {end - start:.3f} s, "
                f"which are not {length} frames at {info['fps']} Hz"
            )
        path = info["video_path"].format(video_key=key, chunk_index=chunk, file_index=file)
        found[key] = Video(root / path, start)
    return Entry(index, length, root / data, found)


def _tasks_v21(root: Path) -> dict[int, str]:
    return {row["task_index"]: row["task"] for row in _lines(root / "meta" / "tasks.jsonl")}


def _entries_v21(root: Path, info: dict[str, Any], videos: list[str]) -> list[Entry]:
    entries = []
    for row in _lines(root / "meta" / "episodes.jsonl"):
        index = row["episode_index"]
        place = {"episode_chunk": index // info["chunks_size"], "episode_index": index}
        found = {key: Video(root / info["video_path"].format(video_key=key, **place), 0.0) for key in videos}
        entries.append(Entry(index, row["length"], root / info["data_path"].format(**place), found))
    return entries


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from error
    return rows
