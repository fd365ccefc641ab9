"""Recording by hand: what each device means, what is kept, and, on a virtual screen, a person who does it with keys.

Where Xvfb and xdotool are installed the keys are real X events; elsewhere pynput hears nothing, and what needs a screen
is skipped. No SpaceMouse is ever plugged in here: robosuite decodes reports as one would send them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest

from aegis_policy.data.demonstrations import Demonstrations
from aegis_sim import by_hand, commands
from aegis_sim.by_hand import Session
from aegis_sim.demonstrations import Recording
from aegis_sim.devices import CONTROLS, Hand, open_device
from aegis_sim.env import ArmEnv
from aegis_sim.tasks import ROBOT_TASKS, episode_seed, make
from tests.sim.hands import (
    FULL,
    KEYS,
    Fickle,
    Paper,
    Pusher,
    Reports,
    Typist,
    acted,
    ctrl_c,
    session,
    shapes,
    x_display,
    xdotool,
)

BRIEF, SLOW = ("pick", "lift", "stack"), pytest.mark.slow  # the others take a person a minute
MISSING = [name for name in ("pynput", "Xlib", "hid", "tkinter") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.sim,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    # robosuite's reader of an unplugged SpaceMouse; pynput's listeners without a display, or as it goes
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def screen() -> Iterator[bool]:
    """Whether there is a screen; pynput decides as it is imported, once."""
    with pytest.MonkeyPatch.context() as patch:
        if shutil.which("Xvfb") and shutil.which("xdotool"):
            with x_display() as name:
                patch.setenv("DISPLAY", name)
                yield True
        else:
            patch.delenv("DISPLAY", raising=False)
            patch.setenv("PYNPUT_BACKEND", "dummy")
            yield False


@pytest.fixture
def needs_screen(screen: bool) -> None:
    if not screen:
        pytest.skip("needs Xvfb and xdotool")


@pytest.fixture(scope="module")
def env() -> Iterator[ArmEnv]:
    env = make("pick")
    env.reset(seed=0)
    yield env
    env.close()


@pytest.fixture
def mouse(monkeypatch: pytest.MonkeyPatch) -> Reports:
    reports = Reports()
    monkeypatch.setattr("hid.device", lambda: reports)
    return reports


@pytest.fixture
def mouse_hand(env: ArmEnv, mouse: Reports) -> Hand:
    hand = open_device("spacemouse", env, lambda: True)
    hand.start()
    return hand


@pytest.fixture
def typing() -> list[bool]:
    """Whether keys are meant for the robot; to be changed."""
    return [True]


@pytest.fixture
def key_hand(env: ArmEnv, typing: list[bool], screen: bool) -> Hand:
    hand = open_device("keyboard", env, lambda: typing[0])
    if screen:
        hand._device.listener.wait()  # until it hears keys
    hand.start()
    return hand


# -- what a device means ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "wanted"),  # as the device has them: x right, y nearer, z down, and about them
    [(0, (1, 1)), (1, (0, 1)), (2, (2, -1)), (3, (4, 1)), (4, (3, 1)), (5, (5, -1))],
)
def test_a_full_push_is_one_speed_in_one_direction(
    env: ArmEnv, mouse: Reports, mouse_hand: Hand, axis: int, wanted: tuple[int, int]
) -> None:
    mouse.push(np.eye(6)[axis] * 1.4)  # harder than all the way
    moved, sign = wanted
    expected = np.eye(7)[moved] * sign * FULL[moved]
    assert np.allclose(acted(mouse_hand), expected, atol=1e-6)
    mouse.push(np.eye(6)[axis] * 0.5)
    assert np.allclose(acted(mouse_hand), expected / 2, atol=1e-6)


def test_a_spacemouses_buttons(mouse: Reports, mouse_hand: Hand) -> None:
    assert acted(mouse_hand)[6] == 0.0
    mouse.send(3, 1)
    assert acted(mouse_hand)[6] == 1.0
    mouse.send(3, 0)
    assert acted(mouse_hand)[6] == 0.0
    mouse.send(3, 2)
    assert mouse_hand.act() is None


def test_right_on_the_device_is_right_in_the_picture(env: ArmEnv, mouse: Reports, mouse_hand: Hand) -> None:
    for axis, along in ((0, 0), (1, 1)):  # right: to greater u; nearer: to greater v
        env.reset(seed=0)
        before = env.arm.project(env.arm.gripper_pose()[0], "front")
        mouse.push(np.eye(6)[axis])
        for _ in range(5):
            env.step(acted(mouse_hand))
        after = env.arm.project(env.arm.gripper_pose()[0], "front")
        assert after[along] > before[along] + 0.05


def test_a_key_counts_once_when_tapped_and_ever_more_when_held(env: ArmEnv, key_hand: Hand, typing: list[bool]) -> None:
    from pynput.keyboard import KeyCode

    down, device = KeyCode.from_char("."), key_hand._device
    device.on_press(down)
    device.on_release(down)
    first, second = acted(key_hand), acted(key_hand)
    assert np.allclose(first, [0, 0, -0.2 * FULL[2], 0, 0, 0, 0], atol=1e-7)
    assert not second.any()

    device.on_press(down)
    path = []
    for _ in range(20):
        device.on_press(down)  # the system's key repeat: as often as it likes
        device.on_press(down)
        path.append(acted(key_hand)[2])
    assert np.allclose([path[0], path[-1]], [first[2], -FULL[2]], atol=1e-7)
    assert all(after <= before for before, after in pairwise(path))
    typing[0] = False  # now the keys are meant for another window
    device.on_release(down)
    acted(key_hand)
    device.on_press(down)
    assert not acted(key_hand).any()


def test_every_key_means_what_robosuite_says(needs_screen: None, env: ArmEnv, key_hand: Hand) -> None:
    def after(*words: str) -> np.ndarray | None:
        xdotool(*words)
        time.sleep(0.1)  # the X server tells pynput
        return key_hand.act()

    for axis, keys in KEYS.items():
        for key, sign in zip(keys, (-1, 1), strict=True):
            action = after("key", key)
            assert action is not None and np.flatnonzero(action).tolist() == [axis] and action[axis] * sign > 0, key
    closed, opened = after("key", "space"), after("key", "space")
    assert closed is not None and closed[6] == 1.0 and opened is not None and opened[6] == 0.0
    assert after("key", "q") is None


# -- what is kept -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_mouse(env: ArmEnv, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two picks, wanted three: discarded once, and stopped during the third."""
    path = tmp_path_factory.mktemp("hand") / "demos.hdf5"
    paper, reports = Paper(), Reports()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hid.device", lambda: reports)
        hand = open_device("spacemouse", env, lambda: True)
        paper.person = person = Fickle(env, reports, paper)
        patch.setattr(paper, "tell", lambda *told: (paper.told.append(told), reports.send(3, 0), person.again()))
        assert session(env, hand, paper, seed=4).record(3, path) == 1
    assert [mood for _, mood in paper.moods if mood in ("good", "bad")] == ["bad", "good", "good"]
    assert paper.told[0][0] == paper.told[1][0], "what was discarded is done again"
    return path


