"""A robosuite environment as we use one: one arm, drawn cheaply, read without its observables, in SI units.

`ArmSim` goes before robosuite's own class among the bases (`class LiftSim(ArmSim, Lift)`). Drawing costs more than
physics on a CPU, and most of what robosuite draws nobody needs: see `rendering.py`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import OrderedDict
from typing import Any

import mujoco
import numpy as np
from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
from robosuite.models.grippers.panda_gripper import PandaGripperBase
from scipy.spatial.transform import Rotation

from aegis_sim.rendering import Point, Renderer, prepare_drawing

FRONT, WRIST = "front", "robot0_eye_in_hand"  # MuJoCo's names of the two cameras
HOME_ROTATION = Rotation.from_euler("z", np.pi / 2) * Rotation.from_euler("x", np.pi)
"""Of the gripper pointing straight down, its fingers closing along the world's y: within 0.2 rad, every arm's home."""


class ArmSim(ManipulationEnv):
    """Physics and drawing of one arm and whatever stands before it; episodes are `env.py`'s."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,  # the GL context is made at the first picture, so fork and spawn both work
            renderer="mujoco",
            ignore_done=True,
            hard_reset=False,
            **options,
        )

    # -- robosuite's hooks ---------------------------------------------------------------------------------------

    def edit_model_xml(self, xml: str) -> str:
        root = ElementTree.fromstring(super().edit_model_xml(xml))
        prepare_drawing(root)
        return ElementTree.tostring(root, encoding="unicode")

    def _initialize_sim(self, xml_string: str | None = None) -> None:
        super()._initialize_sim(xml_string)
        self._renderer = Renderer(self.sim)

    def _setup_observables(self) -> OrderedDict:
        return OrderedDict()  # robosuite would update them at every physics step; `env.py` reads the state itself

    def _setup_references(self) -> None:
        super()._setup_references()
        self._site_id = self.robots[0].eef_site_id["right"]
        self._fingers = np.array(self.robots[0]._ref_gripper_joint_pos_indexes["right"])
        pads = self.robots[0].gripper["right"].important_geoms
        self._pads = [self.sim.model.geom_name2id(pads[f"{side}_fingerpad"][0]) for side in ("left", "right")]

    def step(self, action: np.ndarray) -> Any:
        """One control step of a robosuite action, [-1, 1] each."""
        outcome = super().step(action)
        self.catch_up()
        return outcome

    def catch_up(self) -> None:
        """Bring every pose up to date: MuJoCo's step leaves them where they were before its last integration."""
        mujoco.mj_kinematics(self.sim.model._model, self.sim.data._data)
        mujoco.mj_camlight(self.sim.model._model, self.sim.data._data)

    # -- the arm -------------------------------------------------------------------------------------------------

    def base_position(self) -> np.ndarray:
        """Origin of the robot's base frame, [3], world, m; its axes are the world's."""
        return self.sim.data.get_body_xpos(self.robots[0].robot_model.root_body).copy()

    def gripper_pose(self) -> tuple[np.ndarray, Rotation]:
        """Position [3] (world, m) and orientation of the point between the finger tips."""
        data = self.sim.data
        return data.site_xpos[self._site_id].copy(), Rotation.from_matrix(data.site_xmat[self._site_id].reshape(3, 3))

    def opening(self) -> float:
        """Distance between the finger pads, m.

        A Panda's is what its own hand reports, 0 to 0.08; of other hands, some have linkages, the pads are measured.
        """
        data, model = self.sim.data, self.sim.model
        if isinstance(self.robots[0].gripper["right"], PandaGripperBase):
            left, right = data.qpos[self._fingers]
            return float(left - right)
        between = np.subtract(*data.geom_xpos[self._pads])
        apart = float(np.linalg.norm(between))
        halves = [np.abs(between @ data.geom_xmat[pad].reshape(3, 3)) @ model.geom_size[pad] for pad in self._pads]
        return max(apart - float(sum(halves)) / apart, 0.0)  # from face to face of two boxes

    def turned(self) -> Rotation:
        """How the gripper is turned from pointing straight down at home, in the world."""
        return self.gripper_pose()[1] * HOME_ROTATION.inv()

    # -- pictures ------------------------------------------------------------------------------------------------

    def render_camera_image(self, camera: str, size: int) -> np.ndarray:
        """What `camera` (MuJoCo's name) sees, uint8 [size, size, 3], the right way up."""
        return np.ascontiguousarray(self._renderer.draw(camera, size))

    def geoms_seen(self, camera: str, size: int) -> np.ndarray:
        """MuJoCo's id of the geom that each pixel of `camera` shows, int [size, size], -1 for none."""
        drawn = self._renderer.draw(camera, size, segmentation=True)
        return np.where(drawn[..., 0] == int(mujoco.mjtObj.mjOBJ_GEOM), drawn[..., 1], -1)

    def project(self, point: Point, camera: str) -> tuple[float, float]:
        """Image coordinates of a world point (m) in `camera`: u to the right, v down, the image is [0, 1] x [0, 1].

        Raises:
            ValueError: the point is behind the camera.
        """
        return self._renderer.project(point, camera)

    def shows(self, point: Point, camera: str) -> bool:
        """Whether a world point (m) lies within what `camera` pictures, hidden or not."""
        return self._renderer.shows(point, camera)
