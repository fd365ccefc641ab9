"""A policy drives the simulated arm by each output, and the arm comes to rest: in one thread, by no clock.

What the node does in processes, `test_policy_node*.py` try; here the robot, the driver and the policy take turns.
"""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")
pytest.importorskip("pink", reason="the extra `ros` is not installed")

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import yaml

from aegis_policy import ActionChunk, Observation, Policy, PolicyInfo
from aegis_policy.control import ActionSpace, Controller, Synchronous, Timeouts, read_limits
from aegis_policy.hand import Hand
from aegis_policy.inference.load import load_policy
from aegis_ros.answers import Turns
from aegis_ros.arm import Arm, Translator
from aegis_ros.driver import Driver, Ending, Job, Reason
from aegis_ros.inputs import Gates, Inputs
from aegis_ros.outputs import ArrayOutput, Output, TrajectoryOutput, TwistOutput
from aegis_ros.sim_robot import JOINTS, SimRobot
from aegis_sim.env import ACTION_FEATURES, STATE_FEATURES
from aegis_sim.joints import ARM_JOINTS, FINGER_JOINTS
from tests.ros.driving import PANDA
from tests.ros.servo import TIMEOUT, Servo, numbers

pytestmark = pytest.mark.sim

SEEDS = (5, 3, 7, 15)  # of evaluations
PARAMETERS = yaml.safe_load(PANDA.read_text())["policy_node"]["ros__parameters"]
OUTPUTS = ("trajectory", "array", "twist")
FOLLOWING = 0.3  # rad


class Lockstep:
    """A robot, and what drives it: `policy` by `output`."""

    def __init__(self, robot: SimRobot, policy: Policy, output: str) -> None:
        arm, hand, shares, seconds = (PARAMETERS[name] for name in ("arm", "gripper", "displacements", "timeouts"))
        joints = Hand(FINGER_JOINTS, 1.0, 0.0, hand["open"], hand["closed"])
        self.arm = Arm(robot.description(), ARM_JOINTS, arm["base"], arm["tip"], arm["home"], joints)
        translator = Translator(self.arm, policy.info, shares["translation"], shares["rotation"])
        limits = read_limits(ActionSpace(policy.info), PARAMETERS["limits"])
        gates = Gates(seconds["images"], seconds["joints"], seconds["skew"], seconds["ahead"])
        self._cameras = [camera.name for camera in policy.info.cameras]
        timeouts = Timeouts(seconds["tick"], seconds["joints"], seconds["chunk"], seconds["ahead"])
        self.robot, self.servo = robot, Servo(robot.description())
        self.messages: list[Any] = []
        self.speeds: list[float] = []  # of the fastest joint, rad/s
        self._inputs = Inputs(dict.fromkeys(self._cameras, np.asarray), ARM_JOINTS, FINGER_JOINTS, gates)
        made: dict[str, Callable[[], Output]] = {
            "trajectory": lambda: TrajectoryOutput(translator, FOLLOWING, arm["coasting"], arm["braking"]),
            "array": lambda: ArrayOutput(translator, FOLLOWING),
            "twist": lambda: TwistOutput(translator, limits, FOLLOWING, gain=4.0),
        }
        self._taken = {
            "trajectory": robot.command,
            "array": lambda message: robot.move_joints(message.data),
            "twist": self.servo.twists.append,
        }[output]
        controller = Controller(policy.info, limits, Synchronous(PARAMETERS["execute"]), timeouts, PARAMETERS["rate"])
        self.driver = Driver(
            translator,
            controller,
            self._inputs,
            made[output](),
            policy,
            Turns(),
            self._send,
            latest_tick=seconds["tick"],
            first_chunk=seconds["first_chunk"],
        )

    @property
    def now(self) -> float:
        return self.robot.time_ns * 1e-9

    def turn(self, driven: bool = True) -> None:
        """One update of the robot, and then of who drives it, if it is driven at all."""
        pictures = self.robot.update()
        positions, velocities = self.robot.joint_states()
        self.speeds.append(float(np.abs(velocities[:7]).max()))
        self._inputs.add_joints(JOINTS, positions.tolist(), self.now, self.now)
        if pictures and self._cameras:
            for name, image in self.robot.images().items():
                self._inputs.add_image(name, self.now, self.now, image)
        if driven:
            self.driver.tick(self.now)
            self.driver.think(lambda: self.now)
        if (joints := self.servo.step(self.now, positions[:7])) is not None:
            self.robot.move_joints(joints)

    def set_off(self) -> list[Ending]:
        """The episode's instruction, with which the arm is moving; what comes back is filled with its end."""
        endings: list[Ending] = []
        for _ in range(10):
            self.turn()  # images have come
        self.driver.request(Job(self.robot.info["instruction"], 60.0, endings.append))
        while self.speeds[-1] < 0.2:
            assert not endings, endings
            self.turn()
        for _ in range(10):
            self.turn()
        return endings

    def _send(self, message: Any, gripper: float | None) -> None:
        self.messages.append(message)
        self._taken(message)
        if gripper is not None:
            self.robot.move_fingers([gripper])


