"""What people's hands are in tests: real key events on a display, a SpaceMouse's reports, and somebody who acts."""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from aegis_sim.by_hand import Session
from aegis_sim.demonstrations import Recording
from aegis_sim.devices import Hand
from aegis_sim.env import ArmEnv
from aegis_sim.tasks import expert

KEYS = {  # axis of an action -> the keys that go down it and up it
    0: ("Up", "Down"),
    1: ("Left", "Right"),
    2: ("period", "semicolon"),
    3: ("e", "r"),
    4: ("h", "y"),
    5: ("p", "o"),
}
FULL = np.array([0.03125] * 3 + [0.125] * 3)  # m and rad per control step: all the way


@contextmanager
def x_display() -> Iterator[str]:
    """The name of a virtual X display."""
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "1280x900x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield f":{server.stdout.readline().strip()}"
        finally:
            server.terminate()


def xdotool(*words: str) -> None:
    """Key events, from a process of their own."""
    subprocess.run(["xdotool", *words], check=True, timeout=60)


class Typist:
    """Presses the keys that the expert's next action asks for: holds them for a long way, taps them for a short one."""

    FAR, NEAR = (0.03, 0.15), (0.006, 0.03)  # m and rad; the arm covers half of what is asked for at once

    def __init__(self, env: ArmEnv) -> None:
        self._expert = expert(env)
        self._held: set[str] = set()
        self._closed = False

    def look(self) -> None:
        action = self._expert.act()
        hold, tap = set[str](), list[str]()
        for axis, keys in KEYS.items():
            size, key = abs(action[axis]), keys[int(action[axis] > 0)]
            if size > self.FAR[axis >= 3]:
                hold.add(key)
            elif size > self.NEAR[axis >= 3]:
                tap.append(key)
        if self._closed != (action[6] >= 0.5):
            self._closed = not self._closed
            tap.append("space")
        words = [word for key in sorted(self._held - hold) for word in ("keyup", key)]
        words += [word for key in sorted(hold - self._held) for word in ("keydown", key)]
        words += [word for key in tap for word in ("key", key)]
        self._held = hold
        if words:
            xdotool(*words)


class Reports:
    """A SpaceMouse's reports on their way to whoever opens it as `hid.device()`; the handle and the cable at once."""

    def __init__(self) -> None:
        self._reports: queue.Queue[list[int] | None] = queue.Queue()
        self._taken = False

    def open(self, vendor: int, product: int) -> None:
        pass

    def get_manufacturer_string(self) -> str:
        return "3Dconnexion"

    def get_product_string(self) -> str:
        return "SpaceMouse Wireless"

    def read(self, _: int) -> list[int]:
        if self._taken:
            self._reports.task_done()  # the last one has been decoded
        self._taken = True
        report = self._reports.get()
        if report is None:
            raise OSError("read error")
        return report

    def send(self, *report: int) -> None:
        """One report, decoded when this returns."""
        self._reports.put([*report, *[0] * (13 - len(report))])
        self._reports.join()

    def unplug(self) -> None:
        self._reports.put(None)

    def push(self, axes: np.ndarray) -> None:
        """The six axes as the device has them, x to the right, y nearer, z down, then about them; 1 is all the way."""
        words = np.clip(np.round(axes * 350), -500, 500).astype("<i2")
        self.send(1, *words.tobytes())


class Pusher:
    """Pushes and twists a SpaceMouse as the expert's next action asks for."""

    def __init__(self, env: ArmEnv, mouse: Reports) -> None:
        self._expert, self._mouse = expert(env), mouse
        self._closed = False

    def look(self) -> None:
        action = self._expert.act()
        x, y, z, rx, ry, rz = np.clip(action[:6] / FULL, -1, 1)
        self._mouse.push(np.array([y, x, -z, ry, rx, -rz]))
        if self._closed != (action[6] >= 0.5):
            self._closed = not self._closed
            self._mouse.send(3, int(self._closed))


class Paper:
    """A screen that costs no time, and keeps what it was told; `person.look()` is called at every control step."""

    def __init__(self) -> None:
        self.stopped = False
        self.person: Typist | Pusher | None = None
        self.told: list[tuple[str, str]] = []
        self.moods: list[tuple[str, str]] = []
        self.images: Mapping[str, np.ndarray] = {}

    def show(self, images: Mapping[str, np.ndarray]) -> None:
        self.images = images

    def tell(self, instruction: str, progress: str) -> None:
        self.told.append((instruction, progress))

    def status(self, text: str, mood: str) -> None:
        self.moods.append((text, mood))

    def wait(self, seconds: float) -> None:
        if self.person is not None:
            self.person.look()


class Fickle(Pusher):
    """Discards the first attempt, and stops once two are kept."""

    def __init__(self, env: ArmEnv, reports: Reports, paper: Paper) -> None:
        super().__init__(env, reports)
        self._all, self._paper, self._ticks = (env, reports), paper, 0

    def look(self) -> None:
        self._ticks += 1
        if self._ticks == 5:
            self._all[1].send(3, 2)
        elif any("kept 2" in progress for _, progress in self._paper.told):
            self._paper.stopped = True
        else:
            super().look()

    def again(self) -> None:
        super().__init__(*self._all)


def acted(hand: Hand) -> np.ndarray:
    action = hand.act()
    assert action is not None
    return action


def session(env: ArmEnv, hand: Hand, paper: Paper, **options: int) -> Session:
    return Session(Recording("pick", device="spacemouse", **options), env, hand, paper)


def ctrl_c(_: Reports) -> None:
    raise KeyboardInterrupt


def shapes(path: Path) -> dict[str, object]:
    """What there is in a file, apart from the numbers: names, types, and shapes but for how many steps."""
    found: dict[str, object] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update(
                {name: (item.dtype, item.shape[1:]) if isinstance(item, h5py.Dataset) else sorted(item.attrs)}
            )
        )
    return found
