"""An arm with two joints and a camera on a clock that only the test moves, driven by the node's own `Driver`.

Everything between senses and commands is the real thing; nothing waits, so what a machine is busy with cannot matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from trajectory_msgs.msg import JointTrajectory

from aegis_policy import ActionChunk, Camera, Feature, Observation, Pending, PolicyInfo
from aegis_policy.control import (
    ActionSpace,
    Asynchronous,
    AxisLimits,
    Controller,
    GripperLimits,
    Scheduler,
    State,
    Timeouts,
)
from aegis_policy.hand import Hand
from aegis_ros.answers import Turns
from aegis_ros.arm import Arm, Translator
from aegis_ros.conversions import to_seconds
from aegis_ros.driver import Driver, Ending, Job
from aegis_ros.inputs import Gates, Inputs
from aegis_ros.outputs import TrajectoryOutput

PERIOD, CAMERA_PERIOD = 0.02, 0.1  # s
JOINTS = ("shoulder", "elbow")
FEATURES = tuple(Feature(name, "rad") for name in JOINTS)
INFO = PolicyInfo(
    *("m", (Camera("front", 4, 4),), FEATURES, (*FEATURES, Feature("gripper", "1")), 10, 10.0, ()),
    checkpoint="",
    max_delay=9,
)
SPEED = 0.3  # rad/s, what the policy wants
LIMIT = AxisLimits(
    velocity=0.6, acceleration=4.0, jerk=80.0, jump=0.2, chunk_jerk=500.0, lower=-6.0, upper=6.0, following=0.1
)
TIMEOUTS = Timeouts(tick=0.1, state=0.15, chunk=1.5, ahead=0.05)
GATES = Gates(image_age=0.5, joint_age=0.15, skew=0.12, ahead=0.05)
FIRST_CHUNK = 1.0  # s
COASTING, BRAKING = 0.04, 0.25  # s
URDF = """<robot name="two"><link name="base"/><link name="upper"/><link name="lower"/>
<joint name="shoulder" type="revolute"><parent link="base"/><child link="upper"/><axis xyz="0 0 1"/>
<limit lower="-6" upper="6" velocity="2" effort="9"/></joint>
<joint name="elbow" type="revolute"><parent link="upper"/><child link="lower"/><origin xyz="0.5 0 0"/>
<axis xyz="0 0 1"/><limit lower="-6" upper="6" velocity="2" effort="9"/></joint></robot>"""


class Onward:
    """Turns both joints at SPEED for ever; `spoil` may ruin its chunks, `delay` (s) make it slow.

    It goes on from what is pending, and remembers that in `told`.
    """

    def __init__(self, wait: Callable[[float], None]) -> None:
        self.info = INFO
        self.spoil: Callable[[np.ndarray], np.ndarray] = lambda actions: actions
        self.delay = 0.0
        self.told: list[Pending | None] = []
        self._wait = wait

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        self._wait(self.delay)
        self.told.append(observation.pending)
        onward = observation.state + SPEED * 0.1 * np.arange(1, 11)[:, None]
        if observation.pending is not None:
            onward += observation.pending.actions[0, :2] - onward[0]
        return ActionChunk(self.spoil(np.c_[onward, np.ones(10)]).astype(np.float32), observation.stamp)

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        yield "two"


@dataclass
class Sent:
    """A command and when it was sent, s: where the joints are to be then [2], rad, and how fast, rad/s."""

    now: float
    positions: np.ndarray
    velocities: np.ndarray


@dataclass
class World:
    """The arm goes where it is told at once, and stands where nothing is sent.

    Attributes:
        now: s, true time; the node's clock shows `skew` more.
        joints_on, camera_on: whether they send at all.
        camera_lag: s from an image's stamp to its arrival.
        names: of the joint states.
        push: rad, how far something holds the arm off its command.
    """

    now: float = 10.0
    skew: float = 0.0
    joints_on: bool = True
    camera_on: bool = True
    camera_lag: float = 0.02
    names: tuple[str, ...] = JOINTS
    push: float = 0.0
    timeouts: Timeouts = TIMEOUTS
    scheduler: Scheduler = field(default_factory=lambda: Asynchronous(5))
    sent: list[Sent] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._joints = np.array([0.1, -0.2])
        self._under_way: list[float] = []  # stamps of images
        self._next_image = self.now
        self.policy = Onward(self._think)
        self.inputs = Inputs({"front": lambda _: np.zeros((4, 4, 3), np.uint8)}, JOINTS, (), GATES)
        arm = Arm(URDF, JOINTS, "base", "lower", (0.0, 0.0, 0.0), Hand((), 1.0, 0.0, 1.0, 0.0))
        limits = [LIMIT, LIMIT, GripperLimits(0.0, 1.0)]
        self.controller = Controller(INFO, limits, self.scheduler, self.timeouts, 1 / PERIOD)
        assert len(ActionSpace(INFO)) == len(limits)
        translator = Translator(arm, INFO)
        self.driver = Driver(
            translator,
            self.controller,
            self.inputs,
            TrajectoryOutput(translator, 0.3, COASTING, BRAKING),
            self.policy,
            Turns(),
            self._send,
            latest_tick=self.timeouts.tick,
            first_chunk=FIRST_CHUNK,
        )

    @property
    def clock(self) -> float:
        """What the node's clock shows."""
        return self.now + self.skew

    def begin(self, limit: float = 60.0) -> Job:
        """A new instruction."""
        job = Job("turn", limit, self.endings.append)
        self.driver.request(job)
        return job

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / PERIOD)):
            self.step()

    def run_until(self, condition: Callable[[], object], limit: float = 20.0) -> None:
        until = self.now + limit
        while not condition():
            assert self.now < until, f"waited {limit:g} s"
            self.step()

    def step(self) -> None:
        """One period: the robot sends, the policy thinks, the control loop ticks."""
        self._pass()
        self.driver.think(lambda: self.clock)

    def moving(self) -> Job:
        """An instruction in the middle of being carried out, at full speed."""
        self.run(0.5)
        job, before = self.begin(), len(self.sent)
        self.run_until(lambda: len(self.sent) > before and np.abs(self.sent[-1].velocities).min() > 0.9 * SPEED)
        return job

    def _pass(self) -> None:
        self.now += PERIOD
        self._deliver()
        self.driver.tick(self.clock)

    def _think(self, seconds: float) -> None:
        """The control loop, on a thread of its own, goes on while the policy thinks."""
        for _ in range(round(seconds / PERIOD)):
            self._pass()

    def _deliver(self) -> None:
        if self.joints_on:
            places = self._joints + self.push
            self.inputs.add_joints(self.names, places.tolist(), self.clock, self.clock)
        if self.now >= self._next_image:
            self._next_image += CAMERA_PERIOD
            if self.camera_on:
                self._under_way.append(self.clock)
        while self._under_way and self._under_way[0] + self.camera_lag <= self.clock:
            self.inputs.add_image("front", self._under_way.pop(0), self.clock, None)

    def _send(self, message: JointTrajectory, gripper: float | None) -> None:
        assert self.controller.state is not State.ESTOP, "nothing is sent after an emergency stop"
        assert to_seconds(message.header.stamp) == pytest.approx(self.clock) and gripper == 0.0
        ahead, velocities = (np.array(getattr(message.points[0], what)) for what in ("positions", "velocities"))
        self._joints = ahead - velocities * COASTING
        self.sent.append(Sent(self.now, self._joints, velocities))
