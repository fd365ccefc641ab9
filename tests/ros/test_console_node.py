"""A robot behind `policy_node` in the console of a policy server: shown as it is, started, held, stopped, released."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")
pytest.importorskip("pink", reason="the extra `ros` is not installed")

import base64
import io
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from aegis_interfaces.msg import ActionChunk, PolicyStatus
from ament_index_python.packages import get_package_prefix
from PIL import Image

from aegis_ros import chunks
from aegis_ros.conversions import to_seconds
from aegis_sim.joints import ARM_JOINTS
from tests.ros.halting import FULL, PATIENT, STILL, Bench
from tests.ros.light import INFO, LEFT, RIGHT, SPEED, PolicyServer
from tests.ros.robot import Process
from tests.server.robot_client import Console, reported, watching

pytestmark = pytest.mark.sim

NODE = str(Path(get_package_prefix("aegis_ros"), "lib/aegis_ros/console_node"))
SECONDS = 60.0  # that a busy machine is given
TRIALS = 5


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with closing(Bench(False, *PATIENT)) as bench:
        yield bench


@pytest.fixture(scope="module")
def attached(bench: Bench) -> Iterator[Process]:
    with Process("-p", f"server:={bench.server.url}", "-p", "name:=a light Panda", command=(NODE,)) as node:
        yield node


@pytest.fixture
def console(bench: Bench, attached: Process) -> Iterator[Console]:
    """Someone who sees the robot, ready to be started; what was stopped is released at the end."""
    with watching(bench.server.url) as console:
        until(console, lambda seen: seen["robot"] and seen["robot"]["state"] and seen["report"])
        yield console
        bench.mend()
        console.send(pause=True)
        console.send(release=True)
        until(console, lambda seen: seen["stopped"] is None and seen["report"]["stopped"] is None)
        until(console, reported("running", False))


def until(console: Console, true: Any) -> dict[str, Any]:
    return console.until(true, SECONDS)


def move(bench: Bench, console: Console) -> None:
    """Start it, and see that it moves; on a busy machine it may have been halted meanwhile, and is told again."""
    operator = bench.operator
    for _ in range(TRIALS):
        console.send(start=LEFT if operator.arm()[0] < 0 else RIGHT)
        sent = time.time()
        operator.wait_for(lambda since=sent: moves(bench) or ended(bench, since), "the arm to move")
        if moves(bench):
            break
    until(console, reported("running", True))


def moves(bench: Bench) -> bool:
    return bench.speed() > FULL and bench.operator.last_report().state == PolicyStatus.RUNNING


def ended(bench: Bench, sent: float) -> bool:
    """Whether what was sent then has been broken off, as far as one can tell."""
    status = bench.operator.last_report()
    return status.state in (PolicyStatus.IDLE, PolicyStatus.HOLDING) and to_seconds(status.stamp) > sent + 2.0


def rests(bench: Bench) -> None:
    bench.operator.wait_for(lambda: bench.speed() < STILL, "the arm to come to rest")
    bench.spin(0.5)
    assert bench.speed() < STILL


def test_what_the_robot_is_and_sees_is_shown(bench: Bench, console: Console) -> None:
    seen = until(console, lambda seen: len(seen["report"]["frames"]) == 2)
    assert seen["robot"]["name"] == "a light Panda"
    assert seen["robot"]["cameras"] == [{"name": name, "height": 96, "width": 96} for name in ("front", "wrist")]
    assert [joint["name"] for joint in seen["robot"]["state"]] == list(ARM_JOINTS)
    assert seen["robot"]["instructions"] == [LEFT, RIGHT]
    file = base64.b64decode(seen["report"]["frames"]["front"].removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.array(Image.open(io.BytesIO(file))), bench.robot._picture)
    bench.spin(0.2)
    assert np.allclose(seen["report"]["state"], bench.operator.arm(), atol=1e-4)


def test_a_camera_that_falls_silent_is_not_shown_as_live(bench: Bench, console: Console) -> None:
    bench.robot.cameras_on = False
    seen = until(console, lambda seen: "camera 'wrist': no picture of the last second" in seen["report"]["note"])
    assert seen["report"]["frames"] == {}
    bench.robot.cameras_on = True
    until(console, lambda seen: seen["report"]["frames"] and "camera" not in seen["report"]["note"])


def test_it_starts_plans_and_pauses(bench: Bench, console: Console) -> None:
    published: list[ActionChunk] = []
    listening = bench.operator.create_subscription(ActionChunk, "/policy_node/chunk", published.append, 10)
    move(bench, console)
    bench.operator.wait_for(lambda: len(published) > 2, "chunks")
    seen = until(console, lambda seen: seen["report"]["chunk"] and seen["report"]["chunk"]["executed"] > 1)
    assert seen["report"]["instruction"] in (LEFT, RIGHT)
    assert seen["report"]["latency_ms"] > 0
    plan = np.array(seen["report"]["chunk"]["actions"])
    assert plan.shape == (INFO.horizon, len(INFO.actions))
    assert np.allclose(np.abs(plan[:, 1]), SPEED / INFO.control_hz)
    number = seen["report"]["chunk"]["number"]
    until(console, lambda seen: seen["report"]["chunk"] and seen["report"]["chunk"]["number"] > number)
    first, second = published[:2]
    assert second.number == first.number + 1
    assert to_seconds(first.stamp) <= to_seconds(first.start) < to_seconds(second.start)
    assert (first.names[1], first.units[1], first.control_hz) == ("dy", "m", 10.0)
    assert np.allclose(chunks.actions(first), plan if np.sign(first.actions[1]) == np.sign(plan[0, 1]) else -plan)
    bench.operator.destroy_subscription(listening)
    console.send(pause=True)
    until(console, reported("running", False))
    assert console.seen["report"]["chunk"] is None
    rests(bench)


def test_what_somebody_else_gave_can_be_held_too(bench: Bench, console: Console) -> None:
    bench.set_off()
    until(console, reported("running", True))
    console.send(pause=True)
    assert "client" in bench.operator.result_of(bench.ended, "its end").result.message
    rests(bench)


def test_a_stop_latches_in_the_policy_node_and_in_the_server(bench: Bench, console: Console) -> None:
    move(bench, console)
    console.send(stop=True)
    bench.operator.wait_for_state(PolicyStatus.STOPPED)
    rests(bench)
    seen = until(console, reported("stopped", "from the console"))
    assert seen["stopped"] == "from the console"
    assert bench.operator.instruct(LEFT, 1.0) is None
    console.send(start=LEFT)
    assert "release the stop first" in until(console, lambda seen: "error" in seen)["error"]
    assert bench.operator.button("reset").success  # somebody resets it at the robot: the server still says stop
    bench.spin(1.0)
    assert bench.operator.last_report().state == PolicyStatus.STOPPED
    console.send(release=True)
    bench.operator.wait_for_state(PolicyStatus.IDLE)
    rests(bench)
    move(bench, console)


def test_a_stop_at_the_robot_is_shown_and_released(bench: Bench, console: Console) -> None:
    move(bench, console)
    assert bench.operator.button("estop").success
    until(console, reported("stopped", "emergency stop: asked for"))
    console.send(start=LEFT)
    assert "release the stop first" in until(console, lambda seen: "error" in seen)["error"]
    console.send(release=True)
    bench.operator.wait_for_state(PolicyStatus.IDLE)


def test_a_robot_without_scenes_says_so(console: Console) -> None:
    console.send(reset=True)
    until(console, reported("note", "this robot has no scenes to set up anew"))


@pytest.fixture(scope="module")
def desk() -> Iterator[PolicyServer]:
    """The console's server where it is not the policy's, which goes on: it is the console node that cancels."""
    with closing(PolicyServer()) as desk:
        yield desk


@pytest.mark.parametrize("fault", ["the node is terminated", "the server hangs", "the server is killed"])
def test_what_was_started_from_the_console_does_not_outlast_it(
    bench: Bench, attached: Process, desk: PolicyServer, fault: str
) -> None:
    tried = []
    while not tried or tried[-1] != (PolicyStatus.IDLE, ""):  # else the policy node itself broke it off, being late
        assert len(tried) < TRIALS, tried
        if not desk.process.is_alive():
            desk.start()
        tried.append(struck(bench, desk, fault))


def struck(bench: Bench, desk: PolicyServer, fault: str) -> tuple[int, str]:
    """How the policy node stands after it struck what moved, and the arm has come to rest."""
    with Process("-p", f"server:={desk.url}", command=(NODE,)) as node:
        with watching(desk.url) as console:
            until(console, lambda seen: seen["robot"] and seen["report"])
            move(bench, console)
        if fault == "the node is terminated":
            node.process.terminate()
        else:
            os.kill(desk.process.pid, signal.SIGSTOP if "hangs" in fault else signal.SIGKILL)
        try:
            still = (PolicyStatus.IDLE, PolicyStatus.HOLDING)
            bench.operator.wait_for(lambda: bench.operator.last_report().state in still, "the instruction's end")
            rests(bench)
        finally:
            if "hangs" in fault:
                os.kill(desk.process.pid, signal.SIGCONT)
    return bench.operator.last_report().state, bench.operator.last_report().message


def test_where_the_one_server_dies_the_arm_comes_to_rest_and_stays(bench: Bench, attached: Process) -> None:
    with watching(bench.server.url) as console:
        until(console, lambda seen: seen["robot"] and seen["report"])
        move(bench, console)
    bench.server.close()
    rests(bench)
    assert bench.operator.last_report().state in (PolicyStatus.IDLE, PolicyStatus.HOLDING)
    bench.server.start()
    with watching(bench.server.url) as console:
        until(console, lambda seen: seen["robot"] and seen["report"])
        until(console, reported("running", False))
        rests(bench)
