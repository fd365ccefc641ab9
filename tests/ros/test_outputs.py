"""What the arm's controller is sent for a command: joints in their order, the hand's velocity along the base's axes.

The hand's motion is judged by MuJoCo's own kinematics, not by those that made the message.
"""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")
pytest.importorskip("pink", reason="the extra `ros` is not installed")

from collections.abc import Iterator
from dataclasses import replace

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from aegis_policy import Feature
from aegis_policy.control import AxisLimits, Command, GripperLimits
from aegis_ros.arm import Arm, MismatchError, Translator
from aegis_ros.conversions import to_seconds
from aegis_ros.outputs import ArrayOutput, Output, TrajectoryOutput, TwistOutput
from aegis_sim.description import urdf
from aegis_sim.env import ArmEnv
from aegis_sim.joints import ARM_JOINTS, JointServo
from aegis_sim.tasks import make
from tests.ros.servo import numbers
from tests.ros.test_arm import HAND, HOME, INFO

pytestmark = pytest.mark.sim

PERIOD = 0.02  # s
GAIN = 4.0  # 1/s
FOLLOWING = 0.3  # rad
SPEED = AxisLimits(velocity=0.5, acceleration=3.0, jerk=40.0, jump=0.1, chunk_jerk=400.0)
LIMITS = (*[SPEED] * 6, GripperLimits(0.0, 1.0))
TILT = (0.4, -0.7, 1.9)  # roll, pitch, yaw of the table in the arm's first link, rad
TABLE = """
  <link name="table"/>
  <joint name="table_joint" type="fixed">
    <parent link="panda_link0"/><child link="table"/><origin xyz="0.3 -0.2 0.1" rpy="{} {} {}"/>
  </joint>
</robot>"""
TURNED = Rotation.from_euler("xyz", TILT)
JOINT_FEATURES = tuple(Feature(name, "rad") for name in reversed(ARM_JOINTS))
JOINT_INFO = replace(INFO, state=JOINT_FEATURES, actions=(*JOINT_FEATURES, Feature("gripper", "1")))


class Kinematics:
    """The simulated arm's, by MuJoCo alone: of the tip in the arm's first link."""

    def __init__(self, env: ArmEnv) -> None:
        self._model, robot = env.arm.sim.model._model, env.arm.robots[0]
        self._data = mujoco.MjData(self._model)
        self._places, self._dofs = robot._ref_joint_pos_indexes, robot._ref_joint_vel_indexes
        self._site = robot.eef_site_id["right"]
        self._root = env.arm.sim.model.body_name2id(robot.robot_model.root_body)

    def look(self, joints: np.ndarray) -> tuple[np.ndarray, Rotation, np.ndarray]:
        """Where the tip is [3], how it is turned, and the Jacobian [6, 7] of both, along the first link's axes."""
        self._data.qpos[self._places] = joints
        mujoco.mj_forward(self._model, self._data)
        linear, angular = np.zeros((3, self._model.nv)), np.zeros((3, self._model.nv))
        mujoco.mj_jacSite(self._model, self._data, linear, angular, self._site)
        axes = self._data.xmat[self._root].reshape(3, 3).T
        place = axes @ (self._data.site_xpos[self._site] - self._data.xpos[self._root])
        turn = Rotation.from_matrix(axes @ self._data.site_xmat[self._site].reshape(3, 3))
        return place, turn, np.vstack([axes @ linear, axes @ angular])[:, self._dofs]


