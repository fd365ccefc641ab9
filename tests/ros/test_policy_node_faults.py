"""`policy_node` among what fails: it refuses what does not fit, and stops the arm for what goes missing."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
from aegis_interfaces.action import RunInstruction
from aegis_interfaces.msg import PolicyStatus
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from tests.ros.driving import Operator, PolicyProcess
from tests.ros.robot import Robot, begin
from tests.ros.test_policy_node import RATE, set_off, speeds_from

pytestmark = [pytest.mark.sim, pytest.mark.slow]  # by the clock: what else a machine does may fail them

REASON = RunInstruction.Result


@pytest.fixture(scope="module", autouse=True)
def robot():
    with Robot("-p", "seed:=1", "-p", RATE) as running:
        yield running


@pytest.fixture
def operator():
    operating = Operator()
    operating.wait_for(lambda: operating.images["front"], "the robot")
    yield operating
    operating.destroy_node()


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (["arm.joints:=[panda_joint1, elbow]"], "joint states: no elbow; heard: panda_finger_joint1, "),
        (["cameras:=[front]"], "the policy wants camera wrist; parameter 'cameras' has front"),
        pytest.param(["arm.tip:=hand"], "no frame hand; it has panda_link0, ", marks=pytest.mark.slow),
        pytest.param(["camera.front.topic:=/nowhere"], "no image of camera 'front'", marks=pytest.mark.slow),
        pytest.param(["limits.dx.velocity:=-1.0"], "limits of 'dx': velocity is -1", marks=pytest.mark.slow),
        (["policy:=http://127.0.0.1:9"], "no policy server there"),
        (["arm.output:=torque"], "parameter 'arm.output' is 'torque': expected one of trajectory, array, twist"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(operator: Operator, parameters: list[str], reason: str) -> None:
    arguments = [word for parameter in ["timeouts.start:=3.0", *parameters] for word in ("-p", parameter)]
    with PolicyProcess(*arguments) as policy:
        assert not operator.change("configure"), policy.log()
        assert reason in policy.log()
        operator.wait_for(lambda: reason in operator.last_report().message, "the reason in the status")
        assert operator.last_report().state == PolicyStatus.INACTIVE and not operator.commands


def test_a_camera_that_freezes_halts_the_arm_and_says_for_how_long(operator: Operator) -> None:
    relay = operator.create_publisher(Image, "/relayed/wrist", qos_profile_sensor_data)
    alive = True
    operator.create_subscription(
        Image, "/wrist/image_raw", lambda image: alive and relay.publish(image), qos_profile_sensor_data
    )
    with PolicyProcess("-p", "camera.wrist.topic:=/relayed/wrist") as policy:
        operator.start()
        handle = set_off(operator)
        frozen, alive = operator.now(), False
        ended = operator.outcome(handle)
        assert ended.reason == REASON.STALE_INPUT, ended.message
        waited = re.fullmatch(r"camera 'wrist': nothing new for ([\d.]+) s, limit 0.5 s", ended.message)
        assert waited and 0.5 <= float(waited[1]) < 0.65, ended.message
        report = operator.wait_for_state(PolicyStatus.HOLDING)
        assert report.message == ended.message
        times, speeds = speeds_from(operator, frozen)
        assert speeds[times > frozen + 1.3].max(initial=0.0) < 0.02
        refused = operator.outcome(operator.instruct("pick up the red cube", 5.0))
        assert refused.reason == REASON.STALE_INPUT  # it does not even begin
        alive = True
        operator.wait(0.5)
        operator.wait_for(lambda: set_off(operator), "a motion, with the camera back")
        policy.process.send_signal(signal.SIGTERM)  # in motion: the arm comes to rest first
        operator.wait_for(lambda: policy.process.poll() is not None, "the node's end")
        assert policy.process.returncode == 0, policy.log()
        ended_at = operator.now()
        operator.wait(0.5)
        times, speeds = speeds_from(operator, ended_at)
        assert speeds[times > ended_at + 0.2].max() < 0.02


def test_a_policy_server_that_dies_halts_the_arm(operator: Operator) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from aegis_policy.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", "--port", str(port)]
    server = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(url)
        with PolicyProcess("-p", f"policy:={url}"):
            operator.start()
            handle = set_off(operator)
            assert operator.ask("what color is the object?").success
            killed = operator.now()
            server.kill()
            ended = operator.outcome(handle)
            assert ended.reason == REASON.POLICY_ERROR and "ConnectionError" in ended.message
            operator.wait(0.3)
            _, speeds = speeds_from(operator, killed)
            assert speeds.max() > 0.1 and speeds[-1] < 0.02
    finally:
        server.kill()
        server.wait()


def wait_for_server(url: str) -> None:
    until = time.monotonic() + 60.0
    while True:
        try:
            if httpx.get(f"{url}/v1/info", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, "no policy server"
        time.sleep(0.2)


def test_a_node_that_is_killed_leaves_the_arm_a_smooth_way_to_rest(operator: Operator) -> None:
    with PolicyProcess() as policy:
        operator.start()
        set_off(operator)
        policy.process.kill()
        policy.process.wait()
        killed = operator.now()
        operator.wait(1.0)
        times, speeds = speeds_from(operator, killed)
        assert speeds.max() > 0.05 and speeds[times > killed + 0.7].max() < 0.02
        assert begin(operator, 1).success
