"""`policy_node` drives the simulated arm by joint positions alone, and by the hand's velocity, and both come to rest.

Two nodes in two processes; that a policy does its job by each output, `test_closed_loop.py` tries.
"""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

from collections.abc import Iterator

import numpy as np
from aegis_interfaces.action import RunInstruction
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from aegis_ros.conversions import to_seconds
from tests.ros.driving import Operator, PolicyProcess
from tests.ros.robot import Robot
from tests.ros.servo import TIMEOUT, Servo, numbers
from tests.ros.test_policy_node import set_off, speeds_from

pytestmark = [pytest.mark.sim, pytest.mark.slow]  # by the clock: what else a machine does may fail them

REASON = RunInstruction.Result
ARRAYS, TWISTS = "/forward_position_controller/commands", "/servo_node/delta_twist_cmds"
RATE = "rate:=0.2"


@pytest.fixture(scope="module", autouse=True)
def robot() -> Iterator[Robot]:
    with Robot("-p", "seed:=1", "-p", RATE) as running:
        yield running


@pytest.fixture
def operator() -> Iterator[Operator]:
    operating = Operator()
    operating.wait_for(lambda: operating.images["front"], "the robot")
    yield operating
    operating.destroy_node()


def policy_with(output: str, topic: str) -> PolicyProcess:
    return PolicyProcess("-p", f"arm.output:={output}", "-p", f"arm.command_topic:={topic}")


def drive(operator: Operator) -> None:
    """Let it go on for a while, and then cancel it."""
    handle = set_off(operator)
    operator.wait(1.5)
    handle.cancel_goal_async()
    ended = operator.outcome(handle)
    assert ended.reason == REASON.CANCELED, ended.message
    operator.wait_for(lambda: not operator.moving(), "the arm to rest")  # what it sent may be heard after the end
    operator.wait(0.3)


def test_by_positions_it_moves_and_whatever_comes_last_is_held(operator: Operator) -> None:
    arrays: list[Float64MultiArray] = []
    operator.create_subscription(Float64MultiArray, ARRAYS, arrays.append, 100)
    with policy_with("array", ARRAYS) as policy:
        operator.start()
        drive(operator)
        assert {len(array.data) for array in arrays} == {7} and not operator.commands

        handle = set_off(operator)
        assert operator.button("estop").success
        assert operator.outcome(handle).reason == REASON.STOPPED
        operator.wait(0.2)  # what was on its way has come
        sent = len(arrays)
        operator.wait(0.5)
        assert len(arrays) == sent
        assert operator.arm() == pytest.approx(np.array(arrays[-1].data), abs=0.005) and not operator.moving()

        assert operator.button("reset").success
        set_off(operator)
        policy.process.kill()
        policy.process.wait()
        operator.wait(0.7)
        assert operator.arm() == pytest.approx(np.array(arrays[-1].data), abs=0.005) and not operator.moving()


def test_by_twists_it_moves_and_comes_to_rest_with_none(operator: Operator) -> None:
    servo = Servo(operator.latched("/robot_description"))
    operator.create_subscription(TwistStamped, TWISTS, servo.twists.append, 100)

    def move(state: JointState) -> None:
        joints = servo.step(to_seconds(state.header.stamp), np.array(state.position[:7]))
        if joints is not None:
            operator.move_joints(joints)

    operator.create_subscription(JointState, "/joint_states", move, 100)
    with policy_with("twist", TWISTS) as policy:
        operator.start()
        drive(operator)
        assert {twist.header.frame_id for twist in servo.twists} == {"panda_link0"} and not operator.commands
        assert not numbers(servo.twists[-1]).any()

        set_off(operator)
        policy.process.kill()
        policy.process.wait()
        killed = operator.now()
        operator.wait(1.0)
        times, speeds = speeds_from(operator, killed)
        assert speeds[times > killed + TIMEOUT + 0.4].max() < 0.02
