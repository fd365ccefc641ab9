"""Episodes as short films: animated WebP, which Pillow writes and every browser plays; and single images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

VIEW_PX = 192  # side of the view for people; the policy's own images are stacked beside it
REST_MS = 1500  # how long the last frame stands before the film begins again


def compose(view: np.ndarray, images: Mapping[str, np.ndarray]) -> np.ndarray:
    """One frame: a view for people on the left, what the policy gets stacked on the right; uint8 [H, W, 3]."""
    side = VIEW_PX // max(2, len(images))
    inputs = [_resized(image, side) for image in images.values()]
    column = np.zeros((VIEW_PX, side, 3), np.uint8)
    for index, image in enumerate(inputs):
        column[index * side : (index + 1) * side] = image
    return np.concatenate([_resized(view, VIEW_PX), column], axis=1)


def encode_webp(frames: Sequence[np.ndarray], rate: float) -> bytes:
    """An endlessly repeating animation of uint8 [H, W, 3] frames, `rate` of them a second."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    step_ms = round(1000 / rate)
    file = io.BytesIO()
    first.save(
        file,
        format="WEBP",
        save_all=True,
        append_images=rest,
        duration=[step_ms] * len(rest) + [REST_MS],
        loop=0,
        quality=60,
        method=4,
    )
    return file.getvalue()


def encode_png(image: np.ndarray) -> bytes:
    """One uint8 [H, W, 3] image, without loss."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
