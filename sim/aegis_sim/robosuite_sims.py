"""robosuite's own tasks as we use them: any of four arms, one front camera looking at the arm, all things by name.

Placing, physics and success are robosuite's (https://robosuite.ai/docs/modules/environments.html). Its random numbers
come from one generator, which `draw` sets, so that an episode depends on nothing else.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import ClassVar, get_args

import numpy as np
from robosuite.environments.manipulation.door import Door
from robosuite.environments.manipulation.lift import Lift
from robosuite.environments.manipulation.nut_assembly import NutAssembly
from robosuite.environments.manipulation.pick_place import PickPlaceCan
from robosuite.environments.manipulation.stack import Stack
from robosuite.models.objects import MujocoObject
from scipy.spatial.transform import Rotation

from aegis_sim.arm import FRONT, ArmSim
from aegis_sim.rendering import child
from aegis_sim.scenery import CameraView
from aegis_sim.tasks import Robot

CONTROL_HZ = 20  # robosuite's own
GRIPPERS = {"UR5e": "Robotiq140Gripper"}
"""Instead of the arm's default: a Robotiq85Gripper stays 5 cm open in robosuite 1.5 (its issue 772)."""


_RUBBING = {"Sawyer": ("robot0_base_col", "robot0_link0_collision")}
"""Geoms of an arm that are in each other from the start: with 20 N m of friction, a Sawyer could not turn to a side."""


class RobosuiteSim(ArmSim):
    """Goes before robosuite's class among the bases. Physics and drawing only: episodes are `robosuite_envs.py`'s.

    Args:
        robot: the arm; its gripper is robosuite's default, but for GRIPPERS.

    Raises:
        ValueError: an unknown arm.
    """

    view: ClassVar[CameraView] = CameraView(position=(0.55, 0.0, 1.36), target=(-0.05, 0.0, 0.92), fovy=40.0)

    def __init__(self, robot: str = "Panda") -> None:
        if robot not in get_args(Robot):
            raise ValueError(f"robot '{robot}': expected one of {', '.join(get_args(Robot))}")
        self._robot = robot
        super().__init__(
            robots=robot,
            gripper_types=GRIPPERS.get(robot, "default"),
            control_freq=CONTROL_HZ,
            seed=0,  # Lift draws its cube's size as it is loaded
        )

    # -- robosuite's hooks ---------------------------------------------------------------------------------------

    def edit_model_xml(self, xml: str) -> str:
        root = ElementTree.fromstring(super().edit_model_xml(xml))
        view, numbers = self.view, lambda values: " ".join(map(str, values))
        camera = ElementTree.SubElement(child(root, "worldbody"), "camera", name=FRONT, mode="fixed")
        camera.attrib.update(pos=numbers(view.position), quat=numbers(view.quaternion()), fovy=str(view.fovy))
        if self._robot in _RUBBING:
            bodies = [_body_of(root, geom) for geom in _RUBBING[self._robot]]
            contact = ElementTree.SubElement(root, "contact")
            ElementTree.SubElement(contact, "exclude", body1=bodies[0], body2=bodies[1])
        return ElementTree.tostring(root, encoding="unicode")

    def reward(self, action: np.ndarray | None = None) -> float:
        return 0.0  # the environments pay for success alone

    # -- the scene -----------------------------------------------------------------------------------------------

    def things(self) -> dict[str, MujocoObject]:
        """What can be taken, by what it is called."""
        raise NotImplementedError

    def draw(self, rng: np.random.Generator) -> None:
        """A new scene, and the arm at home with robosuite's noise on its joints."""
        self.rng.bit_generator.state = np.random.default_rng(rng.integers(2**63)).bit_generator.state
        self.reset()

    def succeeded(self) -> bool:
        """Whether robosuite calls it a success."""
        return bool(self._check_success())

    def position(self, name: str) -> np.ndarray:
        """Where a thing is, float64 [3], world, m."""
        return self.sim.data.get_body_xpos(self.things()[name].root_body).copy()

    def rotation(self, name: str) -> Rotation:
        """How a thing is turned in the world."""
        return Rotation.from_matrix(self.sim.data.get_body_xmat(self.things()[name].root_body))

    def heading(self, name: str) -> float:
        """Heading of a thing about the vertical, rad."""
        matrix = self.sim.data.get_body_xmat(self.things()[name].root_body)
        return float(np.arctan2(matrix[1, 0], matrix[0, 0]))

    def held(self, name: str) -> bool:
        """Whether both finger pads touch a thing."""
        return bool(self._check_grasp(self.robots[0].gripper["right"], self.things()[name]))

    def share(self, name: str, camera: str, size: int) -> float:
        """The share of a camera image's pixels that show a thing; needs a rendering of its own."""
        thing = self.things()[name]
        geoms = [self.sim.model.geom_name2id(geom) for geom in thing.contact_geoms + thing.visual_geoms]
        return float(np.isin(self.geoms_seen(camera, size), geoms).mean())


