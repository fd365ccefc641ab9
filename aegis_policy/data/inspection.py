"""What is in a data set of demonstrations, and whether it is fit to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from aegis_policy.data.displacements import doubt, is_displacement
from aegis_policy.data.normalize import SMALLEST_STD
from aegis_policy.data.source import Layout, Source, open_source
from aegis_policy.policy import Feature

EPISODES, MOMENTS = 6, 5  # of the contact sheet: rows, and columns of each camera
NOT_SI = ("mm", "cm", "km", "deg", "degree", "degrees", "°")
GAP, MARGIN = 2, 10  # px between images, and between cameras


@dataclass(frozen=True)
class Column:
    """One dimension of the states or of the actions, over all steps, in its unit."""

    feature: Feature
    least: float
    q01: float
    mean: float
    std: float
    q99: float
    most: float

    @property
    def near_constant(self) -> bool:
        """Whether training takes more than what it varies by, by deviation or by quantiles: noise would blow up."""
        return self.std < SMALLEST_STD or (self.q99 - self.q01) / 2 < SMALLEST_STD


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        path, kind, layout: the data set, its file layout, and what its episodes have in common.
        lengths: steps of each episode.
        instructions: instruction -> number of episodes, the most frequent first.
        state, actions: statistics of each dimension.
        sheet: uint8 [h, w, 3], the contact sheet: a row for each of some episodes, from start to end, camera by camera.
    """

    path: Path
    kind: str
    layout: Layout
    lengths: list[int]
    instructions: dict[str, int]
    state: list[Column]
    actions: list[Column]
    sheet: np.ndarray

    def warnings(self) -> list[str]:
        """What does not forbid learning but deserves a look."""
        strange = [feature for feature in (*self.layout.state, *self.layout.actions) if feature.unit in NOT_SI]
        return [
            *(
                f"'{feature.name}' is in {feature.unit}: units are SI, m and rad; of others nothing is taken for a "
                f"displacement, and no arm is driven by them"
                for feature in strange
            ),
            *self._constant(),
        ]

    def _constant(self) -> list[str]:
        return [
            f"{kind} '{column.feature.name}' is near-constant: it lies within {column.least:.3g} to {column.most:.3g} "
            f"{column.feature.unit}, std {column.std:.2g}; training takes at least {SMALLEST_STD:g} for its spread"
            for kind, columns in (("state", self.state), ("action", self.actions))
            for column in columns
            if column.near_constant
        ]

    def text(self) -> str:
        """All but the images, for people."""
        steps, rate = sum(self.lengths), self.layout.control_hz
        cameras = [f"{name} {height} x {width}" for name, (height, width) in self.layout.cameras.items()]
        lines = [
            f"{self.path}: {self.kind}",
            f"  episodes     {len(self.lengths)}, {min(self.lengths)} to {max(self.lengths)} steps",
            f"  steps        {steps} at {rate:g} Hz, {steps / rate:.0f} s",
            f"  cameras      {', '.join(cameras)} px",
            f"  instructions {len(self.instructions)}",
            *(f"    {count:>5} x {text}" for text, count in list(self.instructions.items())[:10]),
            *(["          ..."] if len(self.instructions) > 10 else []),
            f"  {'':<20}{'unit':>5}" + "".join(f"{name:>11}" for name in ("min", "q01", "mean", "std", "q99", "max")),
            *(f"  {_row('state', column)}" for column in self.state),
            *(f"  {_row('action', column, self._kind(column.feature))}" for column in self.actions),
        ]
        return "\n".join(lines)

    def _kind(self, action: Feature) -> str:
        """How an action is read beyond the end of a demonstration: nothing more to go, or the place to stay at."""
        return "displacement" if is_displacement(action, self.layout.state) else "set point"


def inspect(path: str | Path) -> Inspection:
    """Read all of a data set: every number and every image.

    Raises:
        FileNotFoundError, ValueError, ModuleNotFoundError: as `open_source`; and ValueError when an image cannot be
            read, or when displacements are set points or differences of differences, see `displacements`.
    """
    source = open_source(path)
    if reason := doubt(source.layout, source.episodes):
        raise ValueError(f"{path}: {reason}")
    return Inspection(
        path=source.path,
        kind=source.kind,
        layout=source.layout,
        lengths=[len(episode.actions) for episode in source.episodes],
        instructions=dict(Counter(episode.instruction for episode in source.episodes).most_common()),
        state=_columns(source.layout.state, np.concatenate([episode.state for episode in source.episodes])),
        actions=_columns(source.layout.actions, np.concatenate([episode.actions for episode in source.episodes])),
        sheet=_sheet(source),
    )


def _columns(features: Sequence[Feature], values: np.ndarray) -> list[Column]:
    values = values.astype(np.float64)
    q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
    numbers = np.stack([values.min(0), q01, values.mean(0), values.std(0), q99, values.max(0)], axis=1)
    return [Column(feature, *map(float, row)) for feature, row in zip(features, numbers, strict=True)]


def _row(kind: str, column: Column, remark: str = "") -> str:
    numbers = (column.least, column.q01, column.mean, column.std, column.q99, column.most)
    return (
        f"{kind:<7}{column.feature.name:<13}{column.feature.unit:>5}"
        + "".join(f"{number:>11.4g}" for number in numbers)
        + "".join(f"  {said}" for said in (remark, "near-constant" * column.near_constant) if said)
    )


def _sheet(source: Source) -> np.ndarray:
    """Reads every image on the way, so that none is found missing later."""
    lengths = [len(episode.actions) for episode in source.episodes]
    shown = set(np.linspace(0, len(lengths) - 1, EPISODES).round().astype(int).tolist())
    rows = []
    for number, length in enumerate(tqdm(lengths, desc="read images", unit="demo", leave=False)):
        moments = np.linspace(0, length - 1, MOMENTS).round().astype(int)
        strips = []
        for camera in source.layout.cameras:
            images = source.images(number, camera, slice(0, length))
            strips.append(np.concatenate([_framed(images[moment]) for moment in moments], axis=1))
        if number in shown:
            tallest = max(len(strip) for strip in strips)
            rows.append(np.concatenate([_padded(strip, tallest) for strip in strips], axis=1))
    return np.concatenate(rows)


def _framed(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def _padded(strip: np.ndarray, height: int) -> np.ndarray:
    return np.pad(strip, ((0, height - len(strip)), (0, MARGIN), (0, 0)), constant_values=255)


def write_sheet(inspection: Inspection, path: Path) -> None:
    """Write the contact sheet as PNG; the file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        Image.fromarray(inspection.sheet).save(partial, "PNG")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
