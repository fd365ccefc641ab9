"""A policy's state and displacements mean what they mean in the environments, by the robot's description alone."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")
pytest.importorskip("pink", reason="the extra `ros` is not installed")

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pinocchio
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_policy import Camera, Feature, PolicyInfo
from aegis_policy.hand import Hand
from aegis_ros.arm import Arm, MismatchError, Translator
from aegis_ros.conversions import to_seconds, to_trajectory
from aegis_ros.trajectory import Trajectory
from aegis_sim.description import urdf
from aegis_sim.env import ACTION_FEATURES, STATE_FEATURES, ArmEnv
from aegis_sim.joints import ARM_JOINTS, FINGER_JOINTS, JointServo
from aegis_sim.tasks import make

pytestmark = pytest.mark.sim

HAND = Hand(FINGER_JOINTS, scale=1.0, offset=0.0, open=0.04, closed=0.0)
HOME = (np.pi, 0.0, np.pi / 2)
INFO = PolicyInfo("m", (Camera("front", 96, 96),), STATE_FEATURES, ACTION_FEATURES, 10, 10.0, (), "")


@pytest.fixture(scope="module")
def env() -> Iterator[ArmEnv]:
    made = make("pick", cameras=())
    yield made
    made.close()


@pytest.fixture(scope="module")
def arm(env: ArmEnv) -> Arm:
    env.reset(seed=1)
    return Arm(urdf(env.arm), ARM_JOINTS, "panda_link0", "panda_hand_tcp", HOME, HAND)


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_the_state_is_the_environments(env: ArmEnv, arm: Arm, seed: int) -> None:
    env.reset(seed=seed)
    servo, translator, rng = JointServo(env.arm), Translator(arm, INFO), np.random.default_rng(seed)
    low, high = env.action_space.low, env.action_space.high
    way = rng.uniform(low, high) * [0.3, 0.3, 0.1, 1.0, 1.0, 1.0, 1.0]
    states = []
    for _ in range(20):
        env.step(way)
        joints = servo.positions()
        state = translator.state(joints[:7], joints[7:])
        assert state.dtype == np.float32
        assert state == pytest.approx(env.state(), abs=1e-5)
        states.append(state)
    turned = np.abs(states)[:, 3:6].max(axis=0)
    assert (turned > 0.1).all()  # or the convention of rotations was not put to the test


def test_a_displacement_moves_the_tip_by_it_in_the_bases_axes(env: ArmEnv, arm: Arm) -> None:
    env.reset(seed=1)
    start = JointServo(env.arm).positions()[:7]
    before = arm.pose(start)
    follower = Translator(arm, INFO).follower(start)
    travel = np.array([0.05, -0.08, 0.04, 0.1, -0.2, 0.3])
    steps = 50
    for i in range(steps + 1):
        there = np.concatenate([before.translation, np.zeros(3)]) + travel * i / steps
        target = follower.follow(np.append(there, 1.0), np.zeros(7), 0.02)
    after = arm.pose(target.positions)
    assert after.translation == pytest.approx(before.translation + travel[:3], abs=1e-4)
    turn = pinocchio.log3(after.rotation @ before.rotation.T)
    assert turn == pytest.approx(travel[3:], abs=1e-3)


def test_a_place_out_of_reach_is_not_run_after_beyond_the_joints_limits(env: ArmEnv, arm: Arm) -> None:
    env.reset(seed=1)
    start = JointServo(env.arm).positions()[:7]
    before = arm.pose(start)
    follower = Translator(arm, INFO).follower(start)
    places = [start]
    for i in range(150):
        there = np.append(before.translation + [0.01 * i, 0.0, 0.0], np.zeros(4))
        places.append(follower.follow(there, np.zeros(7), 0.02).positions)
    lower, upper = arm.range()
    assert (np.array(places) >= lower - 1e-9).all() and (np.array(places) <= upper + 1e-9).all()
    assert (np.abs(np.diff(places, axis=0)) <= arm.model.velocityLimit * 0.02 + 1e-9).all()


def test_joint_positions_pass_straight_in_the_arms_order(arm: Arm) -> None:
    joints = tuple(Feature(name, "rad") for name in reversed(ARM_JOINTS))
    translator = Translator(arm, replace(INFO, state=joints, actions=(*joints, Feature("gripper", "1"))))
    command = np.append(np.arange(7.0), 0.0)
    target = translator.follower(np.zeros(7)).follow(command, command / 10, 0.02)
    assert target.positions.tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert target.velocities == pytest.approx(target.positions / 10)
    assert translator.state(np.arange(7.0), np.zeros(2)).tolist() == [6, 5, 4, 3, 2, 1, 0]


def test_the_gripper_closes_from_half_of_its_action_up(arm: Arm) -> None:
    translator = Translator(arm, INFO)
    commands = [translator.gripper(np.append(np.zeros(6), action)) for action in (0.0, 0.49, 0.5, 1.0)]
    assert commands == [HAND.open, HAND.open, HAND.closed, HAND.closed]
    assert Translator(arm, replace(INFO, actions=ACTION_FEATURES[:6])).gripper(np.zeros(6)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": (*STATE_FEATURES, Feature("force", "N"))}, r"state has force \(N\), which this arm cannot say"),
        ({"state": (Feature("x", "mm"),)}, r"state has x \(mm\)"),
        ({"actions": ACTION_FEATURES[:3]}, r"actions are dx \(m\), dy \(m\), dz \(m\); expected the joints"),
        ({"actions": (Feature("panda_joint1", "rad"),)}, "expected the joints"),
    ],
)
def test_a_policy_of_another_robot_is_refused(arm: Arm, changes: dict, reason: str) -> None:
    with pytest.raises(MismatchError, match=reason):
        Translator(arm, replace(INFO, **changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"description": "<robot"}, "not a URDF"),
        ({"joints": ("panda_joint1", "elbow")}, "no joint elbow; it has panda_joint1, "),
        ({"base": "world"}, "no frame world; it has panda_link0, "),
    ],
)
def test_a_description_that_lacks_something_is_refused(env: ArmEnv, changes: dict, reason: str) -> None:
    given = {"description": urdf(env.arm), "joints": ARM_JOINTS, "base": "panda_link0", "tip": "panda_hand_tcp"}
    with pytest.raises(MismatchError, match=reason):
        Arm(**(given | changes), home=HOME, hand=HAND)


def test_displacements_are_taken_for_what_they_really_went(arm: Arm) -> None:
    translator = Translator(arm, INFO, translation=0.5, rotation=0.25)
    actions = translator.actions(np.ones((2, 7)))
    assert actions.tolist() == [[0.5] * 3 + [0.25] * 3 + [1.0]] * 2
    assert translator.to_policy(actions).tolist() == np.ones((2, 7)).tolist()


def test_every_command_ends_in_an_even_stop_inside_the_joints_range() -> None:
    reach = (np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    message = to_trajectory(["a", "b"], np.array([0.0, 0.9]), np.array([0.8, 2.0]), reach, 0.04, 0.25)
    ahead, stop = message.points
    assert [to_seconds(point.time_from_start) for point in message.points] == pytest.approx([0.04, 0.29])
    assert ahead.positions == pytest.approx([0.032, 0.98]) and ahead.velocities == pytest.approx([0.8, 0.24])
    assert stop.positions == pytest.approx([0.032 + 0.8 * 0.25 / 2, 1.0]) and list(stop.velocities) == [0, 0]


@settings(max_examples=200, deadline=None)
@given(speed=st.floats(-3.0, 3.0), gap=st.floats(0.0, 0.5))
def test_what_a_controller_makes_of_the_last_command_stays_inside_the_range(speed: float, gap: float) -> None:
    """Of joints that can be stopped in time at all, as inverse kinematics leaves them: within what coasting takes."""
    gap = max(gap, abs(speed) * 0.04)
    start = np.sign(speed) * (1.0 - gap) * np.ones(1)
    message = to_trajectory(["a"], start, np.array([speed]), (-np.ones(1), np.ones(1)), 0.04, 0.25)
    positions = np.array([start, *(point.positions for point in message.points)])
    velocities = np.array([[speed], *(point.velocities for point in message.points)])
    laid = Trajectory(np.array([0.0, 0.04, 0.29]), positions, velocities)
    assert np.abs(laid.sample(np.linspace(0.0, 0.29, 200))[0]).max() <= 1.0 + 1e-9
