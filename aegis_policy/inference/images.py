"""Camera images in and out: as text on the wire (base64 of PNG or JPEG), and from a user's own files."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

from aegis_policy.policy import Camera, ObservationError, PolicyInfo, check_image, find_camera

logger = logging.getLogger(__name__)

_KINDS = {
    "1": "1-bit black and white",
    "L": "8-bit greyscale",
    "LA": "8-bit greyscale with alpha",
    "P": "8-bit palette",
    "RGB": "8-bit RGB",
    "RGBA": "8-bit RGBA",
    "CMYK": "8-bit CMYK",
}  # Pillow's modes in the words of whoever made the file
READ = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats of a user's own pictures; Pillow reads many more, by code that few have ever attacked."""
MAX_PIXELS = 25_000_000
"""Of a user's own picture: what most cameras give; decoded, a tenth of a gigabyte."""
MAX_SCANS, USUAL_SCANS = 64, 12
"""Of a JPEG: each goes over the whole picture anew. Some ten make a usual progressive one, of MAX_PIXELS too."""
FILE_MARGIN = 2**20
"""Bytes beside the pixels of a camera's image: what else a file may say, and the reason why a wrong one is refused."""


def encode_png(image: np.ndarray) -> bytes:
    """A PNG file of uint8 [H, W, 3]: lossless, so what is decoded is what was seen."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)  # a robot waits for this: fast before small
    return buffer.getvalue()


def encode_image(image: np.ndarray) -> str:
    """Base64 of `encode_png`."""
    return base64.b64encode(encode_png(image)).decode("ascii")


def decode_image(camera: Camera, encoded: str) -> np.ndarray:
    """Decode the base64 of a PNG or JPEG file; see `decode_file`.

    Raises:
        ObservationError: not base64, or as `decode_file`.
    """
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        hint = "send the base64 of a PNG or JPEG file, without line breaks or a 'data:' prefix"
        raise ObservationError(f"camera '{camera.name}': not base64 ({error}); {hint}") from None
    return decode_file(camera, data)


def decode_file(camera: Camera, data: bytes) -> np.ndarray:
    """Decode a PNG or JPEG file to uint8 [camera.height, camera.width, 3], upright.

    Nothing is converted or resized: a robot that sends something else has a mistake to find. Size and kind are read
    from the file's header, so that a small file that unfolds to gigabytes is refused before a pixel is decoded.

    Raises:
        ObservationError: not a PNG or JPEG file, not the size and kind that `camera` promises, or one that would take
            long: a file of many scans, or of more bytes than such an image has.
    """
    where = f"camera '{camera.name}'"
    expected = f"{camera.width}x{camera.height} 8-bit RGB"
    most = 2 * 3 * camera.height * camera.width + FILE_MARGIN  # JPEG makes noise larger than it is, by two thirds
    if len(data) > most:
        raise ObservationError(f"{where}: a file of {len(data)} bytes, at most {most}; send an image of {expected}")
    _check_scans(where, data)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            found = _describe(image)
            # A camera held sideways says so in the EXIF orientation; policies see images the right way up.
            pixels = np.array(ImageOps.exif_transpose(image)) if found == expected else None
    except Exception as error:  # a hostile file can make a decoder raise anything; whatever it is, the file is at fault
        raise ObservationError(f"{where}: not a readable PNG or JPEG file ({type(error).__name__})") from error
    if pixels is None:
        raise ObservationError(f"{where}: expected an image of {expected}, got {found}")
    check_image(camera, pixels)
    return pixels


def decode_images(info: PolicyInfo, encoded: Mapping[str, str]) -> dict[str, np.ndarray]:
    """`decode_image` for each camera by name. Raises ObservationError for a camera the policy does not have."""
    return {name: decode_image(find_camera(info, name), text) for name, text in encoded.items()}


def load_image(camera: Camera, source: Path | bytes) -> np.ndarray:
    """Read a user's own picture as `camera` would see it: upright, RGB, resized to uint8 [height, width, 3].

    Args:
        source: a file, or what is in one.

    Raises:
        OSError: no such file, or not an image.
        ObservationError: values that are not colours (16-bit, integer or float greyscale), more than MAX_PIXELS, or, in
            what is not from a file of the user's own, more scans than pictures of its size have.
    """
    what, level = (str(source), logging.INFO) if isinstance(source, Path) else ("image", logging.DEBUG)
    scans = _check_scans(what, source) if isinstance(source, bytes) else 0
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=READ) as opened:
            if opened.width * opened.height > MAX_PIXELS:  # the header says so; nothing is decoded yet
                raise ObservationError(f"{what}: {opened.width}x{opened.height}, more than {MAX_PIXELS:,} pixels")
            if opened.width * opened.height * scans > MAX_PIXELS * USUAL_SCANS:
                extent = f"{opened.width}x{opened.height}"
                raise ObservationError(f"{what}: a JPEG of {scans} scans over {extent}; save it anew, not progressive")
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith(("I", "F")):
                raise ObservationError(f"{what}: values beyond 8 bits ({image.mode}); make it an 8-bit image first")
            rgb = image.convert("RGB")
    except ObservationError:
        raise
    except OSError as error:
        raise error if error.filename or what in str(error) else OSError(f"{what}: {error}") from error
    except Exception as error:  # Pillow's decoders raise what they like
        raise ObservationError(f"{what}: not a readable image ({error})") from error
    size = (camera.width, camera.height)
    if image.mode != "RGB":
        logger.log(level, "%s: converted from %s to RGB", what, image.mode)
    if rgb.size != size:
        logger.log(level, "%s: resized from %dx%d to %dx%d for camera '%s'", what, *rgb.size, *size, camera.name)
        rgb = rgb.resize(size, Image.Resampling.BICUBIC)
    return np.array(rgb)


def _check_scans(what: str, data: bytes) -> int:
    """How many scans a JPEG file has, 0 for any other.

    Raises:
        ObservationError: more than MAX_SCANS: in a few kilobytes it can hold minutes of work.
    """
    # What a scan holds never looks like a marker: a 0xFF in it is followed by a 0.
    scans = data.count(b"\xff\xda") if data.startswith(b"\xff\xd8") else 0
    if scans > MAX_SCANS:
        raise ObservationError(f"{what}: a JPEG of {scans} scans, at most {MAX_SCANS}; save it anew, not progressive")
    return scans


def _describe(image: ImageFile.ImageFile) -> str:
    """Size and kind of an opened, not yet decoded image, such as "64x64 8-bit RGB"."""
    kind = _KINDS.get(image.mode, image.mode)
    if "16" in str(image.tile[0][3]):  # Pillow calls a 16-bit RGB PNG "RGB" too; only its raw mode tells
        kind = "16-bit " + _KINDS.get(image.mode, "8-bit greyscale").removeprefix("8-bit ")
    return f"{image.width}x{image.height} {kind}"
