"""What the robot is told: always possible, never done already, as the picture has it; and when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from aegis_sim import tasks
from aegis_sim.arm import FRONT
from aegis_sim.expert import Expert
from aegis_sim.goals import BESIDE, NEAR_BESIDE, NEAR_ON, WORDINGS, Goal, Kind, draw_episode
from aegis_sim.questions import VOCABULARY
from aegis_sim.scenery import AREA_X, AREA_Y, ODD_SHAPES, SPACING, TABLE_HEIGHT, Look, Primitive, half_height
from aegis_sim.splits import HELD_OUT_PAIRS, SEEN_WORDINGS, SPLITS, split_named
from aegis_sim.table_env import TableEnv

pytestmark = pytest.mark.sim

PLACING: tuple[Kind, ...] = ("place-on", "place-beside")


@pytest.fixture(scope="module")
def env() -> Iterator[TableEnv]:
    made = tasks.make("place-on", cameras=())
    yield made
    made.close()


def drawn(kind: Kind, split: str, count: int = 150) -> list[tuple[list[Primitive], Goal]]:
    rng = np.random.default_rng(0)
    return [draw_episode(kind, SPLITS[split], rng) for _ in range(count)]


@pytest.mark.parametrize(("kind", "split"), list(product(WORDINGS, SPLITS)))
def test_every_episode_keeps_what_its_split_promises(kind: Kind, split: str) -> None:
    wordings = set()
    for primitives, goal in drawn(kind, split):
        pairs = [(thing.colour, thing.shape) for thing in primitives]
        assert (pairs[goal.target] in HELD_OUT_PAIRS) == (split == "unseen-pairs")
        assert split == "unseen-pairs" or not HELD_OUT_PAIRS & set(pairs)
        odd = [thing.shape in ODD_SHAPES for thing in primitives]
        assert sum(odd) == (2 if split == "distractors" else 0) and odd == sorted(odd), "odd things come last"
        assert not odd[goal.target] and goal.target != goal.reference
        wordings.add(goal.wording)
        assert set(goal.instruction(primitives).split()) <= set(VOCABULARY)
    known, unknown = set(WORDINGS[kind][:SEEN_WORDINGS]), set(WORDINGS[kind][SEEN_WORDINGS:])
    assert unknown and wordings == (unknown if split == "unseen-wordings" else known)


@pytest.mark.parametrize(("kind", "split"), list(product(PLACING, ("seen", "moved-camera"))))
def test_what_is_to_be_placed_has_room_and_is_not_there_yet(kind: Kind, split: str) -> None:
    look = SPLITS[split].look
    for primitives, goal in drawn(kind, split):
        assert goal.reference is not None
        at = [np.array([thing.x, thing.y, TABLE_HEIGHT + half_height(thing.shape)]) for thing in primitives]
        place = goal.place(primitives, at[goal.reference], look)
        assert np.linalg.norm(place - at[goal.target]) > max(NEAR_ON, NEAR_BESIDE)
        if kind == "place-on":
            assert primitives[goal.reference].shape != "ball"
            continue
        assert AREA_X[0] <= place[0] <= AREA_X[1] and AREA_Y[0] <= place[1] <= AREA_Y[1]
        for index, thing in enumerate(at):
            if index != goal.target:
                assert np.linalg.norm((place - thing)[:2]) >= min(0.9 * SPACING, BESIDE) - 1e-9


@pytest.mark.parametrize("split", ["seen", "moved-camera"])
def test_left_is_the_pictures_left(split: str) -> None:
    env = tasks.make("place-beside", split, cameras=())
    for seed in range(8):
        env.reset(seed=seed)
        assert env.goal.reference is not None
        there, reference = (env.table.project(p, FRONT) for p in (env.place(), env.table.position(env.goal.reference)))
        side = "left" if there[0] < reference[0] else "right"
        assert f" {side} of " in env.instruction
        assert abs(there[1] - reference[1]) < 0.06, "beside it, not before or behind it"
    env.close()


def test_placed_means_there_at_rest_and_let_go(env: TableEnv) -> None:
    env.reset(seed=0)
    env.table.dress([Primitive("green", "cube", -0.05, 0.1), Primitive("blue", "cube", 0.05, -0.1)])
    env.goal = Goal("place-on", 0, "place the {a} on the {b}", reference=1)
    env.begin()
    assert not env.placed(), "it stands beside"
    place = env.place()
    still = np.zeros(7)
    for offset, outcome in (((0, 0, 0), True), ((0.03, 0, 0), False), ((0, 0, 0.02), False)):
        env.table.place(0, place + offset, 0.0)
        env.table.sim.forward()
        assert env.placed() == outcome, offset
    env.table.place(0, place, 0.0)
    env.table.set_arm(place, opening=0.04)
    assert env.table.touched(0) and not env.placed(), "the fingers are still on it"
    env.table.set_arm((-0.08, 0.0, 1.0))
    env.table.sim.data.set_joint_qvel("object0_joint0", [0.1, 0, 0, 0, 0, 0])
    assert not env.placed(), "it still moves"
    env.table.place(0, place, 0.0)
    env.table.sim.data.set_joint_qvel("object1_joint0", [0.1, 0, 0, 0, 0, 0])
    assert not env.placed(), "what it was placed on still moves"
    env.table.place(1, env.table.position(1), 0.0)
    *_, terminated, truncated, info = env.step(still)
    assert terminated and not truncated and info["success"] and "failure" not in info


def test_who_carries_the_reference_beside_the_target_has_placed_nothing() -> None:
    env = tasks.make("place-beside", cameras=())
    env.reset(seed=0)
    env.table.dress([Primitive("green", "cube", -0.05, 0.1), Primitive("blue", "cube", 0.05, -0.1)])
    env.goal = Goal("place-beside", 0, "put the {a} {side} of the {b}", reference=1, side="right")
    env.begin()
    beside = env.table.position(1) + env.table.position(0) - env.place()
    env.table.set_arm(beside + (0, 0, 0.12), opening=0.04)
    env.table.place(1, beside + (0, 0, 0.12), 0.0)
    env.table.sim.forward()
    assert np.linalg.norm((env.place() - env.table.position(0))[:2]) < 1e-3
    assert env.table.touched(1) and not env.placed(), "the reference is in the hand"
    env.table.set_arm((-0.08, 0.0, 1.2))
    env.table.place(1, beside, 0.0)
    env.table.sim.forward()
    assert env.placed()
    env.close()


@pytest.mark.parametrize(
    ("where", "failure"),
    [("nowhere", "nothing lifted"), ("other", "lifted wrong object"), ("table", "put in the wrong place")],
)
def test_failures_are_told_apart(where: str, failure: str) -> None:
    env = tasks.make("place-on", cameras=(), max_steps=2)
    env.reset(seed=0)
    env.table.dress([Primitive("green", "cube", -0.05, 0.1), Primitive("blue", "cube", 0.05, -0.1)])
    env.goal = Goal("place-on", 0, "place the {a} on the {b}", reference=1)
    env.begin()
    env.table.set_arm(env.table.position(0) + (0, 0, 0.15))
    moved = {"nowhere": None, "other": 1, "table": 0}[where]
    if moved is not None:
        env.table.place(moved, (0.1, 0.1, TABLE_HEIGHT + 0.12), 0.0)
    env.step(np.zeros(7))
    *_, truncated, info = env.step(np.zeros(7))
    assert truncated and info["failure"] == failure
    env.close()


@pytest.mark.parametrize("kind", PLACING)
def test_the_expert_places_things(kind: Kind) -> None:
    env = tasks.make(kind, cameras=())
    expert, outcomes = Expert(env), []
    for seed in range(2000, 2006):
        env.reset(seed=seed)
        expert.reset()
        ended, info = False, {}
        while not ended:
            action = expert.act()
            assert env.action_space.contains(action)
            *_, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
        outcomes.append(info["success"])
    assert sum(outcomes) >= 5
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "split"), list(product(WORDINGS, SPLITS)))
def test_the_expert_succeeds_on_ninety_five_of_a_hundred_seeds(kind: Kind, split: str) -> None:
    env = tasks.make(kind, split, cameras=())
    expert, outcomes = Expert(env), []
    for seed in range(100):
        env.reset(seed=seed)
        expert.reset()
        while True:
            *_, terminated, truncated, info = env.step(expert.act())
            if terminated or truncated:
                break
        outcomes.append(info["success"])
    assert sum(outcomes) >= 95
    env.close()


def test_distractors_are_asked_nothing_about() -> None:
    env = tasks.make("pick", "distractors")
    env.reset(seed=0)
    scene = env.scene()
    assert scene.strangers and not scene.clear and len(scene.objects) == len(env.table.primitives) - 2
    texts = " ".join(question.text for question in env.questions(np.random.default_rng(0)))
    assert "how many" not in texts and set(texts.split()) <= set(VOCABULARY)
    env.close()


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of seen, unseen-pairs"):
        split_named("hard")
    assert Look() == SPLITS["seen"].look