def _body_of(root: ElementTree.Element, geom: str) -> str:
    """The name of the body that a geom is part of, in a model's XML."""
    return next(body.attrib["name"] for body in root.iter("body") if body.find(f"geom[@name='{geom}']") is not None)


class LiftSim(RobosuiteSim, Lift):
    """A red cube on a table."""

    def things(self) -> dict[str, MujocoObject]:
        return {"red cube": self.cube}


class StackSim(RobosuiteSim, Stack):
    """A red cube, and a larger green one."""

    def things(self) -> dict[str, MujocoObject]:
        return {"red cube": self.cubeA, "green cube": self.cubeB}


class CanSim(RobosuiteSim, PickPlaceCan):
    """A can in one bin, and a bin of four compartments; the can's shows its ghost."""

    view = CameraView(position=(1.15, 0.0, 1.75), target=(0.02, 0.0, 0.85), fovy=48.0)

    def things(self) -> dict[str, MujocoObject]:
        return {"can": self.objects[self.object_id]}

    def destination(self) -> np.ndarray:
        """Middle of the can's compartment, on its floor, [3], world, m."""
        return self.target_bin_placements[self.object_id].copy()


class NutSim(RobosuiteSim, NutAssembly):
    """A square and a round nut, each with a handle, and a peg for either; one of the nuts is named."""

    view = CameraView(position=(0.85, 0.0, 1.55), target=(0.03, 0.0, 0.92), fovy=43.0)

    def draw(self, rng: np.random.Generator) -> None:
        super().draw(rng)
        self.named = str(rng.choice(list(self.things())))

    def things(self) -> dict[str, MujocoObject]:
        return {"square nut": self.nuts[0], "round nut": self.nuts[1]}

    def succeeded(self) -> bool:
        """Whether the named nut is on its peg, by robosuite's check of each."""
        self._check_success()
        return bool(self.objects_on_pegs[self._index(self.named)])

    def handle(self, name: str) -> np.ndarray:
        """Middle of a nut's handle, [3], world, m."""
        return self.sim.data.site_xpos[self.object_site_ids[self._index(name)]].copy()

    def peg(self, name: str) -> np.ndarray:
        """Top of a nut's peg, [3], world, m."""
        body = (self.peg1_body_id, self.peg2_body_id)[self._index(name)]
        half_height = self.sim.model.geom_size[self.sim.model.body_geomadr[body]].max()  # longer than wide
        return self.sim.data.body_xpos[body] + (0.0, 0.0, half_height)

    def _index(self, name: str) -> int:
        return list(self.things()).index(name)


class DoorSim(RobosuiteSim, Door):
    """A door that a handle unlocks."""

    view = CameraView(position=(0.75, 0.45, 1.75), target=(-0.15, -0.20, 1.05), fovy=50.0)

    def things(self) -> dict[str, MujocoObject]:
        return {"handle": self.door}

    def position(self, name: str) -> np.ndarray:
        return self._handle_xpos.copy()

    def held(self, name: str) -> bool:
        """Whether both fingers touch the handle; leaning, they do so beside their pads."""
        fingers = self.robots[0].gripper["right"].important_geoms
        bar = [geom for geom in self.door.contact_geoms if geom.endswith("handle")]
        return bool(self._check_grasp([fingers["left_finger"], fingers["right_finger"]], bar))

    def hinge(self) -> float:
        """How far the door is open, rad."""
        return float(self.sim.data.qpos[self.hinge_qpos_addr])

    def latch(self) -> float:
        """How far the handle is turned, rad; at 1.57 it stops."""
        return float(abs(self.sim.data.qpos[self.handle_qpos_addr]))

    def outward(self) -> np.ndarray:
        """Where the door's face looks, on the handle's side, [3], world, a level unit vector."""
        return -self.sim.data.get_body_xmat(self.door.door_body)[:, 1]

    def hinge_axis(self) -> np.ndarray:
        """A point on the upright axis that the door turns about, [3], world, m."""
        return self._anchor(0)

    def latch_axis(self) -> np.ndarray:
        """A point on the axis that the handle turns about, which is square to the door, [3], world, m."""
        return self._anchor(1)

    def _anchor(self, joint: int) -> np.ndarray:
        return self.sim.data._data.xanchor[self.sim.model.joint_name2id(self.door.joints[joint])].copy()
