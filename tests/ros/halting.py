"""What may fail while the arm moves, how it is made to, and when the arm then halts.

Everything is real but the arm's physics and the policy's weights (light.py): node and server are processes of their
own, with DDS and HTTP between them.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from aegis_interfaces.msg import PolicyStatus

from aegis_ros.driver import Reason
from aegis_sim.description import urdf
from aegis_sim.joints import ARM_JOINTS, JointServo
from aegis_sim.tasks import make
from tests.ros.driving import Operator, PolicyProcess
from tests.ros.light import LEFT, RIGHT, LightRobot, Mode, PolicyServer

PATIENT = ("timeouts.tick:=0.5", "timeouts.images:=2.0", "timeouts.joints:=2.0", "timeouts.chunk:=3.0")
"""For tests of what a node does while nothing fails: a busy machine shall not fail them."""
TICK, IMAGES, JOINTS, CHUNK = 0.25, 0.5, 0.25, 0.8  # s, the node's timeouts
PARAMETERS = (
    "rate:=100.0",
    "scheduler:=asynchronous",
    "displacements.translation:=1.0",
    "arm.coasting:=0.04",
    f"timeouts.tick:={TICK}",
    f"timeouts.images:={IMAGES}",
    f"timeouts.joints:={JOINTS}",
    f"timeouts.chunk:={CHUNK}",
)
FULL, STILL = 0.2, 0.01  # rad/s of the fastest joint: on its way; at rest
SETTLED = 1.2  # s after an instruction's end, by which everything has come to rest
HANG = 0.6  # s
LIMIT = 30.0  # s, of an instruction
IN_TIME = 1000.0  # ms, that a test grants; how fast it really is, benchmarks/halt.py measures
TRIALS = 3


def panda() -> tuple[str, np.ndarray]:
    """Its description, URDF, and where its joints are above the table, rad [7]."""
    env = make("pick", cameras=())
    env.reset(seed=0)
    found = urdf(env.arm), JointServo(env.arm).positions()[: len(ARM_JOINTS)]
    env.close()
    return found


class Bench:
    """Robot, policy, node, and whoever stands beside them."""

    def __init__(self, simulated_time: bool, *parameters: str) -> None:
        self.robot = LightRobot(*panda(), clock=simulated_time)
        self.server, self.operator, self.rng = PolicyServer(), Operator(cameras=()), np.random.default_rng(0)
        clock = f"use_sim_time:={str(simulated_time).lower()}"
        self._arguments = [
            word
            for parameter in (f"policy:={self.server.url}", clock, *PARAMETERS, *parameters)
            for word in ("-p", parameter)
        ]
        try:
            self.start_node()
        except BaseException:
            self.close()  # or it would be in the way of the next
            raise

    def start_node(self) -> None:
        self.node = PolicyProcess(*self._arguments)
        self.operator.reports.clear()
        self.operator.last_report()
        self.spin(0.5)  # DDS takes a node that was killed for alive for a while: a request might still go there
        self.operator.start()

    def close(self) -> None:
        self.node.close()
        self.operator.destroy_node()
        self.robot.close()
        self.server.close()

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            rclpy.spin_once(self.operator, timeout_sec=0.01)

    def speed(self) -> float:
        return float(self.robot.speeds(np.array([time.time()]))[0])

    def set_off(self) -> None:
        """Have an instruction carried out at full speed, toward the far side."""
        side = LEFT if self.operator.arm()[0] < 0 else RIGHT
        for _ in range(5):  # a node that has just begun may not have heard everything yet, and says so
            handle = self.operator.instruct(side, LIMIT)
            assert handle is not None, self.operator.last_report()
            self.handle, self.ended = handle, handle.get_result_async()
            self.operator.wait_for(lambda: self.speed() > FULL or self.ended.done(), "the arm to move")
            if not self.ended.done():
                break
            self.spin(0.5)
        self.spin(0.2 + self.rng.uniform(0.0, 0.6))

    def rest(self) -> None:
        """Cancel what is being carried out."""
        self.handle.cancel_goal_async()
        self.operator.outcome(self.handle)

    def mend(self) -> None:
        """Everything in order again, and the node ready."""
        robot = self.robot
        robot.cameras_on = robot.joints_on = True
        robot.camera_lag, robot.push, robot.names = 0.0, 0.0, ARM_JOINTS
        self.server.shared.mode.value = Mode.WORK
        if not self.server.process.is_alive():
            self.server.start()
        state = self.operator.last_report().state
        if self.node.process.poll() is not None:
            self.start_node()
        elif state == PolicyStatus.STOPPED:
            assert self.operator.button("reset").success
        elif state == PolicyStatus.INACTIVE:
            assert self.operator.change("activate")
        self.operator.commands.clear()
        del self.operator.states[:-1]
        self.spin(0.3)


@dataclass(frozen=True)
class Fault:
    """Something that fails.

    Attributes:
        strike: makes it fail.
        when: in words, when the node could first know.
        noticed: the same, s of this machine's clock, given when it was struck.
        ends: reason -> a part of the message that the instruction may end with; {} where nobody is left to say so.
    """

    name: str
    strike: Callable[[Bench], None]
    when: str
    noticed: Callable[[Bench, float], float]
    ends: Mapping[Reason, str]


def setting(**values: Any) -> Callable[[Bench], None]:
    """Changes the robot."""

    def strike(bench: Bench) -> None:
        for name, value in values.items():
            setattr(bench.robot, name, value)

    return strike


def policy(mode: Mode) -> Callable[[Bench], None]:
    """Changes what the policy does, and waits until it has done so."""

    def strike(bench: Bench) -> None:
        shared = bench.server.shared
        shared.bad.value, shared.mode.value = 0.0, mode
        bench.operator.wait_for(lambda: shared.bad.value or bench.ended.done(), "the policy to be asked")

    return strike


def press_stop(bench: Bench) -> None:
    bench.operator.button("estop")


def cancel(bench: Bench) -> None:
    bench.handle.cancel_goal_async()


def deactivate(bench: Bench) -> None:
    assert bench.operator.change("deactivate")


def kill(bench: Bench) -> None:
    bench.node.process.kill()
    bench.node.process.wait()


def terminate(bench: Bench) -> None:
    bench.node.process.terminate()


def hang(bench: Bench) -> None:
    bench.node.process.send_signal(signal.SIGSTOP)
    bench.spin(HANG)
    bench.node.process.send_signal(signal.SIGCONT)


def jump(seconds: float) -> Callable[[Bench], None]:
    def strike(bench: Bench) -> None:
        bench.robot.skew += seconds

    return strike


def at_once(bench: Bench, struck: float) -> float:
    return struck


def by_image(bench: Bench, struck: float) -> float:
    return bench.robot.newest_image + IMAGES


def by_joints(bench: Bench, struck: float) -> float:
    return bench.robot.newest_joints + JOINTS


def by_answer(bench: Bench, struck: float) -> float:
    return bench.server.shared.bad.value or struck


def by_chunk(bench: Bench, struck: float) -> float:
    return bench.server.shared.good.value + CHUNK


FAULTS = (
    Fault(
        "camera_frozen",
        setting(cameras_on=False),
        f"last image + {IMAGES:g} s",
        by_image,
        {Reason.STALE_INPUT: "camera '"},
    ),
    Fault(
        "camera_late",
        setting(camera_lag=0.7),
        f"last image in time + {IMAGES:g} s",
        by_image,
        {Reason.STALE_INPUT: "camera '"},
    ),
    Fault(
        "joints_stopped",
        setting(joints_on=False),
        f"last joint states + {JOINTS:g} s",
        by_joints,
        {Reason.STALE_INPUT: "joint states"},
    ),
    Fault(
        "joints_renamed",
        setting(names=("q1", *ARM_JOINTS[1:])),
        f"last joint states + {JOINTS:g} s",
        by_joints,
        {Reason.STALE_INPUT: "joint states"},
    ),
    Fault("arm_held", setting(push=0.3), "it is held", at_once, {Reason.LIMIT: "following: "}),
    Fault("policy_nan", policy(Mode.GIVE_NAN), "the chunk is sent", by_answer, {Reason.POLICY_ERROR: "500"}),
    Fault("policy_width", policy(Mode.GIVE_FIVE), "the chunk is sent", by_answer, {Reason.POLICY_ERROR: "500"}),
    Fault("policy_error", policy(Mode.RAISE), "the server answers", by_answer, {Reason.POLICY_ERROR: "500"}),
    Fault(
        "policy_leaps",
        policy(Mode.LEAP),
        f"last good observation + {CHUNK:g} s",
        by_chunk,
        {Reason.LIMIT: "'dz' is 0.5"},
    ),
    Fault(
        "server_slow",
        policy(Mode.LAG),
        f"last good observation + {CHUNK:g} s",
        by_chunk,
        {Reason.POLICY_ERROR: "too late"},
    ),
    Fault(
        "server_killed",
        policy(Mode.DIE),
        "it dies, asked for a chunk",
        by_answer,
        {Reason.POLICY_ERROR: "ConnectionError"},
    ),
    Fault("canceled", cancel, "the request is sent", at_once, {Reason.CANCELED: "client"}),
    Fault("deactivated", deactivate, "the request is sent", at_once, {Reason.STOPPED: "deactivated"}),
    Fault("emergency_stop", press_stop, "the request is sent", at_once, {Reason.STOPPED: "emergency stop"}),
    Fault("node_hangs", hang, "it hangs", at_once, {Reason.FAULT: "tick: "}),
    Fault("node_terminated", terminate, "the signal is sent", at_once, {}),
    Fault("node_killed", kill, "it is killed", at_once, {}),
)
# the new time may come in a stamp before it comes as the clock
CLOCK_FAULTS = (
    Fault(
        "clock_back",
        jump(-5.0),
        "the clock jumps",
        at_once,
        {Reason.FAULT: "clock: went back", Reason.STALE_INPUT: " s old"},
    ),
    Fault(
        "clock_forward",
        jump(3.0),
        "the clock jumps",
        at_once,
        {Reason.FAULT: "tick: ", Reason.STALE_INPUT: "in the future"},
    ),
)


@dataclass(frozen=True)
class Trial:
    """What came of one: whether the arm came to rest, whether for the right reason, and the times, ms."""

    at_rest: bool
    for_it: bool
    braked: float
    rested: float
    said: str


def halts(bench: Bench, fault: Fault) -> None:
    """See the arm come to rest, in time and for this; on a busy machine it may have to be tried again."""
    trials: list[Trial] = []
    while not trials or not (trials[-1].for_it and trials[-1].rested < IN_TIME):
        assert len(trials) < TRIALS, (trials, bench.node.log())
        trials.append(tried(bench, fault))
        assert trials[-1].at_rest, (trials, bench.node.log())


def tried(bench: Bench, fault: Fault) -> Trial:
    """Make it fail once, in motion, and put it in order again."""
    bench.set_off()
    struck = time.time()
    fault.strike(bench)
    right, said = True, ""
    if fault.ends:
        ended = bench.operator.result_of(bench.ended, "the instruction's end").result
        said = ended.message
        right = any(ended.reason == reason and part in said for reason, part in fault.ends.items())
    bench.spin(SETTLED)
    noticed = fault.noticed(bench, struck)
    times = np.arange(noticed, time.time(), 0.001)
    speeds = bench.robot.speeds(times)
    moving = np.flatnonzero(speeds > STILL)
    rested = float(moving[-1] + 1) if len(moving) else 0.0
    braked = float(np.argmax(speeds < 0.9 * speeds[0])) if len(moving) else 0.0
    bench.mend()
    return Trial(bool(speeds[-1] <= STILL), right, braked, rested, said)
