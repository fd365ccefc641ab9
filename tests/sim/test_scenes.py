"""Drawn and rendered scenes: is what the truth says what the pixels show? And sets that depend on the seed alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aegis_sim import question_sets
from aegis_sim.arm import FRONT, HOME_ROTATION
from aegis_sim.drawn import draw
from aegis_sim.question_sets import record_questions
from aegis_sim.questions import COLOURS, FAMILIES, GRIPPER_LABEL, SHAPES, View, label, questions
from aegis_sim.scenery import COLOURS as TABLE_COLOURS
from aegis_sim.scenery import SHAPES as TABLE_SHAPES
from aegis_sim.scenery import TABLE_HEIGHT, Primitive
from aegis_sim.scenes import SceneRenderer

HUES = {"red": 0, "orange": 27, "yellow": 52, "green": 130, "blue": 230, "purple": 285}  # degrees


@pytest.fixture(scope="module")
def renderer() -> SceneRenderer:
    return SceneRenderer(64)


@pytest.fixture(scope="module")
def rendered(renderer: SceneRenderer) -> list[dict[str, View]]:
    return [renderer.sample(np.random.default_rng(seed)) for seed in range(60)]


def centroid(labels: np.ndarray, value: int) -> tuple[float, float]:
    rows, columns = np.nonzero(labels == value)
    return (columns.mean() + 0.5) / labels.shape[1], (rows.mean() + 0.5) / labels.shape[0]


def hue_error(view: View, colour: str, value: int) -> float:
    """How far the median hue of an object's pixels is from its colour's, in degrees."""
    pixels = view.image[view.labels == value].astype(float)
    red, green, blue = np.median(pixels, axis=0)
    hue = np.degrees(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue))
    return abs((hue - HUES[colour] + 180) % 360 - 180)


def check_view(view: View, size: int) -> None:
    """The truth against the pixels."""
    assert view.image.shape == (size, size, 3)
    assert view.image.dtype == view.labels.dtype == np.uint8
    assert view.labels.shape == (size, size)
    expected = {label(thing.colour, thing.shape) for thing in view.scene.objects if thing.visible}
    assert set(np.unique(view.labels)) - {0, GRIPPER_LABEL} == expected
    for thing in view.scene.objects:
        if thing.seen:
            value = label(thing.colour, thing.shape)
            assert np.hypot(*np.subtract(centroid(view.labels, value), (thing.u, thing.v))) < 0.06
            assert hue_error(view, thing.colour, value) < 25, thing
            assert thing.visible == pytest.approx((view.labels == value).mean())


@pytest.mark.parametrize("size", [32, 64, 96])
def test_drawings_show_what_they_say(size: int) -> None:
    for seed in range(60):
        view = draw(np.random.default_rng(seed), size)
        check_view(view, size)
        assert all(thing.seen for thing in view.scene.objects)


@pytest.mark.sim
def test_renderings_show_what_they_say(rendered: list[dict[str, View]]) -> None:
    for views in rendered:
        check_view(views["front"], 64)
        assert all(thing.seen for thing in views["front"].scene.objects)


@pytest.mark.sim
def test_scenes_are_varied(rendered: list[dict[str, View]]) -> None:
    scenes = [views["front"].scene for views in rendered]
    assert set(Counter(len(scene.objects) for scene in scenes)) == {1, 2, 3, 4}
    assert 0.1 < np.mean([scene.held is not None for scene in scenes]) < 0.45
    backgrounds = np.array([np.median(views["front"].image, axis=(0, 1)) for views in rendered])
    assert len({tuple(row) for row in backgrounds}) > 20
    asked = [q for scene in scenes for seed in range(5) for q in questions(scene, np.random.default_rng(seed))]
    assert {question.family for question in asked} == {*FAMILIES, "point"}


@pytest.mark.sim
def test_wrist_views_are_asked_about_only_where_they_are_clear(rendered: list[dict[str, View]]) -> None:
    scenes = [views["wrist"].scene for views in rendered]
    assert any(scene is None for scene in scenes)
    clear = [views["wrist"] for views in rendered if views["wrist"].scene]
    assert len(clear) > len(rendered) / 2
    for view in clear:
        asked = questions(view.scene, np.random.default_rng(0))
        assert not any(question.family == "where" for question in asked)


@pytest.mark.sim
def test_held_objects_are_at_the_gripper(renderer: SceneRenderer) -> None:
    table = renderer._table
    held = 0
    for seed in range(30):
        scene = renderer.sample(np.random.default_rng(seed))["front"].scene
        if scene.held is not None:
            held += 1
            assert np.linalg.norm(table.position(scene.held) - table.gripper_pose()[0]) < 0.02
            assert table.position(scene.held)[2] > TABLE_HEIGHT + 0.035, "lifted clear of the table"
    assert held >= 3


@pytest.mark.sim
def test_gripper_has_a_label_where_it_is(renderer: SceneRenderer) -> None:
    seen = 0
    for seed in range(20):
        views = renderer.sample(np.random.default_rng(seed))
        assert (views["wrist"].labels == GRIPPER_LABEL).any(), "the wrist camera always sees its own fingers"
        hand = views["front"].labels == GRIPPER_LABEL
        u, v = renderer._table.project(renderer._table.gripper_pose()[0], FRONT)
        if 0.1 < u < 0.9 and 0.1 < v < 0.9:  # between the finger tips
            seen += 1
            rows, columns = np.nonzero(hand)
            assert np.hypot(rows - v * len(hand), columns - u * len(hand)).min() < 0.1 * len(hand)
    assert seen >= 5


@pytest.mark.sim
def test_left_is_left_in_the_picture(renderer: SceneRenderer) -> None:
    """An object at the robot's right hand (-y) is at the left of the image of the camera that faces the robot."""
    table = renderer._table
    table.dress([Primitive("red", "cube", 0.0, -0.1), Primitive("blue", "ball", 0.0, 0.1)])
    table.set_arm((-0.1, 0.0, 1.05), Rotation.identity() * HOME_ROTATION)
    image = table.render_camera_image(FRONT, 64).astype(int)
    red = image[..., 0] - image[..., 1:].max(axis=-1) > 60
    blue = image[..., 2] - image[..., :2].max(axis=-1) > 60
    assert np.nonzero(red)[1].mean() < 32 < np.nonzero(blue)[1].mean()
    owners = table.segment(FRONT, 64)
    assert np.nonzero(owners == 0)[1].mean() < 32 < np.nonzero(owners == 1)[1].mean()
    assert table.project(table.position(0), FRONT)[0] < 0.5 < table.project(table.position(1), FRONT)[0]


