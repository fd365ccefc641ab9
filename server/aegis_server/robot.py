"""What the server knows of the one robot attached to it, the commands that go to it, and the stop that latches.

A robot may be stopped in two places: here, by `stop`, and on its own side, as its reports say. Nothing starts it while
either is so; `release` undoes both. A stop here outlasts the robot: one that attaches later is told of it at once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field, FiniteFloat

from aegis_policy import ObservationError
from aegis_server.schemas import Request, Text, Words, validated

logger = logging.getLogger(__name__)

Name = Annotated[Text, Field(min_length=1, max_length=100)]
Size = Annotated[int, Field(ge=1, le=8192)]
MAX_COMMANDS = 16
"""That wait for a robot which does not read them."""
NOBODY, LATCHED = "no robot is attached", "the robot is stopped: release the stop first"


class CommandError(Exception):
    """A command that cannot be given now; says why."""


class RobotCamera(Request):
    """One camera: its frames are this size."""

    name: Name
    height: Size
    width: Size


class Dimension(Request):
    """One dimension of a state or an action."""

    name: Name
    unit: Annotated[Text, Field(max_length=20)]


class Description(Request):
    """What a robot says of itself first, and again when something of it changes."""

    name: Name
    cameras: list[RobotCamera] = Field(max_length=8)
    state: list[Dimension] = Field(max_length=64)
    actions: list[Dimension] = Field(min_length=1, max_length=64)
    horizon: int = Field(ge=1, le=1000)
    control_hz: float = Field(gt=0, le=10000)
    instructions: list[Words] = Field(max_length=256)


class Doing(Request):
    """Where a robot stands, apart from its pictures and numbers."""

    running: bool
    instruction: Words
    stopped: Words | None
    latency_ms: FiniteFloat | None = Field(ge=0)
    success: bool | None
    note: Words


class Place(Request):
    """Of the chunk being carried out: which it is, and how many of its actions are behind."""

    number: int = Field(ge=0, lt=2**53)
    executed: int = Field(ge=0)


class Link:
    """The place for one robot. Whoever watches it awaits `change`.

    Attributes:
        description: of the robot; None while there is none.
        report: its newest, as JSON's values; None before the first.
        stopped: why it was stopped here; None while it was not.
        identity: another number for another robot, or another description of the same.
        expecting: whether a robot is being started and has not come yet.
    """

    def __init__(self) -> None:
        self.description: Description | None = None
        self.report: dict[str, Any] | None = None
        self.stopped: str | None = None
        self.identity = 0
        self.expecting = False
        self.version = 0
        self._report_json: str | None = None
        self._changed = asyncio.Event()
        self._commands: list[dict[str, Any]] = []
        self._commanded = asyncio.Event()

    # -- for the robot's route -----------------------------------------------------------------------------------

    def attach(self, description: Description) -> None:
        """Take a robot in, or a new description of it."""
        self.description, self.expecting = description, False
        self.identity += 1
        self._announce()

    def detach(self) -> None:
        """The robot has gone."""
        self.description = self.report = self._report_json = None
        self.identity += 1
        self._commands = []
        self._announce()

    def take(self, report: dict[str, Any]) -> None:
        """Take a report in; only the newest is kept."""
        self.report, self._report_json = report, None
        self._announce()

    async def commands(self, beat_s: float) -> list[dict[str, Any]]:
        """What to tell the robot next; after `beat_s` without a command, a sign of life or that the stop still is."""
        try:
            async with asyncio.timeout(beat_s):
                await self._commanded.wait()
        except TimeoutError:
            pass
        self._commanded.clear()
        told, self._commands = self._commands, []
        return told or [{"heartbeat": True} if self.stopped is None else {"stop": True}]

    # -- for consoles --------------------------------------------------------------------------------------------

    async def change(self, since: int) -> None:
        """Wait until `version` is another than `since`."""
        if self.version == since:
            await self._changed.wait()

    def report_json(self) -> str:
        """The newest report, written once for all who watch."""
        if self._report_json is None:
            self._report_json = json.dumps(self.report, allow_nan=False)
        return self._report_json

    def stop(self, why: str) -> None:
        """Stop the robot now, and whichever attaches from now on, until `release`; what it was told before is void."""
        logger.warning("stopped: %s", why)
        self.stopped = why
        self._commands = []
        self._tell({"stop": True})

    def release(self) -> None:
        """Let the robot be started again; it does not move by that."""
        self._tell({"release": True})
        self.stopped = None
        logger.info("the stop is released")

    def start(self, instruction: str) -> None:
        """Have an instruction carried out. Raises CommandError without a robot, or with one that is stopped."""
        self._require_free()
        self._tell({"start": instruction})

    def reset(self) -> None:
        """Have the scene set up anew. Raises CommandError without a robot, or with one that is stopped."""
        self._require_free()
        self._tell({"reset": True})

    def pause(self) -> None:
        """Have the robot hold still. Raises CommandError without a robot."""
        if self.description is None:
            raise CommandError(NOBODY)
        self._tell({"pause": True})

    def _require_free(self) -> None:
        if self.description is None:
            raise CommandError(NOBODY)
        if self.stopped is not None or (self.report and self.report["stopped"] is not None):
            raise CommandError(LATCHED)

    def _tell(self, command: dict[str, Any]) -> None:
        """To the robot that is there, if one is: whoever comes later is told of no release that was not for it."""
        if len(self._commands) >= MAX_COMMANDS:
            raise CommandError("the robot does not take its commands; only a stop is taken now")
        if self.description is not None:
            self._commands.append(command)
            self._commanded.set()
        self._announce()

    def _announce(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()


def read_report(robot: Description, sent: Mapping[str, Any]) -> dict[str, Any]:
    """A robot's report as JSON's values: frames as data URIs, arrays as lists. Raises ObservationError."""
    parts = ("frames", "state", "chunk")
    if missing := [name for name in parts if name not in sent]:
        raise ObservationError(f"{missing[0]}: Field required")
    doing = validated(Doing, {key: value for key, value in sent.items() if key not in parts})
    return {
        "frames": _frames(robot, sent["frames"]),
        "state": _numbers("state", sent["state"], (len(robot.state),)),
        **doing.model_dump(),
        "chunk": None if sent["chunk"] is None else _chunk(robot, sent["chunk"]),
    }


def _frames(robot: Description, sent: Any) -> dict[str, str]:
    cameras = [camera.name for camera in robot.cameras]
    if not isinstance(sent, dict) or not sent.keys() <= set(cameras):
        raise ObservationError(f"frames: expected a map from camera to file, of the cameras {cameras}")
    return {name: _data_uri(f"frames.{name}", file) for name, file in sent.items()}


def _data_uri(where: str, file: Any) -> str:
    for magic, kind in ((b"\x89PNG\r\n", "png"), (b"\xff\xd8\xff", "jpeg")):
        if isinstance(file, bytes) and file.startswith(magic):
            return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"
    raise ObservationError(f"{where}: expected the bytes of a PNG or JPEG file")


def _chunk(robot: Description, sent: Any) -> dict[str, Any]:
    if not isinstance(sent, dict) or "actions" not in sent:
        raise ObservationError("chunk: expected a map with number, actions and executed")
    place = validated(Place, {key: value for key, value in sent.items() if key != "actions"})
    if place.executed > robot.horizon:
        raise ObservationError(f"chunk.executed: {place.executed} of a chunk of {robot.horizon} actions")
    actions = _numbers("chunk.actions", sent["actions"], (robot.horizon, len(robot.actions)))
    return {**place.model_dump(), "actions": actions}


def _numbers(where: str, sent: Any, shape: tuple[int, ...]) -> list[Any]:
    """Finite numbers of that shape, as lists."""
    if not isinstance(sent, np.ndarray) or sent.dtype.kind not in "iuf" or sent.shape != shape:
        raise ObservationError(f"{where}: expected an array of numbers {list(shape)}")
    with np.errstate(over="ignore"):
        rounded = np.round(sent.astype(np.float64), 5)  # which makes the largest there are infinite
    if not np.isfinite(rounded).all():
        raise ObservationError(f"{where}: not finite")
    numbers: list[Any] = rounded.tolist()
    return numbers
