"""Drawing an arm at work on a CPU: an OpenGL context made late and shared with nobody, and nothing drawn in vain."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import robosuite.models
from robosuite.utils.binding_utils import MjRenderContextOffscreen, MjSim

from aegis_sim.scenery import TABLE_TEXTURES

Point = Sequence[float] | np.ndarray  # world, m

TABLE_MATERIAL = "aegis_table_"  # and a name out of TABLE_TEXTURES
_DRAWN, _HIDDEN = 1, 5  # MuJoCo's geom groups
_PEDESTAL = "pedestal_vis"  # ends its name: 33,000 triangles, mostly under the table, as many as a Panda's lower half


def child(element: ElementTree.Element, name: str) -> ElementTree.Element:
    """The first `name` in a model's XML.

    Raises:
        ValueError: there is none, so this is not robosuite's model as we know it.
    """
    found = element.find(name)
    if found is None:
        raise ValueError(f"robosuite's model has no <{name}>: install robosuite 1.5.2")
    return found


def prepare_drawing(root: ElementTree.Element) -> None:
    """Drop from a model's XML what makes drawing slow."""
    quality = ElementTree.SubElement(child(root, "visual"), "quality")
    quality.attrib.update(offsamples="0", shadowsize="0")  # no multisampling, no shadow map (nothing casts any)
    for material in root.iter("material"):
        material.set("reflectance", "0")  # a mirror draws the whole scene twice


def add_table_textures(root: ElementTree.Element) -> None:
    """Add every table texture to a model's XML, to be switched at run time."""
    assets = child(root, "asset")
    textures = Path(robosuite.models.assets_root) / "textures"
    for name in TABLE_TEXTURES:
        texture = ElementTree.SubElement(assets, "texture", name=TABLE_MATERIAL + name, type="cube")
        if name == "plain":
            texture.attrib.update(builtin="flat", rgb1="1 1 1", width="8", height="8")
        else:
            texture.set("file", str(textures / f"{name}.png"))
        material = ElementTree.SubElement(assets, "material", name=TABLE_MATERIAL + name)
        material.attrib.update(texture=TABLE_MATERIAL + name, specular="0.2")


class _Context(MjRenderContextOffscreen):
    """robosuite's assumes that it is alone: with two in a process it draws into, and frees, the other's buffers."""

    def render(self, *args: Any, **options: Any) -> None:
        self.gl_ctx.make_current()
        super().render(*args, **options)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the display may be gone already as the interpreter exits
            self.gl_ctx.make_current()
            super().__del__()


class Renderer:
    """Draws what the cameras of `sim` see; the GL context is made at the first picture."""

    def __init__(self, sim: MjSim) -> None:
        self._sim = sim
        model = sim.model._model
        for name in sim.model.geom_names:
            if name and name.endswith(_PEDESTAL):
                model.geom_group[sim.model.geom_name2id(name)] = _HIDDEN
        meshes = (model.geom_type == int(mujoco.mjtGeom.mjGEOM_MESH)) & (model.geom_group == _DRAWN)
        self._meshes = np.flatnonzero(meshes)

    def draw(self, camera: str, size: int, segmentation: bool = False) -> np.ndarray:
        """Pixels [size, size, 3] of a camera, the right way up: uint8 colours, or with `segmentation` MuJoCo's object
        types and ids, int32 [size, size, 2].
        """
        if self._sim._render_context_offscreen is None:
            self._make_context()
        self._cull(camera)
        pixels = self._sim.render(width=size, height=size, camera_name=camera, segmentation=segmentation)
        return pixels[::-1]  # OpenGL's first row is the bottom one; a left-right flip would make left right

    def project(self, point: Point, camera: str) -> tuple[float, float]:
        """See `ArmSim.project`."""
        x, y, z = self._seen_from(camera, point)
        if z >= 0:
            raise ValueError(f"point {tuple(point)} is behind camera '{camera}'")
        camera_id = self._sim.model.camera_name2id(camera)
        scale = 2 * np.tan(np.radians(self._sim.model._model.cam_fovy[camera_id]) / 2) * -z
        return float(0.5 + x / scale), float(0.5 - y / scale)

    def shows(self, point: Point, camera: str) -> bool:
        """See `ArmSim.shows`."""
        return self._seen_from(camera, point)[2] < 0 and all(0 < share < 1 for share in self.project(point, camera))

    def _seen_from(self, camera: str, point: Point) -> np.ndarray:
        """In the camera's frame [3], m: to its right, up, and towards whoever holds it."""
        data, camera_id = self._sim.data._data, self._sim.model.camera_name2id(camera)
        return data.cam_xmat[camera_id].reshape(3, 3).T @ (np.asarray(point) - data.cam_xpos[camera_id])

    def _make_context(self) -> None:
        warm_start = self._sim.data.qacc_warmstart.copy()
        context = _Context(self._sim, device_id=-1)
        self._sim.data.qacc_warmstart[:] = warm_start  # else looking, which solves once more, would change the motion
        context.vopt.geomgroup[:2] = (0, 1)  # what collides is not drawn, what is seen is
        context.vopt.sitegroup[:] = 0  # robosuite's coloured marks in the hand would pass for objects

    def _cull(self, camera: str) -> None:
        """Hide the meshes that lie wholly outside the camera's view: the same pixels in half the time.

        An arm's triangles (a Panda has 170,000) are nearly all that drawing costs, and a camera sees few of them.
        """
        data, model = self._sim.data._data, self._sim.model._model
        camera_id = self._sim.model.camera_name2id(camera)
        centres = (data.geom_xpos[self._meshes] - data.cam_xpos[camera_id]) @ data.cam_xmat[camera_id].reshape(3, 3)
        radius, half_angle = model.geom_rbound[self._meshes], np.radians(model.cam_fovy[camera_id]) / 2
        beside = np.abs(centres[:, :2]) * np.cos(half_angle) + centres[:, 2:] * np.sin(half_angle)  # [M, 2]
        outside = (beside > radius[:, None]).any(axis=1) | (centres[:, 2] > radius)
        model.geom_group[self._meshes] = np.where(outside, _HIDDEN, _DRAWN)
