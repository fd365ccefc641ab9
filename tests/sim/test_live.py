"""The simulated robot of the console against a real server: it moves when told to, and stops whatever happens."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.linear_policy import Server, serving
from tests.server.robot_client import DESCRIPTION, Console, SmallRobot, reported, watching

pytest.importorskip("robosuite")
pytestmark = pytest.mark.sim

from aegis_policy.inference.remote import RemotePolicy  # noqa: E402
from aegis_policy.inference.robot_link import ServerLink  # noqa: E402
from aegis_sim.live import LiveRobot  # noqa: E402
from aegis_sim.live_scene import LiveScene  # noqa: E402

WANDERING = (sys.executable, "-m", "tests.sim.serve_wandering")
AEGIS = (sys.executable, "-c", "from aegis_policy.cli import main; main()")
PERIOD_S = 0.1


@pytest.fixture(scope="module")
def scene() -> Iterator[LiveScene]:
    scene = LiveScene("pick", seed=0)
    yield scene
    scene.close()


@contextmanager
def attached(server: Server, scene: LiveScene) -> Iterator[LiveRobot]:
    policy = RemotePolicy(server.url)
    scene.draw()
    link = ServerLink(server.url, scene.describe(policy.info.horizon))
    robot = LiveRobot(scene, policy, link, seed=0)
    link.open()
    try:
        yield robot
    finally:
        link.close()
        robot.close()
        policy.close()


def drive(robot: LiveRobot, until: Callable[[], object], seconds: float = 60.0) -> float:
    """Let the robot live until that is true; returns how long it took, s."""
    began = time.monotonic()
    while not until():
        assert time.monotonic() - began < seconds, (robot.running, robot.note)
        robot.step(time.monotonic())
        time.sleep(PERIOD_S)
    return time.monotonic() - began


def place(scene: LiveScene) -> np.ndarray:
    return np.array(scene.env.state()[:3])


def moved(scene: LiveScene) -> Callable[[], bool]:
    before = place(scene)
    return lambda: float(np.linalg.norm(place(scene) - before)) > 0.03


def at_rest(robot: LiveRobot, scene: LiveScene) -> None:
    """Raise AssertionError unless the arm stands, after what it takes to settle."""
    for _ in range(5):
        robot.step(time.monotonic())
    before = place(scene)
    for _ in range(10):
        robot.step(time.monotonic())
    assert np.linalg.norm(place(scene) - before) < 0.005


def start(console: Console, robot: LiveRobot, scene: LiveScene) -> None:
    drive(robot, lambda: robot.link.silence_s < 1)
    console.send(start=scene.describe(8)["instructions"][0])
    drive(robot, lambda: robot.running)
    drive(robot, moved(scene))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "log", *WANDERING) as server:
        server.wait()
        yield server


def test_it_moves_when_started_and_a_stop_latches(server: Server, scene: LiveScene) -> None:
    with watching(server.url) as console, attached(server, scene) as robot:
        at_rest(robot, scene)
        start(console, robot, scene)
        console.send(stop=True)
        assert drive(robot, lambda: robot.stopped) < 1.0
        assert not robot.running
        at_rest(robot, scene)
        console.send(release=True)
        drive(robot, lambda: robot.stopped is None)
        assert not robot.running
        start(console, robot, scene)
        console.send(pause=True)
        drive(robot, lambda: not robot.running)
        at_rest(robot, scene)
        before = scene.observation["images"]["front"]
        console.send(reset=True)
        drive(robot, lambda: robot.note == "new scene")
        assert not np.array_equal(before, scene.observation["images"]["front"])


def test_it_halts_when_the_server_is_killed_and_stays_halted_when_it_is_back(server: Server, scene: LiveScene) -> None:
    with attached(server, scene) as robot:
        with watching(server.url) as console:
            start(console, robot, scene)
        server.process.kill()
        assert drive(robot, lambda: not robot.running) < 1.0
        assert "link" in robot.note
        at_rest(robot, scene)


def test_it_halts_when_the_server_falls_silent(server: Server, scene: LiveScene) -> None:
    with attached(server, scene) as robot:
        with watching(server.url) as console:
            start(console, robot, scene)
        os.kill(server.process.pid, signal.SIGSTOP)  # its sockets stay open
        try:
            assert drive(robot, lambda: not robot.running) < 1.6
            assert "nothing heard" in robot.note
            at_rest(robot, scene)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        drive(robot, lambda: robot.link.silence_s < 1)
        assert not robot.running


def test_what_people_type_is_what_is_judged(scene: LiveScene) -> None:
    scene.draw()
    instructions = scene.describe(8)["instructions"]
    assert len(set(instructions)) == len(instructions) > 5
    for instruction in instructions:
        scene.begin(instruction.upper() + ".")
        assert scene.success is False
        assert scene.env.instruction == instruction
    scene.begin("make me a coffee")
    assert scene.success is None


def test_robosuite_s_own_tasks_live_too() -> None:
    scene = LiveScene("lift", seed=0)
    description = scene.describe(10)
    scene.begin(description["instructions"][0])
    before = place(scene)
    for _ in range(3):
        scene.move(np.array([0, 0, 0.02, 0, 0, 0, 0]))
    assert place(scene)[2] > before[2] + 0.01
    assert scene.success is False
    with pytest.raises(ValueError, match="finite"):
        scene.move(np.full(7, np.nan))
    sizes = {camera["name"]: (camera["width"], camera["height"]) for camera in description["cameras"]}
    files = {name: Image.open(io.BytesIO(file)).size for name, file in scene.frames().items()}
    assert files == sizes
    scene.close()


def test_as_a_process_it_says_why_it_cannot_stay(server: Server) -> None:
    with SmallRobot(server.url):
        done = subprocess.run(
            [sys.executable, "-m", "aegis_sim.live", "--server", server.url, "--once"],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert f"robot '{DESCRIPTION['name']}' is attached already" in done.stderr


@pytest.mark.slow
def test_serve_with_a_simulated_robot_does_what_is_asked_and_leaves_nothing_behind(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a key of sixteen characters or more\n")
    headers = {"authorization": "Bearer a key of sixteen characters or more"}
    with serving(tmp_path / "log", *AEGIS, "serve", "--sim", "pick", "--key-file", str(keys)) as server:
        server.wait(seconds=120)
        with watching(server.url, additional_headers=headers) as console:
            seen = console.until(lambda seen: seen["robot"] and seen["report"], 120)
            assert seen["robot"]["name"] == "simulated Panda, pick"
            frames = seen["report"]["frames"]
            assert frames.keys() == {"scene", "front", "wrist"}
            image = frames["front"].removeprefix("data:image/png;base64,")
            body = {"images": {"front": image}, "question": "how many objects are there?", "stream": False}
            answer = httpx.post(f"{server.url}/v1/ask", json=body, headers=headers, timeout=60).json()["answer"]
            assert answer in ("3", "4")
            console.send(start=seen["robot"]["instructions"][0])
            seen = console.until(reported("success", True), 120)
            assert not seen["report"]["running"]
            assert seen["report"]["chunk"] is not None
            console.until(reported("note", "new scene"), 60)
        child = int(subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True).stdout.split()[0])
        assert not _listens(child), "it would keep the server's port after the server's death"
        server.process.terminate()
        assert server.process.wait(timeout=30) == 0
        assert not _runs(child)


def _listens(process: int) -> bool:
    """Whether it has a TCP socket that listens."""
    own = {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir() if file.is_symlink()}
    lines = [line.split() for line in Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]]
    return any(line[3] == "0A" and f"socket:[{line[9]}]" in own for line in lines)


def _runs(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False
