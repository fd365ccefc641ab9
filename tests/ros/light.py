"""A Panda without physics and a policy without weights, each of which fails on demand.

Both are light, so that what is measured with them is the policy node and not what surrounds it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from enum import IntEnum, auto
from threading import Thread

import httpx
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TwistStamped
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from aegis_policy import ActionChunk, Camera, Observation, PolicyInfo
from aegis_ros.conversions import numpy_to_image, to_stamp
from aegis_ros.qos import LATCHED, RELIABLE
from aegis_ros.trajectory import Trajectory, plan
from aegis_server.process import run
from aegis_sim.env import ACTION_FEATURES, STATE_FEATURES
from aegis_sim.joints import ARM_JOINTS, FINGER_JOINTS
from tests.ros.servo import Servo

SPEED = 0.2  # m/s of the hand, along the base's y
LEFT, RIGHT = "go left", "go right"  # y grows to the left
INFO = PolicyInfo(
    model="to-and-fro",
    cameras=(Camera("front", 96, 96), Camera("wrist", 96, 96)),
    state=STATE_FEATURES,
    actions=ACTION_FEATURES,
    horizon=10,
    control_hz=10.0,
    instructions=(LEFT, RIGHT),
    checkpoint="",
)
LAG = 4.0  # s
REMEMBERED = 2000  # commands
PERIOD = 0.01  # s, of joint states
ARRAYS, TWISTS = "/forward_position_controller/commands", "/servo_node/delta_twist_cmds"
SPAWN = multiprocessing.get_context("spawn")


class LightRobot(Node):
    """Goes where it is told, exactly; heard and commanded on a thread of its own.

    It starts a trajectory when that arrives, whatever its stamp: the node's clock may be wrong, and the arm not.

    Attributes:
        cameras_on, joints_on: whether they send.
        camera_lag: s from an image's stamp to its being sent.
        names: of the arm's joints in the joint states.
        push: rad, how far something holds the arm's first joint off its command.
        skew: s that all stamps, and /clock, are ahead of this machine's clock.
        newest_image, newest_joints: stamps of the last that was sent in time, s of this machine's clock.
        sent: how many messages, by what is sent: "joint states", and the cameras' names.
        trajectories, arrays, twists: commands that have come, of the first how many; twists are followed as by Servo.
        taken: arrivals of commands, s of this machine's clock, and what was to be done from then on.

    Args:
        description: URDF.
        start: positions of the arm's joints [7], rad.
        size: height and width of images; the cameras' rate is 30 Hz, the joint states' 100 Hz.
        clock: whether to send /clock.
    """

    def __init__(self, description: str, start: np.ndarray, size: tuple[int, int] = (96, 96), clock: bool = False):
        super().__init__("light_robot")
        self.cameras_on = self.joints_on = True
        self.camera_lag, self.push, self.skew = 0.0, 0.0, 0.0
        self.names = ARM_JOINTS
        self.newest_image = self.newest_joints = 0.0
        self.taken = [(0.0, Trajectory.hold(start))]
        self.sent: Counter[str] = Counter()
        self._under_way: deque[tuple[float, Time]] = deque()
        self._picture = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
        self._joint_states = self.create_publisher(JointState, "joint_states", RELIABLE)
        self._cameras = {
            camera.name: self.create_publisher(Image, f"{camera.name}/image_raw", qos_profile_sensor_data)
            for camera in INFO.cameras
        }
        self.create_publisher(String, "robot_description", LATCHED).publish(String(data=description))
        self.create_subscription(
            JointTrajectory, "joint_trajectory_controller/joint_trajectory", self._on_trajectory, RELIABLE
        )
        self.create_subscription(Float64MultiArray, "gripper_controller/commands", lambda _: None, RELIABLE)
        self.trajectories, self.arrays = 0, list[Float64MultiArray]()
        self.create_subscription(Float64MultiArray, ARRAYS, self._on_array, RELIABLE)
        self._servo = Servo(description)
        self.twists: list[TwistStamped] = self._servo.twists
        self.create_subscription(TwistStamped, TWISTS, self.twists.append, RELIABLE)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(PERIOD, self._send_joints, clock=steady)
        self.create_timer(1 / 30, self._send_images, clock=steady)
        if clock:
            profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._time = self.create_publisher(ClockMessage, "/clock", profile)
            self.create_timer(0.005, lambda: self._time.publish(ClockMessage(clock=self._stamp())), clock=steady)
        self._spinner = SingleThreadedExecutor()
        self._spinner.add_node(self)
        self._thread = Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._spinner.shutdown()
        self._thread.join()
        self.destroy_node()

    def speeds(self, times: np.ndarray) -> np.ndarray:
        """The fastest joint's speed at `times` [T], s of this machine's clock, rad/s; of the last few seconds."""
        taken = self.taken[-REMEMBERED:]
        starts = np.array([at for at, _ in taken])
        which = np.searchsorted(starts, times, side="right") - 1
        found = np.zeros(len(times))
        for index in np.unique(which[which >= 0]):
            part = which == index
            found[part] = np.abs(taken[index][1].sample(times[part])[1]).max(axis=1)
        return found

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._spinner.spin()

    def _stamp(self) -> Time:
        return to_stamp(time.time_ns() + round(self.skew * 1e9))

    def _on_trajectory(self, message: JointTrajectory) -> None:
        now = time.time()
        position, velocity = (values[0] for values in self.taken[-1][1].sample(np.array([now])))
        self.trajectories += 1
        message.header.stamp = to_stamp(0)
        del self.taken[:-REMEMBERED]
        self.taken.append((now, plan(message, ARM_JOINTS, now, position, velocity)))

    def _on_array(self, message: Float64MultiArray) -> None:
        self.arrays.append(message)
        self._go(np.array(message.data))

    def _go(self, positions: np.ndarray) -> None:
        """Be at `positions` [7] a control period from now."""
        now = time.time()
        here = self.taken[-1][1].sample(np.array([now]))[0][0]
        del self.taken[:-REMEMBERED]
        self.taken.append((now, Trajectory(np.array([now, now + PERIOD]), np.stack([here, positions]), None)))

    def _send_joints(self) -> None:
        now = time.time()
        followed = self._servo.step(now, self.taken[-1][1].sample(np.array([now]))[0][0])
        if followed is not None:
            self._go(np.array(followed))
        if not self.joints_on:
            return
        positions, velocities = (values[0] for values in self.taken[-1][1].sample(np.array([now])))
        positions[0] += self.push
        message = JointState(name=[*self.names, *FINGER_JOINTS])
        message.position, message.velocity = [*positions.tolist(), 0.04, 0.04], [*velocities.tolist(), 0.0, 0.0]
        message.header.stamp = self._stamp()
        self._joint_states.publish(message)
        self.sent["joint states"] += 1
        if self.names == ARM_JOINTS:
            self.newest_joints = now

    def _send_images(self) -> None:
        now = time.time()
        if self.cameras_on:
            self._under_way.append((now, self._stamp()))
        while self._under_way and self._under_way[0][0] + self.camera_lag <= now:
            taken_at, stamp = self._under_way.popleft()
            for name, publisher in self._cameras.items():
                publisher.publish(numpy_to_image(self._picture, stamp, f"{name}_camera"))
                self.sent[name] += 1
            if not self.camera_lag:
                self.newest_image = taken_at


class Mode(IntEnum):
    """What the policy does when it is asked for actions."""

    WORK = auto()
    GIVE_NAN = auto()
    GIVE_FIVE = auto()
    LEAP = auto()
    RAISE = auto()
    LAG = auto()
    DIE = auto()


class Shared:
    """What the policy's process and the test's both see.

    Attributes:
        mode: a `Mode`.
        good: stamp of the observation that a chunk was last made for, s.
        bad: when something else was made of one, s of this machine's clock.
    """

    def __init__(self) -> None:
        self.mode = SPAWN.Value("i", Mode.WORK)
        self.good, self.bad = SPAWN.Value("d", 0.0), SPAWN.Value("d", 0.0)


class ToAndFro:
    """Moves the hand evenly to the side that the instruction says."""

    info = INFO

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        mode, actions = self._shared.mode.value, np.zeros((INFO.horizon, len(INFO.actions)), np.float32)
        actions[:, 1] = SPEED / INFO.control_hz * (1 if observation.instruction == LEFT else -1)
        if mode == Mode.WORK:
            self._shared.good.value = observation.stamp
        else:
            self._shared.bad.value = time.time()
            actions = self._spoil(mode, actions)
        return ActionChunk(actions, observation.stamp)

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        yield "nothing"

    def _spoil(self, mode: int, actions: np.ndarray) -> np.ndarray:
        if mode == Mode.DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == Mode.RAISE:
            raise RuntimeError("this policy fails on demand")
        if mode == Mode.LAG:
            time.sleep(LAG)
        if mode == Mode.GIVE_NAN:
            actions[3, 2] = np.nan
        if mode == Mode.LEAP:
            actions[3, 2] = 0.5
        return actions[:, :5] if mode == Mode.GIVE_FIVE else actions


class PolicyServer:
    """`ToAndFro` behind `aegis serve`'s own server, in a process of its own."""

    def __init__(self) -> None:
        self.shared = Shared()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Begin, or begin again, in order."""
        self.shared.mode.value = Mode.WORK
        self.process = SPAWN.Process(target=serve, args=(self.shared, self._port), daemon=True)
        self.process.start()
        until = time.monotonic() + 60.0
        while not self._answers():
            assert time.monotonic() < until, "no policy server"
            time.sleep(0.1)

    def close(self) -> None:
        self.process.kill()
        self.process.join()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False).is_success
        except httpx.TransportError:
            return False


def serve(shared: Shared, port: int) -> None:
    run(ToAndFro(shared), port=port)
