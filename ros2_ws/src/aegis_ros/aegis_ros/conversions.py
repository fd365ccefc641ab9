"""Between ROS messages and what the rest of this repository speaks: numpy arrays, and seconds as floats."""

from __future__ import annotations

from array import array

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image

_CHANNELS = {  # sensor_msgs' 8-bit encodings -> which of their channels are red, green and blue
    "rgb8": (3, [0, 1, 2]),
    "bgr8": (3, [2, 1, 0]),
    "rgba8": (4, [0, 1, 2]),
    "bgra8": (4, [2, 1, 0]),
    "mono8": (1, [0, 0, 0]),
}


class ConversionError(ValueError):
    """A message that cannot be read; says what is wrong with it, and what was expected."""


def image_to_numpy(message: Image) -> np.ndarray:
    """The pixels of a colour or grey image of 8 bits, uint8 [H, W, 3], red first.

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


def numpy_to_image(pixels: np.ndarray, stamp: Time, frame_id: str) -> Image:
    """The message, encoding "rgb8", of uint8 [H, W, 3].

    Raises:
        ConversionError: another dtype or shape.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ConversionError(f"pixels: expected uint8 [H, W, 3], got {pixels.dtype}{list(pixels.shape)}")
    height, width, _ = pixels.shape
    message = Image(height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width)
    message.header.stamp, message.header.frame_id = stamp, frame_id
    message.data = array("B", pixels.tobytes())  # rclpy checks bytes one by one, but takes an array as it is
    return message


def to_seconds(stamp: Time) -> float:
    """A Time or a Duration as seconds; its nanoseconds stay told apart for 104 days of clock."""
    return stamp.sec + stamp.nanosec * 1e-9


def to_stamp(nanoseconds: int) -> Time:
    """Time since the clock's zero, in nanoseconds, as a message."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)