def test_the_file_is_the_scripted_ones(by_mouse: Path, tmp_path: Path) -> None:
    commands.record("pick", 2, tmp_path / "expert.hdf5", seed=4)
    assert shapes(by_mouse) == shapes(tmp_path / "expert.hdf5")
    with h5py.File(by_mouse) as file, h5py.File(tmp_path / "expert.hdf5") as expert:
        assert sorted(file["data"].attrs) == sorted(expert["data"].attrs)
        settings = json.loads(file["data"].attrs["env_args"])
        assert settings["recording"] == {**Recording("pick", seed=4, device="spacemouse").__dict__, "failed": 1}
        for index in range(2):
            mine, theirs = (demos[f"data/demo_{index}"] for demos in (file, expert))
            assert mine.attrs["device"] == "spacemouse" and theirs.attrs["device"] == "expert"
            assert mine.attrs["seed"] == theirs.attrs["seed"] == episode_seed("record", 4, index)


def test_what_a_person_did_replays_to_the_last_bit(by_mouse: Path, env: ArmEnv) -> None:
    low, high = env.action_space.low, env.action_space.high
    with h5py.File(by_mouse) as file:
        for demo in file["data"].values():
            _, info = env.reset(seed=int(demo.attrs["seed"]))
            assert info["instruction"] == demo.attrs["instruction"]
            assert np.array_equal(demo["actions"], demo["executed_actions"])
            assert (demo["actions"][:] >= low).all() and (demo["actions"][:] <= high).all()
            assert demo["actions"][0, :6].any(), "nothing is recorded before the person begins"
            for state, seen, action in zip(demo["states"], demo["obs/state"], demo["actions"], strict=True):
                assert np.array_equal(env.arm.sim.get_state().flatten(), state)
                assert np.array_equal(env.state(), seen)
                terminated = env.step(action)[2]
            assert terminated


def test_the_clock_stands_still_without_input(env: ArmEnv, mouse: Reports, mouse_hand: Hand, tmp_path: Path) -> None:
    paper = Paper()
    steps = []

    class Dreamer:
        def look(self) -> None:
            steps.append(env.steps)
            if len(steps) in (20, 21):
                mouse.push(np.array([0.5, 0, 0, 0, 0, 0]) * (len(steps) == 20))
            paper.stopped = len(steps) == 60

    paper.person = Dreamer()  # type: ignore[assignment]
    session(env, mouse_hand, paper).record(1, tmp_path / "x.hdf5")
    assert steps[19] == 0 and steps[-1] == by_hand.STILL * env.control_hz, "one push, and a second to come to rest"
    assert not list(tmp_path.iterdir()), "nothing was kept"


