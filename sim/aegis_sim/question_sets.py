"""VQA sets: images, label images and questions with their answers, in one HDF5 file.

Image `i` of a set depends on (split, task, seed, i) and on nothing else: not on how many workers shared the work, nor
on the images before it. What is recorded and what is evaluated never share a seed (see `aegis_sim.tasks.episode_seed`).

    images/front     uint8 [N, S, S, 3]      images/wrist likewise, where there is a robot
    labels/front     uint8 [N, S, S]         0 nothing, 1 + colour * 3 + shape, or 19 the gripper; labels/wrist likewise
    questions        N x JSON [[text, answer, family], ...] about the front image
    wrist_questions  the same about the wrist image
    attributes       colours, shapes, others, vocabulary, source, seed, split, versions (JSON)
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from aegis_sim.questions import COLOURS, GRIPPER, SHAPES, VOCABULARY, Question, View, questions
from aegis_sim.tasks import IMAGE_SIZE, episode_seed
from aegis_sim.workers import spread

log = logging.getLogger(__name__)

SOURCES = {"questions": "robosuite", "drawn": "drawn"}
"""Task -> where its images come from."""

_CHUNK = 16  # images a worker makes at a time
_PACKAGES = {"robosuite": ("robosuite", "mujoco", "numpy"), "drawn": ("pillow", "numpy")}


Sample = dict[str, View]  # camera -> view


def record_questions(
    task: str,
    episodes: int,
    output: Path,
    seed: int,
    workers: int = 1,
    size: int = IMAGE_SIZE,
    split: str = "record",
) -> Path:
    """Write a set of `episodes` scenes with all their questions; the file appears under its name only when complete.

    Args:
        task: "questions" (robosuite scenes, front and wrist camera) or "drawn".
        episodes: number of scenes.
        output: the HDF5 file; its folder is made when it is missing.
        seed: of the whole set.
        size: side of the images in pixels.
        workers: processes that render; the file is the same for any number of them.
        split: "record" for training, "eval" for measuring.

    Raises:
        ValueError: the task is unknown, or there is nothing to record.
    """
    if task not in SOURCES:
        raise ValueError(f"unknown question task '{task}': expected one of {sorted(SOURCES)}")
    if episodes < 1 or workers < 1:
        raise ValueError(f"episodes and workers must be at least 1, got {episodes} and {workers}")
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    chunks = [range(start, min(start + _CHUNK, episodes)) for start in range(0, episodes, _CHUNK)]
    try:
        maker = functools.partial(_Maker, task, size, split, seed)
        with h5py.File(partial, "w") as file, closing(spread(maker, chunks, workers)) as made:
            _describe(file, task, seed, split)
            done = 0
            with tqdm(total=episodes, desc=f"{task} ({split})", unit="scene") as progress:
                for rows in made:
                    _append(file, rows, done, episodes)
                    done += len(rows)
                    progress.update(len(rows))
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    log.info("wrote %d scenes to %s", episodes, output)
    return output


def _describe(file: h5py.File, task: str, seed: int, split: str) -> None:
    source = SOURCES[task]
    file.attrs["colours"], file.attrs["shapes"] = list(COLOURS), list(SHAPES)
    file.attrs["others"] = [GRIPPER]
    file.attrs["vocabulary"] = list(VOCABULARY)
    file.attrs["source"], file.attrs["seed"], file.attrs["split"] = source, seed, split
    file.attrs["versions"] = json.dumps({name: version(name) for name in _PACKAGES[source]})


_Row = dict[str, np.ndarray | str]  # dataset -> its value for one scene


def _append(file: h5py.File, rows: list[_Row], start: int, total: int) -> None:
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name not in file:
            _create(file, name, values[0], total)
        file[name][start : start + len(rows)] = values


def _create(file: h5py.File, name: str, value: np.ndarray | str, total: int) -> None:
    if isinstance(value, str):
        file.create_dataset(name, (total,), h5py.string_dtype("utf-8"))
    else:
        chunks = (min(_CHUNK, total), *value.shape)
        file.create_dataset(name, (total, *value.shape), value.dtype, chunks=chunks, compression="lzf")


def _generator(task: str, size: int) -> Callable[[np.random.Generator], Sample]:
    """What makes one scene of the task; the simulator is imported only where it is needed."""
    if task == "drawn":
        from aegis_sim.drawn import draw

        return lambda rng: {"front": draw(rng, size)}
    from aegis_sim.scenes import SceneRenderer

    return SceneRenderer(size).sample


class _Maker:
    """Makes any scene of one set by its index."""

    def __init__(self, task: str, size: int, split: str, seed: int) -> None:
        self._task, self._split, self._seed = task, split, seed
        self._generate = _generator(task, size)

    def __call__(self, indices: range) -> list[_Row]:
        return [self._row(index) for index in indices]

    def close(self) -> None:
        """There is nothing to free."""

    def _row(self, index: int) -> _Row:
        # The task is folded in, so that a drawn and a rendered set of one seed do not show the same objects.
        scene_seed = episode_seed(self._split, self._seed, index)
        scene_stream, question_stream = np.random.SeedSequence((scene_seed, *self._task.encode())).spawn(2)
        sample = self._generate(np.random.default_rng(scene_stream))
        rng = np.random.default_rng(question_stream)
        row: dict[str, np.ndarray | str] = {}
        for camera, view in sample.items():
            row[f"images/{camera}"], row[f"labels/{camera}"] = view.image, view.labels
            row["questions" if camera == "front" else f"{camera}_questions"] = _encode(
                questions(view.scene, rng) if view.scene else []
            )
        return row


def _encode(asked: list[Question]) -> str:
    return json.dumps([list(question) for question in asked])
