"""Demonstrations by a person, in real time, into the same file as the expert's.

The simulation runs only while there is something to carry out: after STILL seconds without input its clock stands
still, so that pauses to think are not demonstrated. An episode is kept when it succeeds; failed or discarded, it is
played again from the same start.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from aegis_sim.demonstration_file import Demonstration, DemonstrationFile, Take
from aegis_sim.demonstrations import Recording
from aegis_sim.devices import CONTROLS, Hand, open_device
from aegis_sim.env import CAMERAS, ArmEnv
from aegis_sim.tasks import episode_seed, make

log = logging.getLogger(__name__)

TIME_LIMIT = 120.0  # s of motion in one episode
STILL = 1.0  # s without input after which the clock stands still; what is let go has come to rest by then
AT_REST = 0.02  # of an action's limits: a SpaceMouse that nobody touches may read more than nothing
SHOWN_SIZE = 384  # pixels of the pictures for the person, where there is time to draw them besides the file's
LATE_STEPS = 5  # in a row: there is none
VERDICT_SECONDS = 1.5  # for which it is shown how an episode ended


class Screen(Protocol):
    """Where the person looks: `window.Window`."""

    stopped: bool

    def show(self, images: Mapping[str, np.ndarray]) -> None: ...
    def tell(self, instruction: str, progress: str) -> None: ...
    def status(self, text: str, mood: str) -> None: ...
    def wait(self, seconds: float) -> None: ...


def record_by_hand(recording: Recording, episodes: int, output: Path) -> int:
    """Let a person record `episodes` demonstrations into `output` with `recording.device`.

    Stopped early (Escape, Ctrl-C, the device unplugged), the file holds what has been kept by then; with nothing kept
    there is no file.

    Returns:
        How many attempts were not kept.

    Raises:
        ValueError: an unknown task or split, no screen, a package missing, or `output` exists: nobody can record by
            hand again what it may hold.
        OSError: the device cannot be opened, or read any more.
    """
    recording.check()
    assert recording.device is not None, "else the expert records"
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    if output.exists():
        raise ValueError(f"{output} exists, and demonstrations by hand replace nothing: give another --output")
    from aegis_sim.window import Window  # needs Tk

    with Window(f"aegis record: {recording.task}", CONTROLS[recording.device]) as window:
        window.status("Setting up ...", "waiting")
        window.wait(0)
        env = make(recording.task, recording.split)
        try:
            hand = open_device(recording.device, env, lambda: window.focused)
            return Session(recording, env, hand, window).record(episodes, output)
        finally:
            env.close()


@contextmanager
def interruptible() -> Iterator[None]:
    """Within its block a terminal that is closed, or a kill, is a Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGHUP, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Session:
    """One sitting of one person.

    Args:
        recording: what is recorded.
        env: its environment; the time limit becomes a person's.
        hand: what the person moves.
        screen: where the person looks.
    """

    def __init__(self, recording: Recording, env: ArmEnv, hand: Hand, screen: Screen) -> None:
        self._recording, self._env, self._hand, self._screen = recording, env, hand, screen
        self._limits = env.action_space.high[:6]
        self._due = self._behind = 0.0  # s: when the next control step is due, and how late steps have been in all
        self._late = self._ticks = 0
        self._sharp = True
        self._progress = ""
        env.max_steps = round(TIME_LIMIT * env.control_hz)

    def record(self, episodes: int, output: Path) -> int:
        """See `record_by_hand`."""
        again = 0
        with DemonstrationFile(output) as file, interruptible():
            file.describe(self._recording.task, self._recording.split, asdict(self._recording))
            try:
                while file.kept < episodes and not self._screen.stopped:
                    self._progress = f"episode {file.kept + 1} of {episodes}   ·   kept {file.kept}   ·   again {again}"
                    demonstration = self._attempt(episode_seed("record", self._recording.seed, file.kept))
                    if demonstration is not None and demonstration.success:
                        file.add(demonstration)
                    elif not self._screen.stopped:
                        again += 1
            except KeyboardInterrupt:
                log.info("interrupted")
            finally:
                if file.kept:
                    recording = {**asdict(self._recording), "failed": again}
                    file.describe(self._recording.task, self._recording.split, recording)
                    file.finish(replaces=False)
                    log.info("wrote %d demonstrations to %s, did %d attempts again", file.kept, output, again)
                else:
                    log.info("nothing was kept, so there is no %s", output)
                self._complain()
        return again

    def _attempt(self, seed: int) -> Demonstration | None:
        """One episode, successful or not; None when it was discarded, or the person stops."""
        env, screen = self._env, self._screen
        observation, info = env.reset(seed=seed)
        self._hand.start()
        screen.tell(info["instruction"], self._progress)
        self._due, self._sharp = time.monotonic(), True
        take = Take(env, seed, str(self._recording.device))
        patience = round(STILL * env.control_hz)
        still, gripper, ended = patience, 0.0, False
        self._show(observation)
        while not ended:
            self._tick()
            if screen.stopped:
                return None
            action = self._hand.act()
            if action is None:
                self._verdict("Discarded. Once more.", "bad")
                return None
            resting = bool((np.abs(action[:6]) < AT_REST * self._limits).all()) and action[6] == gripper
            still, gripper = still + 1 if resting else 0, action[6]
            if still >= patience:
                screen.status("The clock stands still until you move", "waiting")
                continue
            take.note(observation, action, action)
            observation, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
            self._show(observation)
            fingers = "closed" if gripper else "open"
            screen.status(f"●  {len(take) / env.control_hz:.1f} s   ·   fingers {fingers}", "recording")
        if info["success"]:
            self._verdict("Success: kept.", "good")
        else:
            self._verdict(f"Not kept: {info['failure']}. Once more.", "bad")
        return take.demonstration(info)

    def _tick(self) -> None:
        """Wait for the next control step's time; when behind, do not hurry to make up for it."""
        now = time.monotonic()
        self._due += 1 / self._env.control_hz
        self._late = self._late + 1 if self._due < now else 0
        self._behind += max(now - self._due, 0.0)
        self._ticks += 1
        self._due = max(self._due, now)
        self._screen.wait(self._due - now)

    def _complain(self) -> None:
        """Say so if this was not real time."""
        meant = self._ticks / self._env.control_hz
        if self._behind > 0.1 * meant:
            share = meant / (meant + self._behind)
            log.warning("this machine is slow: the simulation ran at %.2f times real time", share)

    def _show(self, observation: Mapping[str, Any]) -> None:
        """Sharp pictures, or, once there is no time to draw them, those that the file gets."""
        self._sharp = self._sharp and self._late < LATE_STEPS
        arm = self._env.arm
        sharp = {name: arm.render_camera_image(CAMERAS[name], SHOWN_SIZE) for name in CAMERAS} if self._sharp else None
        self._screen.show(sharp or observation["images"])

    def _verdict(self, text: str, mood: str) -> None:
        self._screen.status(text, mood)
        self._screen.wait(VERDICT_SECONDS)
