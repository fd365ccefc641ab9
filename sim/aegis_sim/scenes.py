"""Random simulated scenes to ask questions about: the table of `tabletop.py` with everything varied that can be.

A third of the scenes are the nominal room, as the robot sees it when it acts; in the others the front camera, the
light, the table, the walls and the floor change. The arm hovers somewhere, reaches for an object or holds one. A scene
depends on its generator alone, never on the scenes before it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from aegis_sim.arm import FRONT, HOME_ROTATION, WRIST
from aegis_sim.questions import GRIPPER_LABEL, HELD_SHARE, MIN_VISIBLE, Scene, SceneObject, View, draw_objects, label
from aegis_sim.scenery import TABLE_HEIGHT, TABLE_TEXTURES, CameraView, Look, Primitive, random_primitives
from aegis_sim.tabletop import HAND, HOME_POSITION, Tabletop

NOMINAL_SHARE = 0.35
"""Share of the scenes in the nominal room, seen by the nominal camera."""
MAX_AZIMUTH = 45.0
"""How far around the table the front camera moves, in degrees to either side."""

_TEXTURES = tuple(name for name in TABLE_TEXTURES if name != "clay")  # orange and red objects are lost on clay
_CAMERAS = {"front": FRONT, "wrist": WRIST}
_FRAME = 0.05  # the centres of all objects are this far inside the front image
_MIN_SHOWN = 0.6  # of an object's silhouette, or one cannot be sure what it is
_MIN_HELD_SHOWN = 0.4  # in the wrist image, where the hand always hides a third of what it holds, but from close by
_SILHOUETTES = {"cube": 0.0022, "ball": 0.0017, "cylinder": 0.0019}  # m2, about, from above at an angle
_GRIPS = {"cube": 0.040, "ball": 0.046, "cylinder": 0.038}  # m between the fingers
_REACH_CLEAR = 0.10  # m above the table: higher up the fingers are clearly above whatever stands below


class _Arm(NamedTuple):
    position: tuple[float, float, float]
    rotation: Rotation
    opening: float
    held: int | None = None
    among: bool = False  # the fingers are around an object that stands on the table


class SceneRenderer:
    """Renders random scenes, one after the other, on one tabletop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._table = Tabletop()

    def sample(self, rng: np.random.Generator) -> dict[str, View]:
        """One scene in which the front image shows every object well: camera ("front", "wrist") -> view."""
        while True:
            nominal = rng.random() < NOMINAL_SHARE
            holding = rng.random() < HELD_SHARE
            pairs = draw_objects(rng)
            for _ in range(20):  # the same objects, so that crowded scenes and held objects do not become rare
                views = self._try(rng, pairs, nominal, holding)
                if views:
                    return views

    def _try(
        self, rng: np.random.Generator, pairs: list[tuple[str, str]], nominal: bool, holding: bool
    ) -> dict[str, View] | None:
        table = self._table
        primitives = random_primitives(rng, pairs)
        table.dress(primitives)
        table.set_look(Look() if nominal else random_look(rng))
        arm = _random_arm(rng, primitives, int(rng.integers(len(primitives))) if holding else None)
        table.set_arm(arm.position, arm.rotation, arm.opening)
        if arm.held is not None:
            self._hold(rng, arm.held)
        points = [table.project(table.position(i), FRONT) for i in range(len(primitives))]
        if min(min(u, v, 1 - u, 1 - v) for u, v in points) < _FRAME:
            return None
        front = self._view("front", arm)
        if front.scene is None or not all(thing.seen for thing in front.scene.objects):
            return None
        return {"front": front, "wrist": self._view("wrist", arm)}

    def _hold(self, rng: np.random.Generator, index: int) -> None:
        """Put the object between the finger tips, a little off, as grasps are."""
        table = self._table
        position, rotation = table.gripper_pose()
        along = rotation.apply([rng.uniform(-0.006, 0.006), 0.0, rng.uniform(-0.008, 0.006)])
        fingers = rotation.as_matrix()[:, 1]
        table.place(index, position + along, float(np.arctan2(fingers[1], fingers[0])))
        table.sim.forward()

    def _view(self, camera: str, arm: _Arm) -> View:
        table, name = self._table, _CAMERAS[camera]
        owners = table.segment(name, self._size)
        things = table.primitives
        labels = np.where(owners == HAND, GRIPPER_LABEL, 0).astype(np.uint8)
        for index, thing in enumerate(things):
            labels[owners == index] = label(thing.colour, thing.shape)
        shares = [float((owners == index).mean()) for index in range(len(things))]
        certain = all(
            share == 0 or share > max(MIN_VISIBLE, self._enough(index, camera, index == arm.held))
            for index, share in enumerate(shares)
        )
        scene = None
        if certain:
            places = [table.project(table.position(i), name) if shares[i] else (0.0, 0.0) for i in range(len(things))]
            objects = tuple(
                SceneObject(thing.colour, thing.shape, u, v, share, standing=index != arm.held)
                for index, (thing, (u, v), share) in enumerate(zip(things, places, shares, strict=True))
            )
            gripper = not arm.among and table.shows(table.gripper_pose()[0], name)
            scene = Scene(objects, arm.held, gripper=gripper, upright=camera == "front")
        return View(table.render_camera_image(name, self._size), labels, scene)

    def _enough(self, index: int, camera: str, held: bool) -> float:
        """The share of the image that an object must take for one to be sure what it is."""
        model, data = self._table.sim.model._model, self._table.sim.data._data
        camera_id = model.camera(_CAMERAS[camera]).id
        away = np.linalg.norm(self._table.position(index) - data.cam_xpos[camera_id])
        extent = 2 * np.tan(np.radians(model.cam_fovy[camera_id]) / 2) * away  # m across the image
        unhidden = _SILHOUETTES[self._table.primitives[index].shape] / extent**2
        return float(unhidden * (_MIN_HELD_SHOWN if held and camera == "wrist" else _MIN_SHOWN))


