"""Visual question answering sets: images with the questions one may ask about them, and their true answers.

One HDF5 file holds `images/<camera>` uint8 [N, H, W, 3], optionally `labels/<camera>` uint8 [N, H, W] (which object a
pixel shows, 0 for none) and `questions`, a JSON list of [text, answer, family] per image (see docs/data.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

UNSCORED = "point"
"""The family that is trained on and not scored: its answers are coordinates."""


class Question(NamedTuple):
    text: str
    answer: str
    family: str


class Legend(NamedTuple):
    """What label images show: 0 nothing, 1 + colour * len(shapes) + shape an object, and after these the others."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def objects(self) -> int:
        """How many different objects there are; a label above it is one of the others."""
        return len(self.colours) * len(self.shapes)

    @property
    def labels(self) -> int:
        """How many different labels there are, 0 included."""
        return 1 + self.objects + len(self.others)


@dataclass(frozen=True)
class Sample:
    """One question about one scene: images uint8 [K, H, W, 3], text, answer, family."""

    images: np.ndarray
    question: Question


class VQASet:
    """A question set, held in memory.

    Args:
        path: HDF5 file as written by `aegis record --task questions` or `--task drawn`.

    Raises:
        ValueError: the file is not a question set, or its parts do not fit together; says which.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            with h5py.File(self.path, "r") as file:
                self._read(file)
        except OSError as error:
            if not self.path.exists():
                raise
            raise ValueError(f"{path}: not a whole HDF5 file: {error}") from error
        for name, images in (self.images | self.labels).items():
            if len(images) != len(self.questions):
                raise ValueError(f"{path}: {len(images)} images of '{name}' but {len(self.questions)} question lists")

    def _read(self, file: h5py.File) -> None:
        for name, kind in (("images", h5py.Group), ("questions", h5py.Dataset)):
            if not isinstance(file.get(name), kind):
                raise ValueError(f"{self.path}: not a question set: {kind.__name__.lower()} '{name}' is missing")
        self.cameras = sorted(file["images"])  # front before wrist
        self.images = {name: file["images"][name][:] for name in self.cameras}
        for name, images in self.images.items():
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
                found = f"{images.dtype}{list(images.shape)}"
                raise ValueError(f"{self.path}: images of '{name}' are {found}, expected uint8 [N, H, W, 3]")
        self.labels = {name: file["labels"][name][:] for name in file["labels"]} if "labels" in file else {}
        self.legend = Legend(*(tuple(map(str, file.attrs.get(key, ()))) for key in Legend._fields))
        try:
            rows = [json.loads(row) for row in file["questions"].asstr()[:]]
            self.questions = [[Question(*map(str, entry)) for entry in row] for row in rows]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.path}: 'questions' are not JSON lists of [text, answer, family]: {error}"
            ) from error

    def __len__(self) -> int:
        return len(self.questions)

    def texts(self) -> Iterator[str]:
        """Every question and every answer: what a word-level tokenizer must know."""
        for row in self.questions:
            for question in row:
                yield question.text
                yield question.answer

    def stack(self, rows: np.ndarray, cameras: list[str], *, labels: bool = False) -> np.ndarray:
        """Images uint8 [B, K, H, W, 3], or label images [B, K, H, W], of some rows."""
        source = self.labels if labels else self.images
        return np.stack([source[name][rows] for name in cameras], axis=1)

    def samples(self, count: int, seed: int = 0, cameras: list[str] | None = None) -> list[Sample]:
        """`count` scored questions, the same ones every time, spread evenly over the families.

        Args:
            cameras: which images a question is asked about; the first camera alone when None.

        Raises:
            ValueError: there is no question whose answer counts.
        """
        rng = np.random.default_rng(seed)
        by_family: dict[str, list[tuple[int, Question]]] = {}
        for row, questions in enumerate(self.questions):
            for question in questions:
                if question.family != UNSCORED:
                    by_family.setdefault(question.family, []).append((row, question))
        if not by_family:
            raise ValueError(f"{self.path}: no question whose answer counts")
        chosen: list[tuple[int, Question]] = []
        families = sorted(by_family, key=lambda family: len(by_family[family]))
        for left, family in zip(range(len(families), 0, -1), families, strict=True):
            pool = by_family[family]
            share = min((count - len(chosen)) // left, len(pool))
            chosen += [pool[i] for i in sorted(rng.choice(len(pool), share, replace=False))]
        names = cameras or self.cameras[:1]
        return [Sample(self.stack(np.array([row]), names)[0], question) for row, question in chosen]


def open_sets(paths: Sequence[str | Path]) -> dict[str, VQASet]:
    """Question sets by the name of their file, by which they are measured and shown.

    Raises:
        ValueError: two have the same name, or what `VQASet` refuses.
    """
    sets: dict[str, VQASet] = {}
    for path in map(Path, paths):
        if path.stem in sets:
            raise ValueError(f"{path}: has the same name as {sets[path.stem].path}; rename one, they are told by name")
        sets[path.stem] = VQASet(path)
    return sets
