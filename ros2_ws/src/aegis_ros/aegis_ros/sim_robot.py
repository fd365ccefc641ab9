"""A simulated arm, its controllers and its clock, free of ROS but for the messages it is commanded by."""

from __future__ import annotations

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from aegis_ros.trajectory import Trajectory, plan
from aegis_sim.description import urdf
from aegis_sim.env import ACTION_FEATURES, ArmEnv
from aegis_sim.joints import ARM_JOINTS, FINGER_JOINTS, FINGER_TRAVEL, JointServo
from aegis_sim.tasks import make

PHYSICS_STEPS = 5
"""Per update of the controllers: 50 updates a second on the tabletop, 100 in robosuite's own tasks."""
JOINTS = (*ARM_JOINTS, *FINGER_JOINTS)


class SimRobot:
    """One robot, before which one episode after the other is set up. Its clock starts at zero and never goes back.

    Attributes:
        env: the environment that sets up and judges the episode, but does not move the arm.
        time_ns: what its clock shows, ns.
        info: what the environment knows about the episode, see `ArmEnv`.

    Args:
        task, split, seed: of the first episode, see `begin`.
        image_size: pixels on a side of the cameras' images.

    Raises:
        ValueError: see `begin`.
    """

    env: ArmEnv

    def __init__(self, task: str, split: str, seed: int, image_size: int) -> None:
        self._image_size = image_size
        self._made: tuple[str, str] | None = None
        self.time_ns = 0
        self.begin(task, split, seed)

    def begin(self, task: str, split: str, seed: int) -> None:
        """Set up the episode that `aegis_sim.tasks.make(task, split).reset(seed=seed)` is; the arm holds.

        The clock goes on by one update.

        Raises:
            ValueError: an unknown task or split; the episode that was goes on.
        """
        if self._made != (task, split):
            env = make(task, split, image_size=self._image_size)
            if self._made:
                self.env.close()
            self.env, self._made = env, (task, split)
            self._servo = JointServo(env.arm)
            self.update_ns = round(PHYSICS_STEPS * self._servo.period * 1e9)
            self._updates_per_step = round(1e9 / env.control_hz / self.update_ns)
        _, self.info = self.env.reset(seed=seed)
        self._updates = 0
        self._fingers = self._servo.finger_target()
        self._trajectory = Trajectory.hold(self._servo.positions()[: len(ARM_JOINTS)])
        self.time_ns += self.update_ns

    @property
    def task(self) -> str:
        """The task of the episode."""
        assert self._made is not None
        return self._made[0]

    def description(self) -> str:
        """The robot's kinematics as URDF."""
        return urdf(self.env.arm)

    # -- controllers ---------------------------------------------------------------------------------------------

    def command(self, message: JointTrajectory) -> None:
        """What joint_trajectory_controller does with a trajectory.

        Raises:
            TrajectoryError: it refuses; the arm goes on with what it was doing.
        """
        position, velocity = self._desired()
        self._trajectory = plan(message, ARM_JOINTS, self.time_ns * 1e-9, position, velocity)

    def move_joints(self, values: list[float]) -> None:
        """What a forward_command_controller does with positions of ARM_JOINTS (rad): the arm is to be there at once.

        Raises:
            ValueError: not one finite number for each.
        """
        if len(values) != len(ARM_JOINTS) or not np.isfinite(values).all():
            raise ValueError(f"arm command {list(values)}: expected {len(ARM_JOINTS)} finite numbers, joints in rad")
        self._trajectory = Trajectory.hold(np.array(values))

    def move_fingers(self, values: list[float]) -> None:
        """What a forward_command_controller does with a position of one finger (m, 0 closed), whom the other mimics.

        Raises:
            ValueError: not one finite number.
        """
        if len(values) != 1 or not np.isfinite(values).all():
            raise ValueError(
                f"gripper command {list(values)}: expected one finite number, the position of a finger in m"
            )
        self._fingers = float(values[0])

    def hold(self) -> None:
        """Stay where the arm is to be at this moment."""
        self._trajectory = Trajectory.hold(self._desired()[0])

    def _desired(self) -> tuple[np.ndarray, np.ndarray]:
        positions, velocities = self._trajectory.sample(np.array([self.time_ns * 1e-9]))
        return positions[0], velocities[0]

    # -- time ----------------------------------------------------------------------------------------------------

    def update(self) -> bool:
        """One update of the controllers, and the physics until the next; returns whether the cameras take a picture."""
        steps = np.arange(1, PHYSICS_STEPS + 1) * self._servo.period
        self._servo.follow(*self._trajectory.sample(self.time_ns * 1e-9 + steps), self._fingers)
        self.time_ns += self.update_ns
        self._updates += 1
        if self._updates % self._updates_per_step:
            return False
        action = np.zeros(len(ACTION_FEATURES))
        action[-1] = self._fingers < FINGER_TRAVEL / 2  # closing, as those who judge the episode call it
        self.info = self.env.count(action)
        return True

    # -- sensors -------------------------------------------------------------------------------------------------

    def joint_states(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities of JOINTS, float64 [9] each, rad and m, per second."""
        return self._servo.positions(), self._servo.velocities()

    def images(self) -> dict[str, np.ndarray]:
        """What each camera sees, uint8 [S, S, 3]."""
        images: dict[str, np.ndarray] = self.env.observe()["images"]
        return images
