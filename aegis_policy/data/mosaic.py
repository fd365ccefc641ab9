"""Mosaics: pictures made of many small cut-outs, each with one object, for teaching a vision tower shapes.

An ordinary scene shows two or three objects on a few of its patches, and a small vision tower takes very long to tell a
cube from a ball by them. A mosaic shows some sixteen objects at the same cost (after the augmentation of YOLOv4, arXiv
2004.10934, which joins four pictures).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aegis_policy.data.vqa import VQASet

TILE = 24
"""Pixels on a side of a cut-out: a little more than an object takes."""
JITTER = 4
"""Pixels that an object may be off its tile's middle."""
MIN_PIXELS = 25
"""Objects that show less of themselves are left out."""
SCENES = 8000
"""From how many scenes of a set objects are cut."""


class Mosaics:
    """Draws mosaics out of question sets with label images (their first camera)."""

    def __init__(self, sets: Sequence[VQASet]):
        self._images = [dataset.images[dataset.cameras[0]] for dataset in sets]
        self._labels = [dataset.labels[dataset.cameras[0]] for dataset in sets]
        places = [
            (source, row, int(y.mean()), int(x.mean()))
            for source, labels in enumerate(self._labels)
            for row in range(min(len(labels), SCENES))
            for thing in np.unique(labels[row])
            if 0 < thing <= sets[source].legend.objects
            for y, x in [np.nonzero(labels[row] == thing)]
            if len(y) >= MIN_PIXELS
        ]
        if not places:
            raise ValueError("no object in the label images to make mosaics of")
        self._places = np.array(places)

    def batch(self, rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Mosaics uint8 [B, 1, S, S, 3] and their label images [B, 1, S, S]."""
        size = self._images[0].shape[1]
        side = size // TILE + 1
        images = np.zeros((rows, 1, size, size, 3), np.uint8)
        labels = np.zeros((rows, 1, size, size), np.uint8)
        for image, label in zip(images[:, 0], labels[:, 0], strict=True):
            corner = rng.integers(0, TILE, 2)
            for tile in np.ndindex(side, side):
                self._paste(rng, np.array(tile) * TILE - corner, image, label)
        return images, labels

    def _paste(self, rng: np.random.Generator, corner: np.ndarray, image: np.ndarray, label: np.ndarray) -> None:
        """Put a random object's cut-out at `corner` (row, column), as far as it is inside."""
        size = len(image)
        place = self._places[rng.integers(len(self._places))]
        source, row, middle = place[0], place[1], place[2:]
        cut = np.clip(middle - TILE // 2 + rng.integers(-JITTER, JITTER + 1, 2), 0, size - TILE)
        low, high = np.maximum(corner, 0), np.minimum(corner + TILE, size)
        to = (slice(low[0], high[0]), slice(low[1], high[1]))
        y, x = low - corner + cut
        height, width = high - low
        image[to] = self._images[source][row, y : y + height, x : x + width]
        label[to] = self._labels[source][row, y : y + height, x : x + width]
