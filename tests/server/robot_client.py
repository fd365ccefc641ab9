"""A small robot that really speaks `/v1/robot`, and the other end of `/v1/console` without a browser."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from aegis_policy.inference.wire import pack, unpack
from tests.linear_policy import LinearPolicy

INFO = LinearPolicy.info
DESCRIPTION: dict[str, Any] = {
    "name": "a small robot",
    "cameras": [{"name": camera.name, "height": camera.height, "width": camera.width} for camera in INFO.cameras],
    "state": [{"name": feature.name, "unit": feature.unit} for feature in INFO.state],
    "actions": [{"name": feature.name, "unit": feature.unit} for feature in INFO.actions],
    "horizon": INFO.horizon,
    "control_hz": INFO.control_hz,
    "instructions": ["pick up the red cube", "pick up the blue ball"],
}
REPORT: dict[str, Any] = {
    "frames": {},
    "state": np.zeros(len(INFO.state), np.float32),
    "running": False,
    "instruction": "",
    "stopped": None,
    "chunk": None,
    "latency_ms": None,
    "success": None,
    "note": "",
}


def png(height: int, width: int, colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def address(url: str, route: str) -> str:
    return f"{url.replace('http', 'ws', 1)}{route}"


class SmallRobot:
    """What it is told it does, at ten reports a second; attached within a `with`.

    `told` are the commands, `beats` the times at which anything came.
    """

    def __init__(self, url: str, *, key: str | None = None, running: bool = False, stopped: str | None = None) -> None:
        self.url, self.key = url, key
        self.running, self.instruction, self.stopped = running, "", stopped
        self.told: list[dict[str, Any]] = []
        self.beats: list[float] = []
        self.dark: set[str] = set()  # cameras that give no more pictures
        self._ticks = 0
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._live)

    def __enter__(self) -> Self:
        give_up = time.monotonic() + 10
        while not self._attach():  # the server may not have noticed yet that the robot before this one has gone
            assert time.monotonic() < give_up
            time.sleep(0.1)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave.set()
        self._thread.join(10)
        self._connection.__exit__(kind, error, traceback)

    def _attach(self) -> bool:
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        self._connection = connect(address(self.url, "/v1/robot"), additional_headers=headers, proxy=None)
        self.socket = self._connection.__enter__()
        self.socket.send(pack(DESCRIPTION))
        first = unpack(self.socket.recv(timeout=10))
        if "error" in first:
            self._connection.__exit__(None, None, None)
            return False
        self._heed(first)
        return True

    def _live(self) -> None:
        while not self._leave.is_set():
            due = time.monotonic() + 0.1
            try:
                self.socket.send(pack(self.report()))
                while (left := due - time.monotonic()) > 0:
                    self._heed(unpack(self.socket.recv(timeout=left)))
            except TimeoutError:
                continue
            except ConnectionClosed:
                return

    def _heed(self, command: dict[str, Any]) -> None:
        self.beats.append(time.monotonic())
        if "heartbeat" in command:
            return
        self.told.append(command)
        if "stop" in command:
            self.running, self.stopped = False, "from the console"
        elif "release" in command:
            self.stopped = None
        elif "start" in command and self.stopped is None:
            self.running, self.instruction = True, command["start"]
        elif "pause" in command:
            self.running = False

    def report(self) -> dict[str, Any]:
        self._ticks += self.running
        number, executed = divmod(self._ticks, INFO.horizon)
        actions = np.random.default_rng(number).normal(0, 0.01, (INFO.horizon, len(INFO.actions)))
        shade = 40 + 10 * (self._ticks % 20)
        return {
            **REPORT,
            "frames": {
                c.name: png(c.height, c.width, (shade, 90, 90)) for c in INFO.cameras if c.name not in self.dark
            },
            "state": np.full(len(INFO.state), 0.01 * self._ticks, np.float32),
            "running": self.running,
            "instruction": self.instruction,
            "stopped": self.stopped,
            "chunk": {"number": number, "actions": actions.astype(np.float32), "executed": executed},
            "latency_ms": 12.5,
        }


class Console:
    """A browser's end of `/v1/console`, with all that it has been told."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: dict[str, Any] = {}

    def until(self, true: Callable[[dict[str, Any]], Any], seconds: float = 10.0) -> dict[str, Any]:
        """Everything known, once `true` of it."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            self.seen |= json.loads(self.socket.recv(timeout=seconds))
            if true(self.seen):
                return self.seen
        raise AssertionError(f"never came true of {self.seen}")

    def send(self, **command: Any) -> None:
        self.seen.pop("error", None)
        self.socket.send(json.dumps(command))


@contextmanager
def watching(url: str, **options: Any) -> Iterator[Console]:
    with connect(address(url, "/v1/console"), proxy=None, max_size=None, close_timeout=1, **options) as socket:
        yield Console(socket)


def reported(field: str, value: Any) -> Callable[[dict[str, Any]], bool]:
    return lambda seen: bool(seen.get("report")) and seen["report"][field] == value
