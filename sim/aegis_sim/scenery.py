"""What a scene is made of: the primitives on the table, the cameras, light and surfaces of the room.

Plain values, compared and written down with ease; `tabletop.py` makes them real.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from aegis_sim.questions import draw_objects

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.06, 0.06),
    "green": (0.08, 0.60, 0.13),
    "blue": (0.08, 0.20, 0.88),
    "yellow": (0.95, 0.85, 0.08),
    "purple": (0.50, 0.12, 0.68),
    "orange": (1.00, 0.46, 0.03),
}
# name -> MuJoCo geom type and size: half edges; radius; radius and half height
SHAPES: dict[str, tuple[int, tuple[float, float, float]]] = {
    "cube": (int(mujoco.mjtGeom.mjGEOM_BOX), (0.020, 0.020, 0.020)),
    "ball": (int(mujoco.mjtGeom.mjGEOM_SPHERE), (0.023, 0.0, 0.0)),
    "cylinder": (int(mujoco.mjtGeom.mjGEOM_CYLINDER), (0.019, 0.027, 0.0)),
}
# Things without a name, which no question speaks of: distractors.
ODD_COLOURS: dict[str, tuple[float, float, float]] = {
    "white": (0.92, 0.92, 0.92),
    "black": (0.06, 0.06, 0.06),
    "brown": (0.36, 0.20, 0.09),
}
ODD_SHAPES: dict[str, tuple[int, tuple[float, float, float]]] = {
    "pebble": (int(mujoco.mjtGeom.mjGEOM_ELLIPSOID), (0.026, 0.018, 0.014)),
    "tile": (int(mujoco.mjtGeom.mjGEOM_BOX), (0.026, 0.026, 0.008)),
}
TABLE_TEXTURES = ("ceramic", "light-wood", "dark-wood", "gray-felt", "clay", "white-bricks", "plain")
TABLE_HEIGHT = 0.8
AREA_X, AREA_Y = (-0.11, 0.11), (-0.17, 0.17)  # where objects stand
SPACING = 0.095  # least distance between two objects' centres: an open gripper fits between them
MAX_OBJECTS = 4


@dataclass(frozen=True)
class Primitive:
    """One object on the table: a colour, a shape (of COLOURS and SHAPES, or odd ones), its place (m), heading (rad)."""

    colour: str
    shape: str
    x: float
    y: float
    yaw: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class CameraView:
    """A camera at `position` looking at `target` (world, m), upright, with a vertical field of view in degrees."""

    position: tuple[float, float, float] = (0.50, 0.0, 1.30)
    target: tuple[float, float, float] = (-0.02, 0.0, 0.86)
    fovy: float = 36.0

    def right(self) -> np.ndarray:
        """Where the image's right is in the world, [3], a level unit vector."""
        right = np.cross((0.0, 0.0, 1.0), np.subtract(self.position, self.target))
        return right / np.linalg.norm(right)

    def quaternion(self) -> np.ndarray:
        """MuJoCo's camera orientation (w, x, y, z): it looks along its -z, +x is the image's right, +y its top."""
        backward = np.subtract(self.position, self.target)
        backward /= np.linalg.norm(backward)
        right = self.right()
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(backward, right), backward], axis=1).ravel())
        return quaternion


@dataclass(frozen=True)
class Look:
    """All that can be seen and not touched; `Look()` is the nominal room. Colours (RGB, 0 to 1) tint textures."""

    front: CameraView = CameraView()
    table_texture: str = "ceramic"
    table_colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    wall_colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    floor_colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    light_position: tuple[float, float, float] = (1.0, 1.0, 1.5)  # shines from here towards the table's middle
    light_diffuse: tuple[float, float, float] = (0.8, 0.8, 0.8)
    light_ambient: tuple[float, float, float] = (0.0, 0.0, 0.0)


def extent(shape: str) -> np.ndarray:
    """Half of a shape's length along each of its own axes, [3], m."""
    geom, size = (SHAPES | ODD_SHAPES)[shape]
    if geom == mujoco.mjtGeom.mjGEOM_SPHERE:
        return np.full(3, size[0])
    return np.array((size[0], size[0], size[1]) if geom == mujoco.mjtGeom.mjGEOM_CYLINDER else size)


def half_height(shape: str) -> float:
    """How far above what it stands on a thing's centre is, m."""
    return float(extent(shape)[2])


def random_primitives(rng: np.random.Generator, kinds: Sequence[tuple[str, str]] | None = None) -> list[Primitive]:
    """Objects at random places at least SPACING apart, at any heading.

    Args:
        kinds: their (colour, shape) pairs; when None, as `questions.draw_objects` draws them.
    """
    kinds = draw_objects(rng) if kinds is None else kinds
    count = len(kinds)
    while True:
        places = np.stack([rng.uniform(*AREA_X, count), rng.uniform(*AREA_Y, count)], axis=1)
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(count)
        if gaps.min() >= SPACING:
            break
    return [
        Primitive(colour, shape, float(x), float(y), float(rng.uniform(-np.pi, np.pi)))
        for (colour, shape), (x, y) in zip(kinds, places, strict=True)
    ]
