"""Images survive the way through a message, whatever its encoding and padding; what contradicts itself is refused."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

import io

import numpy as np
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Picture
from sensor_msgs.msg import CompressedImage, Image

from aegis_policy.inference.ros_images import ConversionError, compressed_to_numpy, image_to_numpy, resized
from aegis_ros.conversions import numpy_to_image, to_duration, to_seconds, to_stamp

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


@given(pixels)
def test_a_compressed_image_reads_as_it_was(image: np.ndarray) -> None:
    file = io.BytesIO()
    Picture.fromarray(image).save(file, format="PNG")
    assert np.array_equal(compressed_to_numpy(CompressedImage(format="png", data=file.getvalue())), image)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff\xe0cut off"])
def test_a_compressed_image_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ConversionError, match="not a readable JPEG or PNG"):
        compressed_to_numpy(CompressedImage(data=data))


def test_another_size_is_the_whole_picture_in_less_detail() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, 320:] = 200
    small = resized(image, 96, 96)
    assert small.shape == (96, 96, 3) and (small[:, :46] == 0).all() and (small[:, 50:] == 200).all()
    assert resized(small, 96, 96) is small


@given(st.integers(0, 10**12))
def test_a_duration_keeps_its_seconds(microseconds: int) -> None:
    assert to_seconds(to_duration(microseconds * 1e-6)) == pytest.approx(microseconds * 1e-6, abs=1e-8)