@pytest.mark.sim
def test_a_scene_does_not_depend_on_those_before_it(renderer: SceneRenderer) -> None:
    first = renderer.sample(np.random.default_rng(11))
    for seed in (3, 4):
        renderer.sample(np.random.default_rng(seed))
    again = renderer.sample(np.random.default_rng(11))
    for camera, view in first.items():
        np.testing.assert_array_equal(view.image, again[camera].image)
        np.testing.assert_array_equal(view.labels, again[camera].labels)
        assert view.scene == again[camera].scene


@pytest.mark.sim
def test_the_table_has_the_colours_and_shapes_that_are_asked_about() -> None:
    assert tuple(TABLE_COLOURS) == COLOURS
    assert tuple(TABLE_SHAPES) == SHAPES


def contents(path: Path) -> dict[str, list]:
    with h5py.File(path) as file:
        found: dict[str, list] = {}
        file.visititems(
            lambda name, item: found.update({name: item[:].tolist()}) if isinstance(item, h5py.Dataset) else None
        )
        return found


def test_a_set_is_a_function_of_its_seed_and_split(tmp_path: Path) -> None:
    def record(name: str, seed: int = 5, split: str = "record", workers: int = 1) -> dict[str, list]:
        return contents(record_questions("drawn", 40, tmp_path / name, seed, workers, 32, split))

    first = record("a.hdf5")
    assert first == record("b.hdf5", workers=2)
    for other in (record("c.hdf5", seed=6), record("d.hdf5", split="eval")):
        assert not {json.dumps(image) for image in first["images/front"]} & {
            json.dumps(image) for image in other["images/front"]
        }


@pytest.mark.sim
def test_a_rendered_set_holds_what_was_promised(tmp_path: Path) -> None:
    path = record_questions("questions", 5, tmp_path / "sets" / "q.hdf5", seed=0, size=48)
    with h5py.File(path) as file:
        for camera in ("front", "wrist"):
            assert file[f"images/{camera}"].shape == (5, 48, 48, 3)
            assert file[f"labels/{camera}"].shape == (5, 48, 48)
        rows = [json.loads(row) for row in file["questions"].asstr()[:]]
        assert all(len(item) == 3 for row in rows for item in row)
        assert len(file["wrist_questions"]) == 5
        assert list(file.attrs["colours"]) == list(COLOURS)
        assert file.attrs["source"] == "robosuite"
        assert set(json.loads(file.attrs["versions"])) == {"robosuite", "mujoco", "numpy"}
    assert [item.name for item in path.parent.iterdir()] == ["q.hdf5"], "no half-written file stays"


def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the renderer died")

    monkeypatch.setattr(question_sets, "_append", broken)
    with pytest.raises(RuntimeError, match="the renderer died"):
        record_questions("drawn", 5, tmp_path / "q.hdf5", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_unknown_tasks_and_empty_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        record_questions("painted", 5, tmp_path / "q.hdf5", seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        record_questions("drawn", 0, tmp_path / "q.hdf5", seed=0)