def random_look(rng: np.random.Generator) -> Look:
    """A room that differs from the nominal one in everything; the front camera stands up to MAX_AZIMUTH aside."""
    azimuth = np.radians(rng.uniform(-MAX_AZIMUTH, MAX_AZIMUTH) if rng.random() < 0.6 else rng.normal(0, 8))
    elevation = np.radians(rng.uniform(34, 58))
    fovy = rng.uniform(30, 46)
    distance = rng.uniform(0.43, 0.54) / (2 * np.tan(np.radians(fovy) / 2))  # so many metres of table across the image
    # Looking at a point before the objects moves them up: without it the image's back third would always be empty.
    ahead = rng.uniform(0.12, 0.26) if rng.random() < 0.6 else rng.uniform(-0.05, 0.12)
    target = np.add(CameraView().target, (ahead, *rng.uniform(-0.04, 0.04, 2)))
    away = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    return Look(
        front=CameraView(_three(target + distance * away), _three(target), float(fovy)),
        table_texture=str(rng.choice(_TEXTURES)),
        table_colour=_tint(rng, 0.35, 1.0),
        wall_colour=_tint(rng, 0.3, 1.0),
        floor_colour=_tint(rng, 0.3, 1.0),
        light_position=_three(np.array([1.0, 1.0, 1.5]) + rng.uniform((-0.8, -2.0, -0.2), (0.6, 0.4, 0.8))),
        light_diffuse=_three(np.full(3, rng.uniform(0.55, 0.95))),
        light_ambient=_three(np.full(3, rng.uniform(0.0, 0.3))),
    )


def _tint(rng: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    """A tone with a little colour: never one that an object could be lost in."""
    return _three(np.clip(rng.uniform(low, high) + rng.uniform(-0.07, 0.07, 3), 0, 1))


def _three(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z


def _random_arm(rng: np.random.Generator, primitives: list[Primitive], held: int | None) -> _Arm:
    """A pose of the gripper, pointing down: at home, hovering, reaching for an object, or holding and lifting one."""
    turn = rng.uniform(-np.pi / 2, np.pi / 2)
    lean = Rotation.from_rotvec([*rng.normal(0, 0.05, 2), 0.0])
    kind = rng.random()
    if held is not None:
        thing = primitives[held]
        x, y = (thing.x, thing.y) if kind < 0.6 else (rng.uniform(-0.13, 0.13), rng.uniform(-0.18, 0.18))
        z = TABLE_HEIGHT + rng.uniform(0.045, 0.22)  # an episode ends some 6 cm up
        return _Arm((x, y, z), lean * _turned(turn), _GRIPS[thing.shape], held)
    if kind < 0.3:
        x, y, z = np.array(HOME_POSITION) + rng.uniform(-1, 1, 3) * (0.08, 0.12, 0.06)
        return _Arm((x, y, z), lean * _turned(rng.uniform(-0.25, 0.25)), 0.08)
    thing = primitives[rng.integers(len(primitives))]
    z = TABLE_HEIGHT + rng.uniform(0.02, 0.2)
    if kind < 0.6:
        offset = rng.uniform(-0.008, 0.008, 2)
        facing = thing.yaw if thing.shape == "cube" else turn
        above = _Arm((thing.x + offset[0], thing.y + offset[1], z), _turned(facing), 0.08)
        return above._replace(among=z < TABLE_HEIGHT + _REACH_CLEAR)
    x, y, z = rng.uniform(-0.16, 0.14), rng.uniform(-0.2, 0.2), TABLE_HEIGHT + rng.uniform(_REACH_CLEAR, 0.3)
    return _Arm((x, y, z), lean * _turned(turn), rng.choice((0.08, rng.uniform(0.0, 0.08))))


def _turned(angle: float) -> Rotation:
    """Straight down, turned about the vertical by `angle`, brought within the half turn that the wrist can do."""
    return Rotation.from_euler("z", (angle + np.pi / 2) % np.pi - np.pi / 2) * HOME_ROTATION