def test_out_of_time_is_not_kept(
    env: ArmEnv, mouse: Reports, mouse_hand: Hand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_hand, "TIME_LIMIT", 1.0)
    paper = Paper()

    class Lost:
        def look(self) -> None:
            mouse.push(np.array([0.3, 0, 0, 0, 0, 0]))
            paper.stopped = len(paper.told) == 2

    paper.person = Lost()  # type: ignore[assignment]
    assert session(env, mouse_hand, paper).record(1, tmp_path / "x.hdf5") == 1
    assert ("Not kept: nothing lifted. Once more.", "bad") in paper.moods
    assert not list(tmp_path.iterdir())


def killed(number: int) -> Callable[[Reports], None]:
    return lambda _: os.kill(os.getpid(), number)


@pytest.mark.parametrize("end", [Reports.unplug, ctrl_c, killed(signal.SIGHUP), killed(signal.SIGTERM)])
def test_what_was_kept_survives_any_end(
    env: ArmEnv, mouse: Reports, mouse_hand: Hand, tmp_path: Path, end: Callable[[Reports], None]
) -> None:
    paper = Paper()
    pusher = Pusher(env, mouse)

    class Unlucky:
        def look(self) -> None:
            if len(paper.told) == 1:
                pusher.look()
            else:
                end(mouse)
                time.sleep(0.05)

    paper.person = Unlucky()  # type: ignore[assignment]
    path = tmp_path / "demos.hdf5"
    if end is not Reports.unplug:
        session(env, mouse_hand, paper).record(2, path)
    else:
        with pytest.raises(OSError, match="is it plugged in"):
            session(env, mouse_hand, paper).record(2, path)
    with h5py.File(path) as file:
        assert list(file["data"]) == ["demo_0"] and file["data"].attrs["total"] > 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_has_come_meanwhile_is_not_replaced(
    env: ArmEnv, mouse: Reports, mouse_hand: Hand, tmp_path: Path
) -> None:
    paper, path = Paper(), tmp_path / "demos.hdf5"
    paper.person = Pusher(env, mouse)
    path.write_text("an hour's work")
    with pytest.raises(FileExistsError, match=r"is there by now; what was recorded is in .*partial"):
        session(env, mouse_hand, paper).record(1, path)
    assert path.read_text() == "an hour's work"
    (kept,) = (other for other in tmp_path.iterdir() if other != path)
    assert len(Demonstrations([kept.rename(tmp_path / "mine.hdf5")], 3).instructions) == 1


def test_missing_packages_and_mice_are_said(env: ArmEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"no SpaceMouse can be opened .*udev rule"):
        open_device("spacemouse", env, lambda: True)
    monkeypatch.setitem(sys.modules, "robosuite.devices.spacemouse", None)
    with pytest.raises(ValueError, match=r'--device spacemouse needs more packages .*aegis-policy\[teleop\]" && pip'):
        open_device("spacemouse", env, lambda: True)


# -- the whole of it, on a screen ---------------------------------------------------------------------------------


def test_a_person_picks_with_real_keys(needs_screen: None, env: ArmEnv, tmp_path: Path) -> None:
    from aegis_sim.window import Window

    class Watched(Window):
        person: Typist | None = None

        def wait(self, seconds: float) -> None:
            if self.person is not None:
                self.person.look()
            super().wait(seconds)

    path = tmp_path / "demos.hdf5"
    with Watched("pick", CONTROLS["keyboard"]) as window:
        hand = open_device("keyboard", env, lambda: window.focused)
        hand._device.listener.wait()
        window.person = Typist(env)
        begun = time.monotonic()
        Session(Recording("pick", device="keyboard"), env, hand, window).record(1, path)
        took = time.monotonic() - begun
    with h5py.File(path) as file:
        demo = file["data/demo_0"]
        assert demo.attrs["success"] and demo.attrs["device"] == "keyboard"
        assert took > demo.attrs["num_samples"] / env.control_hz, "in real time, never faster"


def test_the_command_opens_a_window_and_escape_ends_it(needs_screen: None, tmp_path: Path) -> None:
    program = "from aegis_policy.cli import main; main()"
    words = ["record", "--task", "lift", "--episodes", "2", "--output", "x.hdf5", "--device", "keyboard"]
    command = [sys.executable, "-c", program, *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        xdotool("search", "--sync", "--name", "aegis record: lift")
        until = time.monotonic() + 120
        while running.poll() is None and time.monotonic() < until:
            xdotool("key", "--delay", "50", "Right", "q", "Escape")
            time.sleep(0.5)
        assert running.wait(timeout=5) == 0
        assert running.stderr is not None and "nothing was kept" in running.stderr.read()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", [task if task in BRIEF else pytest.param(task, marks=SLOW) for task in ROBOT_TASKS])
def test_every_task_can_be_done_with_a_spacemouse(task: str, mouse: Reports) -> None:
    env = make(task, cameras=())
    hand, person = open_device("spacemouse", env, lambda: True), Pusher(env, mouse)
    env.reset(seed=episode_seed("record", 0, 0))
    hand.start()
    ended = False
    while not ended:
        person.look()
        _, _, terminated, truncated, info = env.step(acted(hand))
        ended = terminated or truncated
    env.close()
    assert info["success"], info
