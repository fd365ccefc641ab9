"""Camera images as a vision tower reads them, for every backend the same to the bit: numpy only."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

REACH = 2.0
"""Pixels to either side that bicubic interpolation looks at."""


def scale(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [..., H, W, 3] -> float32 [..., 3, size, size] in [-1, 1], resized where H or W is not `size`."""
    pixels = np.moveaxis(images.astype(np.float32), -1, -3)
    height, width = pixels.shape[-2:]
    if (height, width) != (size, size):
        pixels = _bicubic(height, size) @ (pixels @ _bicubic(width, size).T)
        pixels = pixels.round().clip(0, 255)
    return pixels / np.float32(127.5) - 1


@lru_cache(maxsize=16)
def _bicubic(length: int, size: int) -> np.ndarray:
    """[size, length] weights of Pillow's bicubic resize, which looks further where it shrinks."""
    step = length / size
    stretch = max(step, 1.0)
    centers = step * (np.arange(size) + 0.5)
    x = np.abs(np.arange(length) + 0.5 - centers[:, None]) / stretch
    near = (1.5 * x - 2.5) * x * x + 1  # Keys' cubic with a = -0.5
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < REACH, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
