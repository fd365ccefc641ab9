"""A robot's joints as a policy knows them: measured joints to its state, commands to joint targets.

Kinematics are Pinocchio's on the robot's own description, and differential inverse kinematics are Pink's, a quadratic
program within the description's limits of position and speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pink
import pinocchio
from pink.exceptions import PinkError
from pink.limits import ConfigurationLimit, VelocityLimit
from pink.tasks import FrameTask, PostureTask
from qpsolvers.exceptions import QPError

from aegis_policy import Feature, PolicyInfo
from aegis_policy.control import AxisLimits, Limits
from aegis_policy.hand import Hand

SOLVER = "daqp"
POSTURE = 1e-3
"""Cost of leaving the posture of the start, against 1 for the hand's pose: settles what the pose leaves open."""
AXES = ("x", "y", "z", "rx", "ry", "rz")
DISPLACEMENTS = (
    *(Feature(name, "m") for name in ("dx", "dy", "dz")),
    *(Feature(name, "rad") for name in ("drx", "dry", "drz")),
)
GRIPPER = "gripper"
PLACES = (*(Feature(name, "m") for name in AXES[:3]), *(Feature(name, "rad") for name in AXES[3:]))
OPENING = Feature("opening", "m")


class MismatchError(ValueError):
    """A policy and a robot that do not fit; says what one wants and the other lacks."""


class KinematicsError(RuntimeError):
    """There are no joint positions for what is commanded."""


@dataclass(frozen=True)
class JointTarget:
    """Where the arm's J joints are to be, rad, and how fast to pass there, rad/s."""

    positions: np.ndarray
    velocities: np.ndarray


