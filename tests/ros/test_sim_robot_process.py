"""`sim_robot_node` as a process: killed and started again, failing inside, told nonsense at the start.

Apart from `test_sim_robot.py`, whose robot runs until that file's tests are done: there is but one robot at a time.
"""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

import signal
import sys

import numpy as np

from tests.ros.robot import TURN, Robot, Watcher, first_moment, trajectory

pytestmark = pytest.mark.sim


def test_a_killed_robot_comes_back() -> None:
    with Robot("-p", "seed:=2") as robot:
        watcher = Watcher()
        watcher.wait_for(lambda: watcher.images["front"], "the first image")
        before = first_moment(watcher, 2)
        watcher.wait(5.0)
        robot.process.kill()
        robot.process.wait()
        died_at = watcher.now()
    watcher.clock.clear()
    watcher.states.clear()
    with Robot("-p", "seed:=2"):
        watcher.wait_for(lambda: watcher.clock and watcher.states, "the robot that came back")
        assert watcher.clock[0] < died_at  # it began anew
        after = first_moment(watcher, 2)
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    watcher.destroy_node()


BROKEN = """
from aegis_ros import sim_robot_node
from aegis_ros.sim_robot import SimRobot

command = SimRobot.command

def breaking(self, message):
    if len(message.points) == 2:
        raise RuntimeError("the controller fell over")
    command(self, message)

SimRobot.command = breaking
sim_robot_node.main()
"""


def test_an_error_in_a_callback_is_logged_and_the_arm_holds() -> None:
    with Robot(command=(sys.executable, "-c", BROKEN)) as robot:
        watcher = Watcher()
        watcher.wait_for(lambda: watcher.states, "joint states")
        start = watcher.arm()
        watcher.send(trajectory([5.0], [start + 5 * TURN], [0 * TURN]))
        watcher.wait(1.0)
        watcher.send(trajectory([1.0, 2.0], [start, start]))
        watcher.wait(0.5)
        held = watcher.arm()
        assert "RuntimeError: the controller fell over" in robot.log()
        assert np.abs(held - start).max() > 0.01
        watcher.wait(1.0)
        assert watcher.arm() == pytest.approx(held, abs=0.002)
        watcher.destroy_node()


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [("task:=fly", "task 'fly': expected one of"), ("rate:=0.0", "rate"), ("seed:=one", "seed")],
)
def test_a_wrong_parameter_ends_the_node_with_the_reason(parameter: str, reason: str) -> None:
    with Robot("-p", parameter) as robot:
        assert robot.process.wait(timeout=60) == 1
        assert reason in robot.log() and "[FATAL]" in robot.log()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_without_complaint_when_it_is_told_to(how: signal.Signals) -> None:
    with Robot() as robot:
        watcher = Watcher()
        watcher.wait_for(lambda: watcher.images["front"], "the first image")
        robot.process.send_signal(how)
        assert robot.process.wait(timeout=30) == 0
        assert "Traceback" not in robot.log()
        watcher.destroy_node()
