"""A small policy with both cameras of another size than it reads, exported, and realistic scenes for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from aegis_policy import Camera, Observation
from aegis_policy.inference.export import export_policy
from aegis_policy.model.checkpoint import Checkpoint, asset, save
from tests.model.builders import TEXTS, build_checkpoint, norm_stats

CAMERAS = (Camera("front", 20, 24), Camera("wrist", 48, 32))
"""Of another size than what the policy reads, which is 16 pixels."""


@dataclass(frozen=True)
class Exported:
    """A checkpoint's folder, what was exported of it, and how far the two were apart then."""

    checkpoint: Path
    folder: Path
    difference: float


def small_checkpoint(seed: int = 1) -> Checkpoint:
    checkpoint = build_checkpoint(seed, num_hidden_layers=2)  # every layer takes its time to export
    return replace(checkpoint, info=replace(checkpoint.info, cameras=CAMERAS))


def export_small(folder: Path) -> Exported:
    save(small_checkpoint(), folder / "checkpoint")
    difference = export_policy(folder / "checkpoint", folder / "exported")
    return Exported(folder / "checkpoint", folder / "exported", difference)


def scenes(count: int) -> list[Observation]:
    """Rendered tabletops that ship with the package, and states like those that the policy was trained on."""
    rng, stats = np.random.default_rng(0), norm_stats().state
    with h5py.File(asset("questions") / "scenes.hdf5") as file:
        views = {camera: file[f"images/{camera.name}"][:count] for camera in CAMERAS}
    return [
        Observation(
            {camera.name: resized(camera, pictures[i]) for camera, pictures in views.items()},
            (stats.mean + stats.std * rng.normal(size=len(stats.mean))).astype(np.float32),
            TEXTS[i % len(TEXTS)],
            stamp=float(i),
        )
        for i in range(count)
    ]


def resized(camera: Camera, picture: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(picture).resize((camera.width, camera.height)))
