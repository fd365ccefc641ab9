"""The pixels of ROS image messages. Knows their fields and no ROS: rclpy reads them from topics, rosbags from bags."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

_CHANNELS = {  # sensor_msgs' 8-bit encodings -> which of their channels are red, green and blue
    "rgb8": (3, [0, 1, 2]),
    "bgr8": (3, [2, 1, 0]),
    "rgba8": (4, [0, 1, 2]),
    "bgra8": (4, [2, 1, 0]),
    "mono8": (1, [0, 0, 0]),
}


class ConversionError(ValueError):
    """A message that cannot be read; says what is wrong with it, and what was expected."""


def image_to_numpy(message: Any) -> np.ndarray:
    """The pixels of a colour or grey sensor_msgs/Image of 8 bits, uint8 [H, W, 3], red first.

    Rows may be padded (`step`); `is_bigendian` means nothing to single bytes.

    Raises:
        ConversionError: another encoding, or sizes that contradict one another.
    """
    if message.encoding not in _CHANNELS:
        raise ConversionError(f"image encoding '{message.encoding}': expected one of {', '.join(_CHANNELS)}")
    count, order = _CHANNELS[message.encoding]
    height, width, step = message.height, message.width, message.step
    if step < width * count:
        raise ConversionError(
            f"image step {step}: expected at least {width * count} bytes for {width} {message.encoding}"
        )
    if len(message.data) != height * step:
        raise ConversionError(f"image data: expected {height} rows of {step} bytes, got {len(message.data)} bytes")
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)
    return rows[:, : width * count].reshape(height, width, count)[..., order]


def compressed_to_numpy(message: Any) -> np.ndarray:
    """The pixels of a JPEG or PNG of 8 bits in a sensor_msgs/CompressedImage, uint8 [H, W, 3], red first.

    Raises:
        ConversionError: neither, or cut off, or values beyond 8 bits.
    """
    try:
        with Image.open(io.BytesIO(bytes(message.data)), formats=("JPEG", "PNG")) as picture:
            if picture.mode.startswith(("I", "F")):
                raise ConversionError(f"compressed image: values beyond 8 bits ({picture.mode})")
            return np.array(picture.convert("RGB"))
    except ConversionError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like
        raise ConversionError(f"compressed image: not a readable JPEG or PNG ({error})") from error


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [height, width, 3]: the whole picture, as `load_image` resizes a user's own."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
