"""Demonstrations -> samples to imitate: images, state, a chunk of actions, an instruction.

What the files look like is the business of the sources, see `aegis_policy.data.source`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from aegis_policy.data.displacements import is_displacement, warn_of_doubtful
from aegis_policy.data.normalize import Moments, Normalization, NormStats
from aegis_policy.data.source import open_source
from aegis_policy.policy import Camera

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""How much memory a container may have, in cgroup 2 and 1; no number where there is no limit."""


def half_of_memory() -> int:
    """Bytes, of what this machine or container has; shared out among torchrun's processes on it."""
    limits = [path.read_text().strip() for path in CGROUP_LIMITS if path.is_file()]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    least = min([machine, *(int(limit) for limit in limits if limit.isdecimal())])
    return least // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


class Samples(NamedTuple):
    """B samples in SI units.

    Attributes:
        images: of each camera uint8 [B, H, W, 3], in the order of `Demonstrations.cameras`.
        state: float32 [B, S].
        actions: float32 [B, H, A], the action of this step and the H - 1 that follow.
        instruction: int [B], index into `Demonstrations.instructions`.
    """

    images: list[np.ndarray]
    state: np.ndarray
    actions: np.ndarray
    instruction: np.ndarray


class Sample(NamedTuple):
    """One sample, in SI units: of each camera an image uint8 [H, W, 3], state [S], actions [H, A], instruction."""

    images: list[np.ndarray]
    state: np.ndarray
    actions: np.ndarray
    instruction: str


class Demonstrations(Dataset[Sample]):
    """Every step of every demonstration in some files or folders.

    Args:
        paths: robomimic-layout HDF5 files and LeRobot folders with the same cameras, features and control rate.
        horizon: H, actions in a chunk.
        cameras: which images, in which order; all of them, sorted by name, when None.
        in_memory: bytes of images to hold in memory at most, else they are read as they are needed, slowly; as
            `half_of_memory` when None.

    Raises:
        ValueError: a file cannot be read or does not fit; says which file, demonstration and row, and what is wrong.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        horizon: int,
        cameras: Sequence[str] | None = None,
        in_memory: int | None = None,
    ):
        if not paths:
            raise ValueError("no demonstration file given")
        self.horizon = horizon
        self._sources = [open_source(path, cameras) for path in paths]
        layout = self._sources[0].layout
        for source in self._sources:
            if source.layout != layout:
                raise ValueError(f"{source.path}: does not go with {paths[0]}: {layout.difference(source.layout)}")
        self.cameras = [Camera(name, *size) for name, size in layout.cameras.items()]
        self.state_features, self.action_features = layout.state, layout.actions
        self.control_hz = layout.control_hz

        episodes = [episode for source in self._sources for episode in source.episodes]
        warn_of_doubtful(self._sources)
        self.instructions = sorted({episode.instruction for episode in episodes})
        self.state = np.concatenate([episode.state for episode in episodes])
        self.actions = np.concatenate([episode.actions for episode in episodes])
        self._executed = np.concatenate(
            [episode.actions if episode.executed is None else episode.executed for episode in episodes]
        )
        self._places = [(source, number) for source in self._sources for number in range(len(source.episodes))]
        self._starts = np.cumsum([0, *(len(episode.actions) for episode in episodes)])  # rows; one more than episodes
        lengths = np.diff(self._starts)
        self._episode = np.repeat(np.arange(len(lengths)), lengths)  # [N], of each row
        self._end = np.repeat(self._starts[1:], lengths)  # [N], first row after the episode
        number = {text: i for i, text in enumerate(self.instructions)}
        self._instruction = np.repeat([number[episode.instruction] for episode in episodes], lengths)
        # Beyond its end a demonstration says: stay there. For displacements that is zero; repeating the last one would
        # teach the arm to go on moving after the job is done. Dimensions that are set points (the gripper) are held.
        self.displaced = np.array([is_displacement(feature, self.state_features) for feature in self.action_features])
        room = half_of_memory() if in_memory is None else in_memory
        self._images = self._load_images() if len(self) * self._bytes_per_row() <= room else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> Sample:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a dataset of {len(self)}")
        images, state, actions, instruction = self.gather(np.array([row]))
        return Sample([each[0] for each in images], state[0], actions[0], self.instructions[instruction[0]])

    def gather(self, rows: np.ndarray) -> Samples:
        """The samples of rows [B]."""
        if self._images is None:
            images = [np.stack([self._read_image(row, camera.name) for row in rows]) for camera in self.cameras]
        else:
            images = [stored[rows] for stored in self._images]
        return Samples(images, self.state[rows], self._chunks(self.actions, rows), self._instruction[rows])

    def executed(self, rows: np.ndarray) -> np.ndarray:
        """What the robot was made to do in the place of the samples' actions, float32 [B, H, A]."""
        return self._chunks(self._executed, rows)

    def _chunks(self, table: np.ndarray, rows: np.ndarray) -> np.ndarray:
        steps = rows[:, None] + np.arange(self.horizon)  # (B, H)
        last = self._end[rows][:, None] - 1
        chunks = table[np.minimum(steps, last)]
        chunks[(steps > last)[..., None] & self.displaced] = 0
        return chunks

    def norm_stats(self, normalization: Normalization = "mean-std") -> NormStats:
        """Of all rows, each counted once."""
        return NormStats(
            Moments.of(self.state, self.state_features, normalization),
            Moments.of(self.actions, self.action_features, normalization),
        )

    @property
    def sizes(self) -> list[int]:
        """Rows of each of `paths`, which follow one another."""
        return [sum(len(episode.actions) for episode in source.episodes) for source in self._sources]

    def digest(self) -> str:
        """SHA-256 of all that is learned from but the images: another one is another training."""
        found = hashlib.sha256(json.dumps([self._starts.tolist(), self.instructions]).encode())
        for table in (self.state, self.actions, self._executed, self._instruction):
            found.update(np.ascontiguousarray(table).tobytes())
        return found.hexdigest()

    @property
    def episodes(self) -> int:
        return len(self._places)

    def _bytes_per_row(self) -> int:
        return sum(camera.height * camera.width * 3 for camera in self.cameras)

    def _load_images(self) -> list[np.ndarray]:
        shapes = [(len(self), camera.height, camera.width, 3) for camera in self.cameras]
        images = [np.empty(shape, np.uint8) for shape in shapes]
        for i, (source, number) in enumerate(tqdm(self._places, desc="read demonstrations", unit="demo", leave=False)):
            start, end = self._starts[i : i + 2]
            for camera, stored in zip(self.cameras, images, strict=True):
                stored[start:end] = source.images(number, camera.name, slice(0, int(end - start)))
        return images

    def _read_image(self, row: int, camera: str) -> np.ndarray:
        source, number = self._places[self._episode[row]]
        step = int(row - self._starts[self._episode[row]])
        return source.images(number, camera, slice(step, step + 1))[0]
