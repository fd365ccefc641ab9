"""What a person moves the arm with, robosuite's Keyboard or SpaceMouse, as actions in SI units.

robosuite knows which way each axis goes and how far; its `input2action` gives displacements as shares of the limits of
its controller, which are `env.py`'s. All the way is 31 mm and 0.125 rad per control step, of which the arm carries out
what its lag allows: 0.16 to 0.19 m/s and 0.55 to 0.66 rad/s, at 10 as at 20 Hz.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from aegis_sim.env import ArmEnv

Device = Literal["keyboard", "spacemouse"]
INSTALL = 'pip install "aegis-policy[teleop]" && pip install --no-deps pynput==1.8.2'

CONTROLS: dict[Device, tuple[tuple[str, str], ...]] = {
    "keyboard": (
        ("← → ↑ ↓", "left, right, away, nearer"),
        (";  .", "up, down"),
        ("space", "close or open the fingers"),
        ("o  p", "turn the hand ↺ ↻"),
        ("e  r", "tilt its fingers left, right"),
        ("y  h", "tilt its fingers away, nearer"),
        ("q", "discard, begin again"),
    ),
    "spacemouse": (
        ("push, pull, lift", "move the hand"),
        ("twist, tilt", "turn it"),
        ("left button", "hold to close the fingers"),
        ("right button", "discard, begin again"),
    ),
}
"""Device -> what it has, and what that does."""


class Hand:
    """A person's hand on the device.

    Args:
        device: robosuite's.
        name: for people.
        limits: of the six motions of an action, [6], m and rad.
    """

    def __init__(self, device: Any, name: Device, limits: np.ndarray) -> None:
        self._device, self._name, self._limits = device, name, limits

    def start(self) -> None:
        """Begin an episode: fingers open, nothing pressed."""
        self._device.start_control()

    def act(self) -> np.ndarray | None:
        """What the person wants for the next control step, float32 [7] (`env.ACTION_FEATURES`), within the limits;
        None when it is to discard the episode.

        Raises:
            OSError: the device is not there any more.
        """
        reader = getattr(self._device, "thread", None)  # robosuite reads a SpaceMouse in a thread
        if reader is not None and not reader.is_alive():
            raise OSError(f"the {self._name} cannot be read any more: is it plugged in?")
        wanted = self._device.input2action()
        if wanted is None:
            return None
        gripper = float(wanted["right_gripper"][0] > 0)
        return np.array([*wanted["right_delta"] * self._limits, gripper], np.float32)


def open_device(name: Device, env: ArmEnv, listening: Callable[[], bool]) -> Hand:
    """The device, for the arm of `env`. It is listened to as long as the process lives.

    Args:
        listening: whether keys are meant for the robot now.

    Raises:
        ValueError: an unknown device, or what it needs is not installed; says how to.
        OSError: no such device is plugged in, or this user may not read it.
    """
    if name not in get_args(Device):
        raise ValueError(f"device '{name}': expected one of {', '.join(get_args(Device))}")
    limits = env.action_space.high[:6]
    with contextlib.redirect_stdout(io.StringIO()):  # robosuite prints a legend, and what else is not installed
        try:
            if name == "keyboard":
                from aegis_sim.keyboard import HeldKeyboard

                return Hand(HeldKeyboard(env.arm, env.control_hz, listening), name, limits)
            from robosuite.devices.spacemouse import SpaceMouse
        except ImportError as error:
            raise ValueError(f"--device {name} needs more packages ({error}): {INSTALL}") from error
        try:
            mouse = SpaceMouse(env.arm)
        except OSError as error:
            raise OSError(
                f"no SpaceMouse can be opened ({error}): plug one in; on Linux, let your user read it by a udev rule "
                "(docs/data.md, 'By hand')"
            ) from error
        return Hand(mouse, name, limits)
