"""RGB frames into an MP4 and out of it again, by PyAV. Needs the extra `lerobot`.

H.264 without loss and with every colour at every pixel (4:4:4): only the rounding of the colour space is left, at most
3 of 255 a pixel. The usual 4:2:0 stores one colour for four pixels, which in small images changes the edges of small
coloured things by up to 140.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

import av
import numpy as np

CODEC: Final = "libx264"
PIXELS = "yuv444p"
OPTIONS = {"qp": "0", "g": "2", "preset": "veryfast"}  # a key frame every other frame: quick to reach any of them
REORDERED = 16
"""Frames by which H.264 and H.265 may store one before its turn: a seek, which goes by their order, may miss it."""


class VideoInfo(NamedTuple):
    """What the header of a video says."""

    frames: int
    height: int
    width: int


class VideoWriter:
    """Appends frames to a new video; a context manager.

    Args:
        path: the MP4 to write.
        size: height and width, px.
        rate: frames per second.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: float):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream(CODEC, _fraction(rate), options=OPTIONS)
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = PIXELS
        self.frames = 0

    def append(self, images: np.ndarray) -> None:
        """Add uint8 [n, H, W, 3]; the first of them becomes a key frame."""
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pict_type = av.video.frame.PictureType.I if i == 0 else av.video.frame.PictureType.NONE
            self._container.mux(self._stream.encode(frame))
        self.frames += len(images)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._container.mux(self._stream.encode())
        self._container.close()


class VideoReader:
    """Frames out of a video that stays open: opening it takes longer than reaching one of its frames. Not thread-safe.

    Raises:
        ValueError: there is no such file, or it is no whole video.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise ValueError(f"{path}: no such video")
        self.path = path
        with self._named_errors():
            self._container = av.open(str(path))
        if not self._container.streams.video:
            raise ValueError(f"{path}: no video inside")
        self._stream = self._container.streams.video[0]
        self._colours = av.video.reformatter.VideoReformatter()  # one for all frames: setting it up takes longest

    @property
    def info(self) -> VideoInfo:
        """Number of frames and their size, without decoding."""
        return VideoInfo(self._stream.frames, self._stream.height, self._stream.width)

    def frames(self, start: float, rate: float, steps: slice) -> np.ndarray:
        """Some of the frames that are shown from second `start` on, one every 1 / `rate` seconds.

        Returns:
            uint8 [n, H, W, 3], where `steps` says which n.

        Raises:
            ValueError: the video cannot be read, or one of the frames is not in it; says which.
        """
        missing = set(range(steps.start, steps.stop))
        images = np.empty((len(missing), self._stream.height, self._stream.width, 3), np.uint8)
        for earlier in (0, REORDERED):  # straight there is quickest, but may end behind it
            for time, frame in self._shown(start + (steps.start - earlier) / rate):
                step = round((time - start) * rate)
                if step in missing:
                    images[step - steps.start] = self._colours.reformat(frame, format="rgb24").to_ndarray()
                    missing.remove(step)
                if step >= steps.stop - 1:
                    break
            if not missing:
                return images
        raise ValueError(f"{self.path}: no frame {min(missing)} (at {start + min(missing) / rate:.3f} s)")

    def _shown(self, begin: float) -> Iterator[tuple[float, av.VideoFrame]]:
        """Each frame and when it is shown, s, from a key frame at or before `begin` on."""
        base, origin = self._stream.time_base or Fraction(1, 1000), self._stream.start_time or 0
        with self._named_errors():
            self._container.seek(max(0, origin + round(begin / base)), stream=self._stream, backward=True)
            for frame in self._container.decode(self._stream):
                if frame.pts is not None:
                    yield float((frame.pts - origin) * base), frame

    def close(self) -> None:
        self._container.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """What goes wrong is a ValueError that names the file."""
        try:
            yield
        except (av.error.FFmpegError, EOFError) as error:
            raise ValueError(f"{self.path}: not a whole video: {error}") from error


def _fraction(rate: float) -> Fraction:
    return Fraction(rate).limit_denominator(100_000)
