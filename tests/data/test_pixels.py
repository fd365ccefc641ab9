"""Images are scaled as torch would scale them, without torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aegis_policy.data.pixels import scale

SIZE = 96


def by_torch(images: np.ndarray) -> np.ndarray:
    """Levels, float32 [..., 3, SIZE, SIZE], not yet rounded."""
    pixels = torch.as_tensor(images).movedim(-1, -3).float()
    return F.interpolate(pixels, size=(SIZE, SIZE), mode="bicubic", antialias=True).numpy()


@pytest.mark.parametrize("size", [(480, 640), (96, 128), (40, 56), (224, 224), (9, 12)])
def test_resizes_to_the_nearest_level(size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    levels = (scale(images, SIZE) + 1) * 127.5
    np.testing.assert_allclose(levels, levels.round(), atol=1e-4)
    # What lies half-way between two levels may go either way: nothing else.
    assert np.abs(levels - by_torch(images).clip(0, 255)).max() < 0.5 + 1e-3


def test_leaves_images_of_its_size_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    pixels = scale(image, SIZE)
    assert pixels.dtype == np.float32 and pixels.shape == (3, SIZE, SIZE)
    assert np.array_equal(pixels, (torch.as_tensor(image).movedim(-1, 0).float() / 127.5 - 1).numpy())
