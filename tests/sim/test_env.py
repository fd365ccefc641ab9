"""The environment: what it promises gymnasium, what its numbers mean, and that its pictures show what is there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from aegis_sim import questions, scenery, tasks
from aegis_sim.arm import FRONT, WRIST
from aegis_sim.env import ACTION_FEATURES, CAMERAS, STATE_FEATURES
from aegis_sim.goals import LIFT_HEIGHT, Goal
from aegis_sim.scenery import TABLE_HEIGHT, CameraView, Look, Primitive
from aegis_sim.splits import SPLITS
from aegis_sim.table_env import ENVIRONMENTS, TableEnv
from aegis_sim.tabletop import HOME_POSITION

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def env() -> Iterator[TableEnv]:
    made = tasks.make("pick")
    yield made
    made.close()


@pytest.fixture(scope="module")
def blind() -> Iterator[TableEnv]:
    """Without cameras: five times as fast."""
    made = tasks.make("pick", cameras=())
    yield made
    made.close()


def play(env: TableEnv, seed: int, steps: int) -> list[dict]:
    actions = np.random.default_rng(0).uniform(env.action_space.low, env.action_space.high, (steps, 7))
    return [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]


def same(one: list[dict], other: list[dict]) -> bool:
    return all(
        np.array_equal(a["state"], b["state"]) and all(np.array_equal(a["images"][k], b["images"][k]) for k in CAMERAS)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("name", [ENVIRONMENTS[task] for task in tasks.TABLE_TASKS])
def test_gymnasium_accepts_it(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(name, render_mode="rgb_array").unwrapped)


def test_a_vector_of_them_goes_on_when_one_lifts_something() -> None:
    envs = gym.make_vec(ENVIRONMENTS["pick"], num_envs=2, cameras=("wrist",), vectorization_mode="sync")
    envs.reset(seed=2)
    first = envs.envs[0].unwrapped
    other = 1 - first.target if len(first.table.primitives) > 1 else first.target
    x, y, z = first.table.position(other)
    first.table.place(other, (x, y, z + LIFT_HEIGHT + 0.08), 0.0)
    *_, info = envs.step(np.zeros((2, 7)))
    assert info["lifted"][0] == other and info["_lifted"].tolist() == [True, False]
    envs.close()


def test_unknown_cameras_and_ways_to_look_are_refused() -> None:
    with pytest.raises(ValueError, match="cameras: no 'side' here; there are front, wrist"):
        TableEnv(cameras=("side",))
    with pytest.raises(ValueError, match="render_mode: 'human' is not one of"):
        TableEnv(render_mode="human")


def test_a_seed_is_one_episode_in_any_instance_and_after_any_other(env: TableEnv) -> None:
    first = play(env, seed=5, steps=4)
    other = tasks.make("pick")
    play(other, seed=6, steps=2)
    assert same(play(other, seed=5, steps=4), first)
    assert same(play(env, seed=5, steps=4), first), "the other instance left its mark on this one"
    other.close()
    assert same(play(env, seed=5, steps=4), first), "closing the other instance broke this one"
    assert not same(play(env, seed=7, steps=4), first)


def test_left_is_left_and_far_is_up(env: TableEnv) -> None:
    env.reset(seed=0)
    left, right = Primitive("red", "cube", 0.0, -0.13), Primitive("blue", "cube", 0.0, 0.13)
    far, near = Primitive("green", "cube", -0.10, 0.0), Primitive("yellow", "cube", 0.10, 0.0)
    env.table.dress([left, right, far, near])
    red, green, blue = np.moveaxis(env.observe()["images"]["front"].astype(int), -1, 0)

    def centre(mask: np.ndarray) -> tuple[float, float]:
        rows, columns = np.nonzero(mask)
        return columns.mean(), rows.mean()

    middle = tasks.IMAGE_SIZE / 2
    assert centre((red > 2 * green) & (red > 2 * blue))[0] < middle - 10
    assert centre((blue > 2 * green) & (blue > 2 * red))[0] > middle + 10
    assert (
        centre((green > 2 * red) & (green > 2 * blue))[1]
        < centre((red > 2 * blue) & (green > 2 * blue) & (red > 100))[1]
    )


@pytest.mark.parametrize("camera", [FRONT, WRIST])
def test_projection_agrees_with_what_is_drawn(env: TableEnv, camera: str) -> None:
    env.reset(seed=0)
    env.table.dress([Primitive("red", "ball", -0.05, 0.06), Primitive("blue", "ball", 0.05, -0.06)])
    env.table.set_arm((0.0, 0.0, 1.05))
    owners = env.table.segment(camera, 256)
    for index in range(2):
        rows, columns = np.nonzero(owners == index)
        drawn = (columns.mean() + 0.5) / 256, (rows.mean() + 0.5) / 256
        assert env.table.project(env.table.position(index), camera) == pytest.approx(drawn, abs=0.01)


@pytest.mark.parametrize("split", SPLITS)
def test_every_place_an_object_can_stand_is_in_view(split: str) -> None:
    env = tasks.make("pick", split, cameras=())
    env.reset(seed=0)
    for x in scenery.AREA_X:
        for y in scenery.AREA_Y:
            u, v = env.table.project((x, y, TABLE_HEIGHT + 0.02), FRONT)
            assert questions.EDGE < u < 1 - questions.EDGE and questions.EDGE < v < 1 - questions.EDGE
    env.close()


def test_scene_tells_what_the_camera_shows(env: TableEnv) -> None:
    env.reset(seed=0)
    env.table.dress([Primitive("red", "cube", 0.0, -0.12), Primitive("green", "ball", 0.0, 0.12)])
    env.table.set_arm(HOME_POSITION)
    scene = env.scene()
    assert [thing.name for thing in scene.objects] == ["red cube", "green ball"]
    assert scene.objects[0].u < 0.4 and scene.objects[1].u > 0.6 and scene.held is None
    assert all(thing.seen for thing in scene.objects)
    assert env.table.grasp(1) and env.scene().held == 1


def test_what_is_held_is_asked_only_when_the_picture_shows_it(env: TableEnv) -> None:
    env.reset(seed=0)
    env.table.dress([Primitive("red", "cube", 0.0, -0.12), Primitive("green", "ball", 0.0, 0.12)])
    env.begin()
    env.table.set_arm((0.0, 0.0, TABLE_HEIGHT + 0.2))
    assert env.scene().gripper and env.scene().held is None  # high above the table, and empty
    env.table.set_arm(env.table.position(1))
    assert not env.scene().gripper  # the fingers are around a ball that stands where it stood
    env.table.set_arm((0.0, 0.0, TABLE_HEIGHT + 0.2))
    assert env.table.grasp(1)
    assert env.scene().gripper and env.scene().held == 1  # now it hangs from them


def test_actions_move_the_hand_as_the_state_says(blind: TableEnv) -> None:
    for axis in range(6):
        before = blind.reset(seed=1)[0]["state"]
        action = np.zeros(7)
        action[axis] = blind.action_space.high[axis] * (0.5 if axis < 3 else 0.2)
        for _ in range(3):
            after = blind.step(action)[0]["state"]
        moved = after - before
        others = np.delete(moved[:3] if axis < 3 else moved[3:6], axis % 3)
        asked = 3 * action[axis]
        assert 0.4 * asked < moved[axis] < 1.1 * asked, STATE_FEATURES[axis].name
        assert np.abs(others).max() < 0.25 * asked
    before = blind.reset(seed=1)[0]["state"][6]
    for _ in range(5):
        closed = blind.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))[0]["state"][6]
    assert before == pytest.approx(0.08, abs=1e-3) and closed < 0.02
    assert len(ACTION_FEATURES) == 7 and [feature.unit for feature in ACTION_FEATURES][:3] == ["m"] * 3


def test_lifting_the_target_ends_the_episode(blind: TableEnv) -> None:
    blind.reset(seed=2)
    x, y, z = blind.table.position(blind.target)
    blind.table.place(blind.target, (x, y, z + LIFT_HEIGHT + 0.08), 0.0)  # it is still above the mark a step later
    *_, terminated, truncated, info = blind.step(np.zeros(7))
    assert terminated and not truncated and info["success"] and info["right_object"]
    assert info["lifted"] == blind.target == info["target"]


def test_lifting_another_object_is_noted_and_forgives_nothing() -> None:
    env = TableEnv(cameras=(), max_steps=2)
    seed = next(s for s in range(20) if env.reset(seed=s) and len(env.table.primitives) > 1)
    env.reset(seed=seed)
    other = (env.target + 1) % len(env.table.primitives)
    x, y, z = env.table.position(other)
    env.table.place(other, (x, y, z + LIFT_HEIGHT + 0.08), 0.0)
    *_, terminated, truncated, info = env.step(np.zeros(7))
    assert not terminated and not truncated and info["lifted"] == other and "right_object" not in info
    *_, terminated, truncated, info = env.step(np.zeros(7))
    assert truncated and not terminated and not info["success"] and info["right_object"] is False
    env.close()


def test_the_hand_closing_beside_an_object_chooses_it() -> None:
    env = TableEnv(cameras=(), max_steps=1)
    for chosen in (0, 1):
        env.reset(seed=0)
        env.table.dress([Primitive("red", "cube", 0.0, -0.1), Primitive("blue", "cube", 0.0, 0.1)])
        env.goal = Goal("pick", 0, "pick up the {a}")
        env.begin()
        env.table.set_arm(env.table.position(chosen) + (0, 0, 0.08))
        info = env.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))[-1]
        assert info["right_object"] == (chosen == 0)
    env.close()


@pytest.mark.parametrize("action", [np.full(7, np.nan), np.zeros(6)])
def test_nonsense_actions_are_refused(blind: TableEnv, action: np.ndarray) -> None:
    blind.reset(seed=0)
    with pytest.raises(ValueError, match="expected 7 finite numbers"):
        blind.step(action)


def test_a_look_changes_the_picture_and_can_be_undone(env: TableEnv) -> None:
    nominal = env.reset(seed=0)[0]["images"]["front"]
    looks = [
        Look(front=CameraView(position=(0.4, 0.3, 1.2))),
        Look(table_texture="clay"),
        Look(table_colour=(0.5, 0.6, 1.0)),
        Look(wall_colour=(1.0, 0.3, 0.3)),
        Look(floor_colour=(0.2, 1.0, 0.2), front=CameraView(fovy=70.0)),
        Look(light_position=(-1.0, 1.0, 1.2)),
        Look(light_diffuse=(0.4, 0.4, 0.3)),
    ]
    for look in looks:
        env.table.set_look(look)
        assert not np.array_equal(env.observe()["images"]["front"], nominal), look
        env.table.set_look(Look())
        assert np.array_equal(env.observe()["images"]["front"], nominal), look


def test_wrong_scenes_are_refused(blind: TableEnv) -> None:
    with pytest.raises(ValueError, match="1 to 4"):
        blind.table.dress([])
    with pytest.raises(ValueError, match="choose from"):
        blind.table.set_look(Look(table_texture="lava"))


def test_scenes_are_spread_and_speak_the_questions_language() -> None:
    rng = np.random.default_rng(0)
    counts = set()
    for _ in range(200):
        items = scenery.random_primitives(rng)
        counts.add(len(items))
        places = np.array([(item.x, item.y) for item in items])
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(len(items))
        assert gaps.min() >= scenery.SPACING
    assert counts == {1, 2, 3, 4}
    assert tuple(scenery.COLOURS) == questions.COLOURS and tuple(scenery.SHAPES) == questions.SHAPES


def test_recorded_and_evaluated_seeds_never_meet() -> None:
    recorded = {tasks.episode_seed("record", seed, index) for seed in range(20) for index in range(200)}
    evaluated = {tasks.episode_seed("eval", seed, index) for seed in range(20) for index in range(200)}
    assert len(recorded) == len(evaluated) == 4000 and not recorded & evaluated
    assert all(seed % 2 == 0 for seed in recorded) and all(seed % 2 == 1 for seed in evaluated)
    with pytest.raises(ValueError, match="record, eval"):
        tasks.episode_seed("test", 0, 0)
