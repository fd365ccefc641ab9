"""A Panda at a table with one to four coloured primitives, in robosuite.

The model is compiled once. Objects change shape and colour, and the room changes its camera, light, texture and
colours, by writing into the compiled model: a new scene costs about a millisecond instead of a recompilation. Drawing
is made cheap (no mirror pass, no multisampling), which matters more on a CPU than the resolution does.

World frame: x away from the robot, y to the robot's left, z up; metres and radians. Seen from the front camera, +y is
to the right. The table's top is at z = `TABLE_HEIGHT`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import mujoco
import numpy as np
from robosuite.controllers import load_composite_controller_config
from robosuite.models.arenas import TableArena
from robosuite.models.grippers import register_gripper
from robosuite.models.grippers.panda_gripper import PandaGripper
from robosuite.models.objects import BoxObject
from robosuite.models.tasks import ManipulationTask
from scipy.spatial.transform import Rotation

from aegis_sim.arm import FRONT, HOME_ROTATION, ArmSim
from aegis_sim.rendering import TABLE_MATERIAL, Point, add_table_textures, child
from aegis_sim.scenery import (
    COLOURS,
    MAX_OBJECTS,
    ODD_COLOURS,
    ODD_SHAPES,
    SHAPES,
    TABLE_HEIGHT,
    TABLE_TEXTURES,
    Look,
    Primitive,
    extent,
)

BOX, CYLINDER = int(mujoco.mjtGeom.mjGEOM_BOX), int(mujoco.mjtGeom.mjGEOM_CYLINDER)
HAND = -2
"""In `Tabletop.segment`, the hand with its fingers."""
HOME_POSITION = (-0.08, 0.0, 1.0)
PHYSICS_TIMESTEP = 0.004  # s; robosuite's 0.002 is no better here, and its controller (Python) runs once per step
STIFFNESS = 300.0  # 1/s^2; at robosuite's 150 the arm covers under half of what each 0.1 s command asks for


@register_gripper
class QuickPandaGripper(PandaGripper):
    """robosuite's moves 4 mm per finger and control step whatever the rate, a slow second per grasp at 10 Hz.

    This one moves twice as fast, which is about what the real hand does (10 cm/s at most).
    """

    @property
    def speed(self) -> float:
        return 0.4


class Tabletop(ArmSim):
    """The table, the arm and up to four primitives. Physics and drawing only: episodes and tasks are `env.py`'s.

    Attributes:
        primitives: the objects now on the table, as they were placed; their indices name them everywhere.
        look: the room as it is now drawn.
    """

    def __init__(self, control_hz: float = 10.0) -> None:
        self.primitives: tuple[Primitive, ...] = ()
        self.look = Look()
        controller = load_composite_controller_config(robot="Panda")
        controller["body_parts"]["right"]["kp"] = STIFFNESS
        super().__init__(
            robots="Panda",
            controller_configs=controller,
            gripper_types="QuickPandaGripper",
            initialization_noise=None,
            control_freq=control_hz,
            seed=0,  # nothing is drawn from robosuite's generator; all randomness comes in through the methods below
        )

    # -- robosuite's hooks ---------------------------------------------------------------------------------------

    def _load_model(self) -> None:
        super()._load_model()
        robot = self.robots[0].robot_model
        robot.set_base_xpos(robot.base_xpos_offset["table"](0.8))
        arena = TableArena(table_full_size=(0.8, 0.8, 0.05), table_offset=(0, 0, TABLE_HEIGHT))
        arena.set_origin([0, 0, 0])
        arena.set_camera(FRONT, pos=self.look.front.position, quat=self.look.front.quaternion())
        # solref: stiff contacts, so that squeezed objects do not sink into the fingers
        self._objects = [
            BoxObject(f"object{i}", size=[0.02] * 3, density=400, friction=(1.5, 0.01, 0.001), solref=(0.01, 1))
            for i in range(MAX_OBJECTS)
        ]
        self.model = ManipulationTask(arena, [robot], self._objects)

    def edit_model_xml(self, xml: str) -> str:
        root = ElementTree.fromstring(super().edit_model_xml(xml))
        child(root, "option").set("timestep", str(PHYSICS_TIMESTEP))
        add_table_textures(root)
        for body in root.iter("body"):
            if body.get("name", "").startswith("object"):
                body.set("gravcomp", "1")  # MuJoCo honours a change at run time only if it was compiled in
        return ElementTree.tostring(root, encoding="unicode")

    def initialize_time(self, control_freq: float) -> None:
        super().initialize_time(control_freq)
        self.model_timestep = PHYSICS_TIMESTEP

    def _setup_references(self) -> None:
        super()._setup_references()
        model = self.sim.model
        self._body_ids = [model.body_name2id(item.root_body) for item in self._objects]
        self._geom_ids = [
            [model.geom_name2id(geom) for geom in item.contact_geoms + item.visual_geoms] for item in self._objects
        ]
        hand = self.robots[0].gripper["right"]
        self._hand_geoms = [model.geom_name2id(geom) for geom in hand.contact_geoms + hand.visual_geoms]
        self._arm = np.array(self.robots[0]._ref_joint_pos_indexes)
        self._arm_velocity = np.array(self.robots[0]._ref_joint_vel_indexes)
        self._fingers_velocity = np.array(self.robots[0]._ref_gripper_joint_vel_indexes["right"])

    def reward(self, action: np.ndarray | None = None) -> float:
        return 0.0

    # -- the scene -----------------------------------------------------------------------------------------------

    def dress(self, primitives: Sequence[Primitive]) -> None:
        """Put these objects, and no others, on the table. The arm stays as it is; no reset is needed.

        Raises:
            ValueError: none or more than MAX_OBJECTS objects.
        """
        if not 1 <= len(primitives) <= MAX_OBJECTS:
            raise ValueError(f"{len(primitives)} objects: this table takes 1 to {MAX_OBJECTS}")
        self.primitives = tuple(primitives)
        gravity_compensation = self.sim.model._model.body_gravcomp
        for i in range(MAX_OBJECTS):
            if i < len(primitives):
                item = primitives[i]
                height = self._shape(i, item)
                self.place(i, (item.x, item.y, TABLE_HEIGHT + height), item.yaw)
            else:
                # Unused ones float out of every camera's sight, apart: MuJoCo dies on overlapping retyped geoms. They
                # are reshaped all the same, as even their inertia would otherwise tie an episode to those before it.
                self._shape(i, Primitive("red", "cube", 0.0, 0.0))
                self.place(i, (0.0, float(i), 10.0), 0.0)
            gravity_compensation[self._body_ids[i]] = float(i >= len(primitives))
        self.sim.forward()

    def place(self, index: int, position: Point, yaw: float) -> None:
        """Put object `index` at `position` (world, m), upright at `yaw` (rad) and at rest.

        Several may be placed before one `sim.forward()` makes it so.
        """
        joint = self._objects[index].joints[0]
        self.sim.data.set_joint_qpos(joint, [*position, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
        self.sim.data.set_joint_qvel(joint, np.zeros(6))

    def _shape(self, index: int, item: Primitive) -> float:
        """Rewrite object `index` in the compiled model; returns its half height (m)."""
        model = self.sim.model._model
        geom_type, size = (SHAPES | ODD_SHAPES)[item.shape]
        half = extent(item.shape)
        radius = {BOX: np.linalg.norm(half), CYLINDER: np.hypot(size[0], size[1])}.get(geom_type, half.max())
        for geom in self._geom_ids[index]:
            model.geom_type[geom] = geom_type
            model.geom_size[geom] = size
            model.geom_aabb[geom] = [0, 0, 0, *half]
            model.geom_rbound[geom] = radius
            model.geom_rgba[geom, :3] = (COLOURS | ODD_COLOURS)[item.colour]
            # Rolling friction (which needs six contact dimensions), or round things roll off the table at a touch.
            model.geom_friction[geom] = (1.5, 0.01, 0.001) if geom_type == BOX else (1.5, 0.01, 0.004)
            model.geom_condim[geom] = 4 if geom_type == BOX else 6
        body = self._body_ids[index]
        squares = (2 * half) ** 2
        model.body_inertia[body] = model.body_mass[body] / 12 * (squares.sum() - squares)
        first = model.body_bvhadr[body]
        model.bvh_aabb[first : first + model.body_bvhnum[body]] = [0, 0, 0, *half]
        return float(half[2])

    def set_look(self, look: Look) -> None:
        """Draw the room like this from now on; `set_look(Look())` undoes every visual variation.

        Raises:
            ValueError: a table texture that was not compiled in.
        """
        if look.table_texture not in TABLE_TEXTURES:
            raise ValueError(f"table texture '{look.table_texture}': choose from {', '.join(TABLE_TEXTURES)}")
        model, names = self.sim.model._model, mujoco.mjtObj
        self.look = look
        camera = self.sim.model.camera_name2id(FRONT)
        model.cam_pos[camera], model.cam_quat[camera] = look.front.position, look.front.quaternion()
        model.cam_fovy[camera] = look.front.fovy
        material = mujoco.mj_name2id(model, names.mjOBJ_MATERIAL, TABLE_MATERIAL + look.table_texture)
        model.geom_matid[self.sim.model.geom_name2id("table_visual")] = material
        model.mat_rgba[material, :3] = look.table_colour
        for name, colour in (("walls_mat", look.wall_colour), ("floorplane", look.floor_colour)):
            model.mat_rgba[mujoco.mj_name2id(model, names.mjOBJ_MATERIAL, name), :3] = colour
        direction = np.subtract((0.0, 0.0, TABLE_HEIGHT), look.light_position)
        model.light_pos[0], model.light_dir[0] = look.light_position, direction / np.linalg.norm(direction)
        model.light_diffuse[0], model.light_ambient[0] = look.light_diffuse, look.light_ambient
        self.sim.forward()

    def position(self, index: int) -> np.ndarray:
        """Centre of object `index`, float64 [3], world, m."""
        return self.sim.data.body_xpos[self._body_ids[index]].copy()

    def heading(self, index: int) -> float:
        """Heading of object `index` about the vertical, rad."""
        matrix = self.sim.data.body_xmat[self._body_ids[index]].reshape(3, 3)
        return float(np.arctan2(matrix[1, 0], matrix[0, 0]))

    def held(self, index: int) -> bool:
        """Whether both finger pads touch object `index`."""
        return bool(self._check_grasp(self.robots[0].gripper["right"], self._objects[index]))

    def touched(self, index: int) -> bool:
        """Whether any part of the hand touches object `index`."""
        data, hand, thing = self.sim.data, set(self._hand_geoms), set(self._geom_ids[index])
        pairs = [{contact.geom1, contact.geom2} for contact in data.contact[: data.ncon]]
        return any(pair & hand and pair & thing for pair in pairs)

    def speed(self, index: int) -> float:
        """How fast object `index` moves, m/s."""
        return float(np.linalg.norm(self.sim.data.get_joint_qvel(self._objects[index].joints[0])[:3]))

    def touching(self) -> bool:
        """Whether anything but the table touches an object: the arm, or another object."""
        data, objects = self.sim.data, {geom for geoms in self._geom_ids[: len(self.primitives)] for geom in geoms}
        table = self.sim.model.geom_name2id("table_collision")
        pairs = [(contact.geom1, contact.geom2) for contact in data.contact[: data.ncon]]
        return any(objects & set(pair) and table not in pair for pair in pairs)

    # -- the arm -------------------------------------------------------------------------------------------------

    def set_arm(self, position: Point, rotation: Rotation = HOME_ROTATION, opening: float = 0.08) -> float:
        """Put the gripper at a pose (world, m) at once, without physics.

        Returns:
            What is left of the error, m and rad: under 1e-3 unless the pose is out of reach.
        """
        data, model = self.sim.data._data, self.sim.model._model
        data.qpos[self._arm] = self.robots[0].init_qpos
        jacobian = np.zeros((6, model.nv))
        error = np.zeros(6)
        for _ in range(30):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            current, turned = self.gripper_pose()
            error = np.concatenate([position - current, (rotation * turned.inv()).as_rotvec()])
            if np.abs(error).max() < 1e-4:
                break
            mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self._site_id)
            arm = jacobian[:, self._arm_velocity]
            data.qpos[self._arm] += arm.T @ np.linalg.solve(arm @ arm.T + 1e-4 * np.eye(6), error)
        data.qpos[self._fingers] = (opening / 2, -opening / 2)
        data.qvel[self._arm_velocity] = 0.0
        data.qvel[self._fingers_velocity] = 0.0
        command = 2.0 * opening / 0.08 - 1.0  # the hand remembers where it was told to be: -1 closed, 1 open
        self.robots[0].gripper["right"].current_action = np.array([command, -command])
        self.sim.forward()
        for controller in self.robots[0].composite_controller.part_controllers.values():
            controller.new_update = True  # else the first step would still aim from where the arm was before
        return float(np.linalg.norm(error))

    def grasp(self, index: int) -> bool:
        """Put object `index` between the fingers and close them (0.4 s of physics); returns whether it is held."""
        position, rotation = self.gripper_pose()
        fingers = rotation.as_matrix()[:, 1]
        self.place(index, position, float(np.arctan2(fingers[1], fingers[0])))
        self.sim.forward()
        self.sim.model._model.body_gravcomp[self._body_ids[index]] = 1.0  # it waits until the fingers arrive
        for _ in range(4):
            self.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
        self.sim.model._model.body_gravcomp[self._body_ids[index]] = 0.0
        return self.held(index)

    # -- pictures ------------------------------------------------------------------------------------------------

    def segment(self, camera: str, size: int) -> np.ndarray:
        """What each pixel of `camera` shows, int8 [size, size]: the index in `primitives`, HAND, or -1 for neither."""
        owner = np.full(self.sim.model._model.ngeom + 1, -1, np.int8)  # the last one: no geom at all
        owner[self._hand_geoms] = HAND
        for index in range(len(self.primitives)):
            owner[self._geom_ids[index]] = index
        return owner[self.geoms_seen(camera, size)]
