"""Episodes as a recording for the Rerun viewer: what was seen, felt, done, asked and answered, on common timelines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from aegis_policy import Feature, PolicyInfo
from aegis_sim.results import Episode, Rollout, Trace

if TYPE_CHECKING:
    import rerun

FLUSH_S = 120  # to write what is still in memory
PAUSE_STEPS = 1  # between the last instant of an episode and the first of the next one
EPISODE, TIME = "episode", "time"  # timelines: which one, from 0; simulated seconds, one episode after the other
STATE, ACTION = "state", "action"  # entities; each camera is one, by its name, under "camera"


@contextmanager
def rerun_file(path: Path) -> Iterator[Callable[[PolicyInfo, Episode], None]]:
    """Gives what takes episodes, in order and with their traces, to a file for the Rerun viewer.

    The file appears when the context is left without an error; an existing one is replaced.

    Raises:
        ValueError: the package rerun-sdk is not installed.
    """
    try:
        import rerun as rr
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--rerun {path} needs the package 'rerun-sdk': pip install \"aegis-policy[rerun]\""
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    stream = rr.RecordingStream("aegis eval", recording_id=uuid4())
    try:
        stream.save(temporary)
        yield _Writer(stream)
        try:
            stream.flush(timeout_sec=FLUSH_S)
        except Exception as error:  # the SDK's own kind
            raise OSError(f"{path}: cannot be written whole: {error}") from error
        stream.disconnect()  # closes the file
        temporary.replace(path)
    finally:
        stream.disconnect()
        temporary.unlink(missing_ok=True)


class _Writer:
    """Takes episodes to a stream, one after the other."""

    def __init__(self, stream: rerun.RecordingStream) -> None:
        self._stream = stream
        self._episodes, self._start = 0, 0.0  # how many so far, and when the next one begins, s

    def __call__(self, info: PolicyInfo, episode: Episode) -> None:
        import rerun as rr

        rollout = episode.rollout
        assert rollout is not None and rollout.trace is not None  # `evaluate` has every episode traced
        trace, rate = rollout.trace, info.control_hz
        if self._episodes == 0:
            self._set_up(info, trace)
        for camera, images in trace.images.items():
            columns = rr.EncodedImage.columns(blob=list(images), media_type=["image/png"] * len(images))
            self._send(f"camera/{camera}", np.arange(len(images)) / rate, columns)
        for entity, values in ((STATE, trace.states), (ACTION, trace.actions)):
            self._send(entity, np.arange(len(values)) / rate, rr.Scalars.columns(scalars=values))
        self._say("instruction", [0], [f"{rollout.instruction} (seed {episode.seed})"], ["INFO"])
        if episode.asked:
            said = [f"{one.question}? {one.answer or '(nothing)'} (truth: {one.truth})" for one in episode.asked]
            levels = ["INFO" if one.right else "WARN" for one in episode.asked]
            self._say("questions", [one.step / rate for one in episode.asked], said, levels)
        self._say("outcome", [rollout.steps / rate], [_outcome(rollout)], ["INFO" if rollout.success else "ERROR"])
        self._episodes += 1
        self._start += (rollout.steps + PAUSE_STEPS) / rate

    def _set_up(self, info: PolicyInfo, trace: Trace) -> None:
        """The names of the curves, and which view is where."""
        import rerun as rr
        import rerun.blueprint as rrb

        for entity, features in ((STATE, info.state), (ACTION, info.actions)):
            self._stream.log(entity, rr.SeriesLines(names=_names(features)), static=True)
        cameras = [rrb.Spatial2DView(origin=f"camera/{camera}", name=camera) for camera in trace.images]
        curves = [rrb.TimeSeriesView(origin=entity, name=entity) for entity in (STATE, ACTION)]
        views = rrb.Vertical(
            rrb.Horizontal(*cameras), rrb.Horizontal(*curves), rrb.TextLogView(origin="/", name="words")
        )
        self._stream.send_blueprint(rrb.Blueprint(views, rrb.TimePanel(timeline=TIME)))

    def _say(self, entity: str, seconds: Sequence[float], texts: list[str], levels: list[str]) -> None:
        import rerun as rr

        self._send(entity, np.array(seconds), rr.TextLog.columns(text=texts, level=levels))

    def _send(self, entity: str, seconds: np.ndarray, columns: Any) -> None:
        """Rows of one entity, `seconds` after the episode began."""
        import rerun as rr

        indexes = [
            rr.TimeColumn(EPISODE, sequence=[self._episodes] * len(seconds)),
            rr.TimeColumn(TIME, duration=list(self._start + seconds)),
        ]
        self._stream.send_columns(entity, indexes, columns)


def _names(features: Sequence[Feature]) -> list[str]:
    return [f"{one.name} [{one.unit}]" for one in features]


def _outcome(rollout: Rollout) -> str:
    return "success" if rollout.success else f"failure: {rollout.failure}"