class Arm:
    """The arm of a description, as far as a policy is concerned.

    Attributes:
        joints: names of the J joints, in the order of all arrays here.
        hand: the gripper.
        base, tip: frames: the pose that is meant is that of `tip` in `base`.
        model: Pinocchio's, of these joints alone, the others at their zero.

    Args:
        description: URDF.
        joints: names of the joints that are commanded.
        base, tip: frames of the description: poses are those of `tip` in `base`.
        home: orientation of `tip` in `base` that a policy calls no rotation: roll, pitch and yaw about the fixed x, y
            and z of `base`, rad.
        hand: the gripper.

    Raises:
        MismatchError: no URDF, or joints or frames that it lacks.
    """

    def __init__(
        self, description: str, joints: Sequence[str], base: str, tip: str, home: Sequence[float], hand: Hand
    ) -> None:
        try:
            whole = pinocchio.buildModelFromXML(description)
        except Exception as error:  # a parser's own, of whatever kind
            raise MismatchError(f"robot_description: not a URDF ({error})") from error
        known = list(whole.names)[1:]
        if missing := [name for name in joints if name not in known]:
            raise MismatchError(
                f"robot_description: no joint {', '.join(missing)}; it has {', '.join(known) or 'none'}"
            )
        if missing := [name for name in (base, tip) if not whole.existFrame(name)]:
            frames = [frame.name for frame in whole.frames if frame.type == pinocchio.FrameType.BODY]
            raise MismatchError(f"robot_description: no frame {', '.join(missing)}; it has {', '.join(frames)}")
        others = [whole.getJointId(name) for name in known if name not in joints]
        self.model = pinocchio.buildReducedModel(whole, others, pinocchio.neutral(whole))
        if self.model.nq != len(joints) or self.model.nv != len(joints):
            raise MismatchError("robot_description: only joints of one coordinate, not continuous ones, are commanded")
        self.joints, self.hand, self.base, self.tip = tuple(joints), hand, base, tip
        self._order = [self.model.joints[self.model.getJointId(name)].idx_q for name in joints]
        self._base, self._tip = self.model.getFrameId(base), self.model.getFrameId(tip)
        self._home = pinocchio.rpy.rpyToMatrix(*home)

    def to_model(self, positions: np.ndarray) -> np.ndarray:
        """[J] in the order of `joints` -> in that of `model`, which is the description's."""
        q = np.empty(len(self.joints))
        q[self._order] = positions
        return q

    def from_model(self, q: np.ndarray) -> np.ndarray:
        """The way back."""
        return q[self._order]

    def range(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends of the description's range of each joint, [J] each, rad."""
        return self.from_model(self.model.lowerPositionLimit), self.from_model(self.model.upperPositionLimit)

    def pose(self, positions: np.ndarray) -> pinocchio.SE3:
        """Of the tip in the base's frame, with the joints at `positions` [J], rad."""
        data = self.model.createData()  # its own, as threads look at one arm at the same time
        pinocchio.framesForwardKinematics(self.model, data, self.to_model(positions))
        return data.oMf[self._base].actInv(data.oMf[self._tip])

    def base_in_world(self) -> pinocchio.SE3:
        """Of the base's frame in the description's root; no commanded joint moves it."""
        data = self.model.createData()
        pinocchio.framesForwardKinematics(self.model, data, pinocchio.neutral(self.model))
        return data.oMf[self._base]

    def values(self, positions: np.ndarray, opening: float | None) -> dict[Feature, float]:
        """Everything that a state can be made of, by name and unit; see `sim/aegis_sim/env.py` for the pose's."""
        pose = self.pose(positions)
        turned = pinocchio.log3(pose.rotation @ self._home.T)
        found = dict(zip(PLACES, [*pose.translation, *turned], strict=True))
        found |= {Feature(name, "rad"): value for name, value in zip(self.joints, positions, strict=True)}
        return found if opening is None else found | {OPENING: opening}


class Translator:
    """Between one arm and one policy.

    Attributes:
        cartesian: whether the policy displaces the hand; else its actions are the arm's joint positions.
        moving: which of the policy's actions move the arm: dx to drz, or the arm's joints in their order.

    Args:
        arm: the robot.
        info: the policy.
        translation, rotation: how much of a displacement (in m, in rad) the arm of the demonstrations really went. A
            policy learns what was commanded there, and an arm that followed softly got only part of the way.

    Raises:
        MismatchError: the policy's state or actions are not of this arm.
    """

    def __init__(self, arm: Arm, info: PolicyInfo, translation: float = 1.0, rotation: float = 1.0) -> None:
        self.arm = arm
        self._state = info.state
        possible = arm.values(np.zeros(len(arm.joints)), 0.0 if arm.hand.joints else None)
        if unknown := [feature for feature in info.state if feature not in possible]:
            raise MismatchError(
                f"the policy's state has {_listed(unknown)}, which this arm cannot say; it can {_listed(possible)}"
            )
        moving = tuple(feature for feature in info.actions if feature.name != GRIPPER)
        straight = tuple(Feature(name, "rad") for name in arm.joints)
        self.cartesian = moving == DISPLACEMENTS
        if not self.cartesian and set(moving) != set(straight):
            raise MismatchError(
                f"the policy's actions are {_listed(moving)}; expected the joints {_listed(straight)}, "
                f"or {_listed(DISPLACEMENTS)}, and '{GRIPPER}'"
            )
        names = [feature.name for feature in info.actions]
        wanted = [feature.name for feature in (DISPLACEMENTS if self.cartesian else straight)]
        self.moving = [names.index(name) for name in wanted]
        self._gripper = names.index(GRIPPER) if GRIPPER in names else None
        shares = dict(zip(DISPLACEMENTS, [translation] * 3 + [rotation] * 3, strict=True))
        self._shares = np.array([shares.get(feature, 1.0) for feature in info.actions])

    def check(self, limits: Limits) -> None:
        """See that the policy's own joints are held to the description's range and speed, as those found here are.

        Raises:
            MismatchError: one may go farther or faster than the description says.
        """
        if self.cartesian:
            return
        fastest = self.arm.from_model(self.arm.model.velocityLimit)
        for index, name, lower, upper, speed in zip(
            self.moving, self.arm.joints, *self.arm.range(), fastest, strict=True
        ):
            limit = limits[index]
            assert isinstance(limit, AxisLimits)  # `check_limits` has seen to it
            for what, given, allowed, ok in (
                ("lower", limit.lower, lower, limit.lower >= lower),
                ("upper", limit.upper, upper, limit.upper <= upper),
                ("velocity", limit.velocity, speed, limit.velocity <= speed),
            ):
                if not ok:
                    raise MismatchError(
                        f"parameter 'limits.{name}.{what}' is {given:g}, and robot_description allows {allowed:g}"
                    )

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """A policy's chunk [H, A] as this arm, which goes where it is told, is to take it."""
        return actions * self._shares

    def to_policy(self, actions: np.ndarray) -> np.ndarray:
        """The way back."""
        return actions / self._shares

    def state(self, positions: np.ndarray, fingers: np.ndarray) -> np.ndarray:
        """The policy's state, float32 [S], from the arm's joints [J] (rad) and those of the hand."""
        values = self.arm.values(positions, float(self.arm.hand.opening(fingers)) if self.arm.hand.joints else None)
        return np.array([values[feature] for feature in self._state], np.float32)

    def follower(self, positions: np.ndarray) -> Follower:
        """For a motion that begins with the arm's joints at `positions` [J]."""
        return (CartesianFollower if self.cartesian else Follower)(self.arm, positions, self.moving)

    def gripper(self, position: np.ndarray) -> float | None:
        """What to tell the hand's controller for a command [A]; None if the policy has no gripper."""
        return None if self._gripper is None else self.arm.hand.command(position[self._gripper])


class Follower:
    """From commands in joint positions to joint targets: straight through."""

    def __init__(self, arm: Arm, positions: np.ndarray, moving: Sequence[int]) -> None:
        self._arm, self._moving = arm, list(moving)

    def follow(self, position: np.ndarray, velocity: np.ndarray, dt: float) -> JointTarget:
        """For a command [A] that comes dt (s) after the last.

        Raises:
            KinematicsError: there is no way there.
        """
        return JointTarget(position[self._moving], velocity[self._moving])


class HandPath:
    """From commands of where the hand is to be, and how far turned since the start, to its poses.

    Rotation vectors do not add up to an orientation: the hand's is turned further by each difference of two commands.
    """

    def __init__(self, arm: Arm, positions: np.ndarray) -> None:
        """A path that begins with the arm's joints at `positions` [J], rad."""
        self._orientation = arm.pose(positions).rotation
        self._turned = np.zeros(3)

    def pose(self, place: np.ndarray, turned: np.ndarray) -> pinocchio.SE3:
        """Of the tip in the base, for the next command: place [3] in m and turned [3] in rad, along the base's axes."""
        self._orientation = pinocchio.exp3(turned - self._turned) @ self._orientation
        self._turned = turned
        return pinocchio.SE3(self._orientation, place)


class CartesianFollower(Follower):
    """From commands of where the hand is to be to joint targets, by inverse kinematics."""

    def __init__(self, arm: Arm, positions: np.ndarray, moving: Sequence[int]) -> None:
        super().__init__(arm, positions, moving)
        self._path = HandPath(arm, positions)
        self._base = arm.base_in_world()
        self._configuration = pink.Configuration(arm.model, arm.model.createData(), arm.to_model(positions))
        self._reach = FrameTask(arm.tip, position_cost=1.0, orientation_cost=1.0)
        self._posture = PostureTask(cost=POSTURE)
        self._posture.set_target(self._configuration.q)
        self._limits = [ConfigurationLimit(arm.model), VelocityLimit(arm.model)]

    def follow(self, position: np.ndarray, velocity: np.ndarray, dt: float) -> JointTarget:
        pose = self._path.pose(position[self._moving[:3]], position[self._moving[3:]])
        self._reach.set_target(self._base * pose)
        q = self._configuration.q
        speeds = np.zeros_like(q)
        if dt > 0:
            try:
                speeds = pink.solve_ik(
                    self._configuration, (self._reach, self._posture), dt, solver=SOLVER, limits=self._limits
                )
            except (PinkError, QPError) as error:
                raise KinematicsError(f"inverse kinematics: {error}") from error
            self._configuration.integrate_inplace(speeds, dt)
            q = self._configuration.q
        return JointTarget(self._arm.from_model(q), self._arm.from_model(speeds))


def _listed(features: Sequence[Feature] | Mapping[Feature, object]) -> str:
    return ", ".join(f"{feature.name} ({feature.unit})" for feature in features)
