"""robosuite's keyboard, with keys that may be held down. Importing it needs pynput and a screen."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from robosuite.devices.keyboard import Keyboard

STEP, TURN = 0.03125, 0.125  # m and rad asked for per control step, in the end: as by robosuite's SpaceMouse
START, RAMP = 0.2, 0.8  # the share of it that a key begins with, so that a tap is small, and s until it has all of it

_METRES, _RADIANS = 0.1875, 0.075  # what a key press moves robosuite's goal by, with a sensitivity of 1


class HeldKeyboard(Keyboard):
    """Held down, a key moves the arm at every control step, ever faster, whatever the system's key repeat does.

    robosuite's counts key presses, so an arm would jump, wait until the system repeats the key, and then go as fast as
    the system is set to.

    Args:
        arm: the robosuite environment.
        control_hz: how often its state is read.
        listening: whether keys are meant for the robot now; asked from the thread that hears them.
    """

    def __init__(self, arm: Any, control_hz: float, listening: Callable[[], bool]) -> None:
        self._period, self._listening = 1 / control_hz, listening
        self._held: dict[Hashable, int] = {}  # key -> for how many readings
        self._released: set[Hashable] = set()  # ... to be forgotten at the next one: a tap between two counts, too
        super().__init__(arm)

    def start_control(self) -> None:
        self._held.clear()
        super().start_control()

    def on_press(self, key: Hashable) -> None:
        self._released.discard(key)
        if self._listening():
            self._held.setdefault(key, 0)

    def on_release(self, key: Hashable) -> None:
        self._released.add(key)
        if self._listening():
            super().on_release(key)

    def get_controller_state(self) -> dict[str, Any]:
        for key, readings in list(self._held.items()):  # the listener's thread may add to it meanwhile
            share = min(START + (1 - START) * readings * self._period / RAMP, 1.0)
            self.pos_sensitivity = share * STEP / _METRES
            self.rot_sensitivity = share * TURN / _RADIANS
            super().on_press(key)
            self._held[key] = readings + 1
            if key in self._released:
                self._released.discard(key)
                self._held.pop(key, None)
        return super().get_controller_state()
