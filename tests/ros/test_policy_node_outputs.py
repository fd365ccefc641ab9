"""A policy drives the simulated arm by joint positions alone, and by the hand's velocity, and both come to rest."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

from collections.abc import Iterator

import numpy as np
import pinocchio
from aegis_interfaces.action import RunInstruction
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from aegis_ros.conversions import to_seconds
from tests.ros.driving import Operator, PolicyProcess
from tests.ros.robot import ARM, Robot
from tests.ros.test_policy_node import RATE, SEEDS, set_off, speeds_from

pytestmark = [pytest.mark.sim, pytest.mark.slow]  # by the clock: what else a machine does may fail them

REASON = RunInstruction.Result
ARRAYS, TWISTS = "/forward_position_controller/commands", "/servo_node/delta_twist_cmds"
TIMEOUT = 0.1  # s, the default of MoveIt Servo's incoming_command_timeout


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


def lifts(operator: Operator) -> bool:
    """Whether the shipped policy lifts the object in one of a few episodes."""
    for seed in SEEDS:
        handle = set_off(operator, seed)
        began = operator.now()
        while not (lifted := operator.succeeded()) and operator.now() - began < 12.0:
            operator.wait(0.2)
        handle.cancel_goal_async()
        ended = operator.outcome(handle)
        assert ended.reason == REASON.CANCELED, ended.message
        if lifted:
            return True
    return False


def test_by_positions_it_picks_up_and_whatever_comes_last_is_held(operator: Operator) -> None:
    arrays: list[Float64MultiArray] = []
    operator.create_subscription(Float64MultiArray, ARRAYS, arrays.append, 100)
    with policy_with("array", ARRAYS) as policy:
        operator.start()
        assert lifts(operator)
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


class Servo:
    """Does what MoveIt Servo does with twists, by the description's Jacobian, and sends the arm positions."""

    def __init__(self, operator: Operator) -> None:
        whole = pinocchio.buildModelFromXML(operator.latched("/robot_description"))
        fingers = [whole.getJointId(name) for name in whole.names if "finger" in name]
        self._model = pinocchio.buildReducedModel(whole, fingers, pinocchio.neutral(whole))
        assert list(self._model.names)[1:] == ARM
        self._tip, self._data = self._model.getFrameId("panda_hand_tcp"), self._model.createData()
        self._joints: np.ndarray | None = None  # where it has sent the arm; None while it is stopped
        self._last = operator.now()
        self._move = operator.move_joints
        self.twists: list[TwistStamped] = []
        operator.create_subscription(TwistStamped, TWISTS, self.twists.append, 100)
        operator.create_subscription(JointState, "/joint_states", self._on_joints, 100)

    def _on_joints(self, message: JointState) -> None:
        now = to_seconds(message.header.stamp)
        elapsed, self._last = now - self._last, now
        if not self.twists or now - to_seconds(self.twists[-1].header.stamp) >= TIMEOUT:
            self._joints = None
            return
        if self._joints is None:
            self._joints = np.array(message.position[:7])
        jacobian = pinocchio.computeFrameJacobian(
            self._model, self._data, self._joints, self._tip, pinocchio.ReferenceFrame.LOCAL_WORLD_ALIGNED
        )
        self._joints = self._joints + np.linalg.pinv(jacobian) @ velocity(self.twists[-1]) * elapsed
        self._move(self._joints.tolist())


def velocity(message: TwistStamped) -> np.ndarray:
    linear, angular = message.twist.linear, message.twist.angular
    return np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])


def test_by_twists_it_picks_up_and_comes_to_rest_with_none(operator: Operator) -> None:
    servo = Servo(operator)
    with policy_with("twist", TWISTS) as policy:
        operator.start()
        assert lifts(operator)
        assert {twist.header.frame_id for twist in servo.twists} == {"panda_link0"} and not operator.commands
        operator.wait(0.2)
        assert not velocity(servo.twists[-1]).any() and velocity(servo.twists[-3]).any()  # it braked first

        set_off(operator)
        policy.process.kill()
        policy.process.wait()
        killed = operator.now()
        operator.wait(1.0)
        times, speeds = speeds_from(operator, killed)
        assert speeds[times > killed + TIMEOUT + 0.4].max() < 0.02
