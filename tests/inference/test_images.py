"""Images survive the wire bit for bit, and a user's picture becomes what the camera would have seen."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from aegis_policy import Camera, ObservationError
from aegis_policy.inference.images import decode_image, encode_image, load_image

SIZES = st.integers(1, 40)


@given(image=hnp.arrays(np.uint8, st.tuples(SIZES, SIZES, st.just(3))))
def test_an_image_comes_back_as_it_was_sent(image: np.ndarray) -> None:
    decoded = decode_image(Camera("front", *image.shape[:2]), encode_image(image))
    np.testing.assert_array_equal(decoded, image)
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable  # torch warns of arrays that are not


@given(
    text=st.text(max_size=200)
    | st.binary(max_size=200).map(lambda data: encode_image(np.zeros((1, 1, 3), np.uint8))[: len(data)])
)
def test_whatever_text_is_an_image_or_an_observation_error(text: str) -> None:
    try:
        decoded = decode_image(Camera("front", 1, 1), text)
    except ObservationError as error:
        assert "camera 'front'" in str(error)
    else:
        assert decoded.shape == (1, 1, 3)


def test_a_picture_is_turned_upright_converted_and_resized(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture = Image.new("RGBA", (60, 40), "blue")
    picture.paste((255, 0, 0, 255), (0, 0, 30, 40))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 3  # held upside down: red is on the right
    picture.save(tmp_path / "a.png", exif=exif)
    with caplog.at_level(logging.INFO):
        image = load_image(Camera("front", 8, 8), tmp_path / "a.png")
    assert image.shape == (8, 8, 3)
    assert tuple(image[4, 0]) == (0, 0, 255)
    assert tuple(image[4, 7]) == (255, 0, 0)
    assert "converted from RGBA to RGB" in caplog.text
    assert "resized from 60x40 to 8x8 for camera 'front'" in caplog.text


def test_a_picture_of_the_camera_s_own_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(load_image(Camera("front", 9, 7), tmp_path / "a.png"), image)
    assert not caplog.records


def test_a_depth_image_is_not_taken_for_a_picture(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(tmp_path / "depth.png")
    with pytest.raises(ObservationError, match="beyond 8 bits"):
        load_image(Camera("front", 8, 8), tmp_path / "depth.png")
