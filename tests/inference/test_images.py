"""Images survive the wire bit for bit, and a user's picture becomes what the camera would have seen."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from aegis_policy import Camera, ObservationError
from aegis_policy.inference.images import decode_file, decode_image, encode_image, load_image
from aegis_policy.inference.ros_images import ConversionError, compressed_to_numpy

FRONT = Camera("front", 32, 32)
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


def damaged_png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[36] = 0  # of the length of what is compressed; Pillow raises a SyntaxError
    return bytes(data)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(damaged_png())
    with pytest.raises(ObservationError, match=r"broken\.png: not a readable image"):
        load_image(Camera("front", 8, 8), tmp_path / "broken.png")
    with pytest.raises(ConversionError, match="not a readable JPEG or PNG"):
        compressed_to_numpy(SimpleNamespace(data=damaged_png()))


def test_a_depth_image_is_not_taken_for_a_picture(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(tmp_path / "depth.png")
    with pytest.raises(ObservationError, match="beyond 8 bits"):
        load_image(Camera("front", 8, 8), tmp_path / "depth.png")


def jpeg(scans: int) -> bytes:
    """A file of FRONT's size with so many scans: Pillow's ten, and the last of them again and again."""
    buffer = io.BytesIO()
    Image.new("RGB", (FRONT.width, FRONT.height), "red").save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    last, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    return whole[:end] + whole[last:end] * (scans - 10) + whole[end:]


def test_a_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cut.jpg"
    file.write_bytes(jpeg(10)[:-100])
    with pytest.raises(OSError, match=r"cut\.jpg: "):
        load_image(FRONT, file)


def test_a_large_jpeg_may_have_no_more_scans_than_large_ones_have() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    assert load_image(FRONT, whole).shape == (32, 32, 3)
    last, end = whole.rindex(b"\xff\xda"), whole.rindex(b"\xff\xd9")
    with pytest.raises(ObservationError, match="a JPEG of 60 scans over 5000x5000; save it anew, not progressive"):
        load_image(FRONT, whole[:end] + whole[last:end] * 50 + whole[end:])


def test_a_jpeg_of_a_few_scans_is_read_and_one_of_many_is_refused() -> None:
    for scans in (10, 64):
        assert decode_file(FRONT, jpeg(scans)).shape == load_image(FRONT, jpeg(scans)).shape == (32, 32, 3)
    for read in (decode_file, load_image):
        with pytest.raises(ObservationError, match="a JPEG of 65 scans, at most 64"):
            read(FRONT, jpeg(65))


def test_what_only_looks_like_a_scan_in_a_png_is_not_counted() -> None:
    said, buffer = PngInfo(), io.BytesIO()
    said.add_text("comment", "\xff\xda" * 65)
    Image.new("RGB", (32, 32), "red").save(buffer, "PNG", pnginfo=said)
    assert buffer.getvalue().count(b"\xff\xda") == 65
    assert decode_file(FRONT, buffer.getvalue()).shape == (32, 32, 3)


def test_a_file_far_larger_than_the_camera_s_image_is_refused() -> None:
    ours = jpeg(10)
    assert decode_file(FRONT, ours + bytes(2**20)).shape == (32, 32, 3)
    with pytest.raises(ObservationError, match=r"camera 'front': a file of \d+ bytes, at most 1054720; send an image"):
        decode_file(FRONT, ours + bytes(2**20 + 6144))


@pytest.mark.parametrize("values", [(0, 255), range(256)], ids=["black and white", "any"])
def test_noise_at_the_best_quality_is_not_too_large(values: range | tuple[int, ...]) -> None:
    image = np.random.default_rng(0).choice(np.uint8(values), (600, 600, 3))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=0)
    decode_file(Camera("front", 600, 600), buffer.getvalue())
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=99, subsampling=0)
    decode_file(Camera("front", 600, 600), buffer.getvalue())