@pytest.fixture(scope="module")
def env() -> Iterator[ArmEnv]:
    made = make("pick", cameras=())
    made.reset(seed=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def arm(env: ArmEnv) -> Arm:
    description = urdf(env.arm).replace("</robot>", TABLE.format(*TILT))
    return Arm(description, ARM_JOINTS, "table", "panda_hand_tcp", HOME, HAND)


def command(stamp: float, position: np.ndarray, velocity: np.ndarray | float = 0.0) -> Command:
    """With the hand open."""
    velocities = np.append(np.broadcast_to(velocity, len(position)), 0.0)
    return Command(stamp, np.append(position, 0.0), velocities, np.zeros(len(position) + 1))


def first(output: Output, joints: np.ndarray, position: np.ndarray, velocity: np.ndarray | float = 0.0, braking=False):
    """The message with which a motion begins, at 12.5 s."""
    output.begin(joints)
    return output.message(command(12.5, position, velocity), joints, 0.0, braking)


def test_joints_come_in_the_arms_order_whatever_the_policys(env: ArmEnv, arm: Arm) -> None:
    translator, joints = Translator(arm, JOINT_INFO), JointServo(env.arm).positions()[:7]
    backwards, speeds = joints[::-1], np.arange(7.0)[::-1] / 10
    array = first(ArrayOutput(translator, FOLLOWING), joints, backwards, speeds)
    assert list(array.data) == joints.tolist() and not array.layout.dim
    trajectory = first(TrajectoryOutput(translator, FOLLOWING, coasting=0.04, braking=0.25), joints, backwards, speeds)
    assert tuple(trajectory.joint_names) == ARM_JOINTS
    assert list(trajectory.points[0].velocities) == pytest.approx(speeds[::-1])
    assert trajectory.points[0].positions == pytest.approx(joints + speeds[::-1] * 0.04)
    assert to_seconds(trajectory.header.stamp) == 12.5


def test_an_array_stays_in_the_joints_range(arm: Arm) -> None:
    for far, end in zip((-9.0, 9.0), arm.range(), strict=True):
        middle = 0.5 * np.sum(arm.range(), axis=0)
        array = first(ArrayOutput(Translator(arm, JOINT_INFO), FOLLOWING), middle, np.full(7, far))
        assert list(array.data) == end.tolist()


@pytest.mark.parametrize("beyond", [-0.3, 0.3])
def test_who_begins_outside_the_range_is_not_thrown_back_into_it(arm: Arm, beyond: float) -> None:
    """The way back is the limits' affair; the messages of it lead no farther out than where the arm was."""
    translator, end = Translator(arm, JOINT_INFO), arm.range()[beyond > 0]
    joints = np.where(np.arange(7) == 3, end + beyond, 0.5 * np.sum(arm.range(), axis=0))
    back = joints - 0.01 * np.sign(beyond) * (np.arange(7) == 3)
    for commanded, expected in ((joints, joints), (back, back), (joints + beyond, joints)):
        order = commanded[::-1]  # as JOINT_INFO has them
        array, trajectory = ArrayOutput(translator, FOLLOWING), TrajectoryOutput(translator, FOLLOWING, 0.04, 0.25)
        assert np.array(first(array, joints, order).data)[3] == pytest.approx(expected[3])
        assert first(trajectory, joints, order).points[-1].positions[3] == pytest.approx(expected[3])


def test_an_array_takes_the_hand_to_its_place(env: ArmEnv, arm: Arm) -> None:
    joints, kinematics = JointServo(env.arm).positions()[:7], Kinematics(env)
    (start, *_), there = kinematics.look(joints), arm.pose(joints).translation
    output = ArrayOutput(Translator(arm, INFO), FOLLOWING)
    output.begin(joints)
    for i in range(51):
        away = np.array([0.06, 0.0, 0.0]) * i / 50
        message = output.message(command(i * PERIOD, np.append(there + away, np.zeros(3))), joints, PERIOD, False)
    place, *_ = kinematics.look(np.array(message.data))
    assert place - start == pytest.approx(TURNED.apply([0.06, 0.0, 0.0]), abs=1e-4)


def test_a_twist_is_the_commanded_velocity_where_the_hand_is_in_its_place(env: ArmEnv, arm: Arm) -> None:
    joints, velocity = JointServo(env.arm).positions()[:7], np.array([0.1, -0.2, 0.3, -0.1, 0.2, 0.4])
    output = TwistOutput(Translator(arm, INFO), LIMITS, FOLLOWING, GAIN)
    message = first(output, joints, np.append(arm.pose(joints).translation, np.zeros(3)), velocity)
    assert numbers(message) == pytest.approx(velocity, abs=1e-9)
    assert message.header.frame_id == "table" and to_seconds(message.header.stamp) == 12.5


def carried_out(env: ArmEnv, arm: Arm, travel: np.ndarray, obedience: float) -> tuple[np.ndarray, Rotation]:
    """How far and about what a hand moves that goes `obedience` of each twist: on its way for 2 s, at rest for 2 s."""
    joints, kinematics = JointServo(env.arm).positions()[:7], Kinematics(env)
    output = TwistOutput(Translator(arm, INFO), LIMITS, FOLLOWING, GAIN)
    output.begin(joints)
    start, before, _ = kinematics.look(joints)
    there = np.append(arm.pose(joints).translation, np.zeros(3))
    for i in range(200):
        s = min(i / 100, 1.0)
        way, speed = s * s * (3 - 2 * s), 6 * s * (1 - s) / 2.0
        message = output.message(command(i * PERIOD, there + way * travel, speed * travel), joints, PERIOD, False)
        twist = numbers(message)
        along_link = np.concatenate([TURNED.apply(twist[:3]), TURNED.apply(twist[3:])])
        joints = joints + np.linalg.pinv(kinematics.look(joints)[2]) @ along_link * PERIOD * obedience
    end, after, _ = kinematics.look(joints)
    return end - start, after * before.inv()


@pytest.mark.parametrize("obedience", [1.0, 0.7])
def test_twists_take_the_hand_to_its_place_and_do_not_drift(env: ArmEnv, arm: Arm, obedience: float) -> None:
    travel = np.array([0.06, -0.1, 0.05, 0.0, 0.0, 0.5])
    moved, turned = carried_out(env, arm, travel, obedience)
    assert moved == pytest.approx(TURNED.apply(travel[:3]), abs=1e-3)  # of velocities alone, 0.7 leave 0.04 m
    assert turned.as_rotvec() == pytest.approx(TURNED.apply(travel[3:]), abs=5e-3)


def test_a_twist_stays_within_the_limits_of_speed_however_far_the_hand_is_off(env: ArmEnv, arm: Arm) -> None:
    joints = JointServo(env.arm).positions()[:7]
    place = np.append(arm.pose(joints).translation + [0.5, -0.5, 0.0], [0.0, 0.0, 1.0])
    message = first(TwistOutput(Translator(arm, INFO), LIMITS, FOLLOWING, GAIN), joints, place, 0.1)
    assert numbers(message) == pytest.approx([0.5, -0.5, 0.1, 0.1, 0.1, 0.5])


def test_who_brakes_is_not_pushed_on_and_ends_with_no_twist(env: ArmEnv, arm: Arm) -> None:
    joints = JointServo(env.arm).positions()[:7]
    place = np.append(arm.pose(joints).translation + [0.02, 0.0, 0.0], np.zeros(3))
    output = TwistOutput(Translator(arm, INFO), LIMITS, FOLLOWING, GAIN)
    assert numbers(first(output, joints, place))[0] == pytest.approx(0.08)
    assert numbers(first(output, joints, place, 0.1, braking=True)) == pytest.approx([0.1] * 6)
    assert not numbers(first(output, joints, place, braking=True)).any()


def test_who_brakes_needs_no_joints_for_it(env: ArmEnv, arm: Arm) -> None:
    joints = JointServo(env.arm).positions()[:7]
    output = TwistOutput(Translator(arm, INFO), LIMITS, FOLLOWING, GAIN)
    output.begin(joints)
    place = np.append(arm.pose(joints).translation, np.zeros(3))
    message = output.message(command(12.5, place, 0.1), joints * np.nan, PERIOD, True)
    assert numbers(message) == pytest.approx([0.1] * 6)


@pytest.mark.parametrize("kind", [ArrayOutput, TwistOutput])
def test_an_arm_that_does_not_turn_with_its_commands_is_astray(env: ArmEnv, arm: Arm, kind: type) -> None:
    joints, translator = JointServo(env.arm).positions()[:7], Translator(arm, INFO)
    output = (
        ArrayOutput(translator, FOLLOWING) if kind is ArrayOutput else TwistOutput(translator, LIMITS, FOLLOWING, 4)
    )
    output.begin(joints)
    assert output.astray(joints) == ""
    there, turned = arm.pose(joints).translation, 0.0
    while not (said := output.astray(joints)):
        turned += 0.02
        assert turned < 2 * FOLLOWING
        output.message(command(12.5, np.append(there, [0.0, 0.0, turned])), joints, PERIOD, False)
    assert output.astray(joints * np.nan) == ""  # is another fault, and told as such
    assert turned > 0.5 * FOLLOWING and said.startswith("following: ") and said.endswith("limit 0.3 rad")
    output.begin(joints)  # the next motion begins where the arm is
    assert output.astray(joints) == ""


def test_a_policys_own_joints_are_held_to_the_description(arm: Arm) -> None:
    translator, (lower, upper) = Translator(arm, JOINT_INFO), arm.range()
    inside = [
        replace(SPEED, velocity=2.0, lower=low, upper=high) for low, high in zip(lower[::-1], upper[::-1], strict=True)
    ]
    translator.check([*inside, LIMITS[-1]])
    wider = [*inside[:-1], replace(inside[-1], upper=upper[0] + 0.1), LIMITS[-1]]
    with pytest.raises(MismatchError, match=r"'limits.panda_joint1.upper' is 2.9\d*, and robot_description allows 2.8"):
        translator.check(wider)
    with pytest.raises(MismatchError, match=r"'limits.panda_joint1.velocity' is 5, and robot_description allows 2.1"):
        translator.check([*inside[:-1], replace(inside[-1], velocity=5.0), LIMITS[-1]])


def test_a_policy_of_joints_has_no_twist(arm: Arm) -> None:
    with pytest.raises(MismatchError, match=r"'arm.output' is 'twist', .* positions of joints: choose trajectory or"):
        TwistOutput(Translator(arm, JOINT_INFO), LIMITS, FOLLOWING, GAIN)
