"""Images survive the way through a message, whatever its encoding and padding; what contradicts itself is refused."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

import numpy as np
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sensor_msgs.msg import Image

from aegis_ros.conversions import ConversionError, image_to_numpy, numpy_to_image, to_seconds, to_stamp

sizes = st.tuples(st.integers(1, 7), st.integers(1, 7))
pixels = sizes.flatmap(lambda size: arrays(np.uint8, (*size, 3)))
LAYOUTS = {"rgb8": "rgb", "bgr8": "bgr", "rgba8": "rgba", "bgra8": "bgra"}


def packed(image: np.ndarray, encoding: str, padding: int, bigendian: bool) -> Image:
    """As a driver would write it that pads its rows with 7s, and its alpha with 9s."""
    planes = {"r": image[..., 0], "g": image[..., 1], "b": image[..., 2], "a": np.full(image.shape[:2], 9, np.uint8)}
    height, width = image.shape[:2]
    rows = np.stack([planes[channel] for channel in LAYOUTS[encoding]], axis=-1).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=7)
    message = Image(height=height, width=width, encoding=encoding, is_bigendian=int(bigendian), step=rows.shape[1])
    message.data = rows.tobytes()
    return message


@given(pixels)
def test_an_image_comes_back_as_it_went(image: np.ndarray) -> None:
    message = numpy_to_image(image, Time(sec=3, nanosec=4), "front_camera")
    assert (message.encoding, message.step, message.header.frame_id) == ("rgb8", 3 * image.shape[1], "front_camera")
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (3, 4)
    assert np.array_equal(image_to_numpy(message), image)


@given(pixels, st.sampled_from(sorted(LAYOUTS)), st.integers(0, 5), st.booleans())
def test_every_layout_reads_as_red_green_blue(image: np.ndarray, encoding: str, padding: int, bigendian: bool) -> None:
    read = image_to_numpy(packed(image, encoding, padding, bigendian))
    assert read.dtype == np.uint8 and np.array_equal(read, image)


def test_grey_is_as_much_of_each_colour() -> None:
    read = image_to_numpy(Image(height=1, width=2, encoding="mono8", step=2, data=[5, 6]))
    assert read.tolist() == [[[5, 5, 5], [6, 6, 6]]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "mono16"}, "encoding 'mono16'"),
        ({"encoding": ""}, "encoding ''"),
        ({"step": 5}, "at least 6"),
        ({"height": 3}, "3 rows of 6 bytes, got 12"),
    ],
)
def test_a_contradiction_is_refused(changes: dict, reason: str) -> None:
    fields = {"height": 2, "width": 2, "encoding": "rgb8", "step": 6, "data": [0] * 12} | changes
    with pytest.raises(ConversionError, match=reason):
        image_to_numpy(Image(**fields))


@pytest.mark.parametrize("image", [np.zeros((2, 2, 3)), np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8)])
def test_only_colour_images_of_bytes_are_sent(image: np.ndarray) -> None:
    with pytest.raises(ConversionError, match="expected uint8"):
        numpy_to_image(image, Time(), "front_camera")


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_time_keeps_its_nanoseconds(nanoseconds: int) -> None:
    stamp = to_stamp(nanoseconds)
    assert stamp.sec * 10**9 + stamp.nanosec == nanoseconds
    assert to_seconds(stamp) == pytest.approx(nanoseconds * 1e-9, rel=1e-15)