@pytest.fixture(scope="module")
def robot() -> Iterator[SimRobot]:
    made = SimRobot("pick", "seen", SEEDS[0], 96)
    yield made
    made.env.close()


class Straight:
    """A policy without eyes: on to the left at 0.3 m/s, turning."""

    info = PolicyInfo("straight", (), STATE_FEATURES, ACTION_FEATURES, 16, 10.0, (), "")

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        return ActionChunk(np.tile(np.float32([0.0, 0.05, 0.0, 0.0, 0.0, 0.1, 0.0]), (16, 1)), observation.stamp)

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        yield "it has no words"


class Turning(Straight):
    """On the spot, at 0.5 rad/s."""

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        return ActionChunk(np.tile(np.float32([0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.0]), (16, 1)), observation.stamp)


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_arm_whose_drives_are_off_is_not_turned_on_and_on(robot: SimRobot, output: str) -> None:
    robot.begin("pick", "seen", SEEDS[0])
    loop = Lockstep(robot, Turning(), output)
    endings = loop.set_off()
    loop._taken = lambda message: None
    off = loop.now
    while not endings and loop.now - off < 3.0:
        loop.turn()
    assert endings and endings[0].reason is Reason.LIMIT and endings[0].message.startswith("following: "), endings


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
def test_it_picks_up(robot: SimRobot, output: str) -> None:
    policy = load_policy()
    for seed in SEEDS:
        robot.begin("pick", "seen", seed)
        loop = Lockstep(robot, policy, output)
        endings = loop.set_off()
        began = loop.now
        while not robot.info["success"] and loop.now - began < 12.0:
            assert not endings, endings
            loop.turn()
        if robot.info["success"]:
            return
    pytest.fail(f"nothing lifted in {len(SEEDS)} episodes")


@pytest.mark.parametrize("output", OUTPUTS)
def test_who_is_told_to_stop_brakes_and_then_sends_nothing_more(robot: SimRobot, output: str) -> None:
    robot.begin("pick", "seen", SEEDS[0])
    loop = Lockstep(robot, Straight(), output)
    endings = loop.set_off()
    loop.driver.stop(Reason.STOPPED, "enough")
    told, sent = len(loop.speeds), len(loop.messages)
    while not loop.driver.at_rest:
        loop.turn()
    assert [ending.reason for ending in endings] == [Reason.STOPPED] and len(loop.messages) > sent + 3
    if output == "twist":
        assert not numbers(loop.messages[-1]).any() and numbers(loop.messages[-3]).any()
    sent = len(loop.messages)
    for _ in range(25):
        loop.turn()
    speeds = np.array(loop.speeds[told - 1 :])
    assert len(loop.messages) == sent and speeds[-1] < 0.02
    assert np.abs(np.diff(speeds)).max() / 0.02 < 20.0  # rad/s²


@pytest.mark.parametrize("how", ["killed", "late", "estop"])
@pytest.mark.parametrize(("output", "seconds"), [("trajectory", 0.29), ("array", 0.0), ("twist", TIMEOUT)])
def test_an_arm_that_hears_nothing_more_stops(robot: SimRobot, output: str, seconds: float, how: str) -> None:
    robot.begin("pick", "seen", SEEDS[0])
    loop = Lockstep(robot, Straight(), output)
    endings = loop.set_off()
    left, sent = loop.now, len(loop.messages)
    if how == "estop":
        loop.driver.estop("the button")
    while loop.now < left + seconds + 0.5:
        loop.turn(driven=how == "estop" or (how == "late" and loop.now > left + 0.15))
    settling = 0.25  # s, of the simulated arm's own controller
    rest = round((0.5 - settling) / 0.02)
    assert max(loop.speeds[-rest:]) < 0.02 and len(loop.messages) == sent
    reason = {"killed": [], "late": [Reason.FAULT], "estop": [Reason.STOPPED]}[how]
    assert [ending.reason for ending in endings] == reason
    if output == "array":
        assert robot.joint_states()[0][:7] == pytest.approx(np.array(loop.messages[-1].data), abs=0.003)
