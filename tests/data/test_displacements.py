"""Displacements are told from set points, and from displacements that were differenced once too often."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_policy import Feature
from aegis_policy.data.displacements import displaced_by, doubt, is_displacement
from aegis_policy.data.source import Episode, Layout

AXES = ("x", "y", "z")
LAYOUT = Layout(
    {"front": (8, 8)},
    tuple(Feature(axis, "m") for axis in AXES),
    (*(Feature(f"d{axis}", "m") for axis in AXES), Feature("gripper", "1")),
    10.0,
)


def reach(seed: int, gain: float = 0.7, lag: int = 1, noise: float = 0.0) -> Episode:
    """A hand that is told, at most 5 cm at a time, to go to a place, and follows with some gain and lag."""
    rng = np.random.default_rng(seed)
    place, goal = rng.normal(size=3) * 0.2, rng.normal(size=3) * 0.2
    commands, states = [np.zeros(3)] * lag, []
    for _ in range(20):
        states.append(place)
        commands.append(np.clip(0.5 * (goal - place), -0.05, 0.05))
        place = place + gain * commands[-1 - lag] + rng.normal(size=3) * noise
    return episode(np.array(commands[lag:]), np.array(states))


def episode(moves: np.ndarray, states: np.ndarray) -> Episode:
    actions = np.concatenate([moves, np.ones((len(moves), 1))], axis=1)
    return Episode("demo", states.astype(np.float32), actions.astype(np.float32), "reach")


def remade(episodes, change):
    return [episode(change(e.actions[:, :3], e.state), e.state) for e in episodes]


DIFFERENCED = {
    "first kept": lambda moves, _: np.diff(moves, axis=0, prepend=0),
    "first lost": lambda moves, _: np.diff(moves, axis=0, prepend=moves[:1]),
    "ahead": lambda moves, _: np.diff(moves, axis=0, append=moves[-1:]),
}
SET_POINTS = {
    "where to be": lambda moves, state: state + moves,
    "the next state": lambda _, state: np.concatenate([state[1:], state[-1:]]),
}


def test_names_and_units_say_what_a_displacement_is():
    x, dx, joint = Feature("x", "m"), Feature("dx", "m"), Feature("dof_1", "rad")
    assert is_displacement(dx, [x]) and is_displacement(Feature("drz", "rad"), [x])
    assert not is_displacement(Feature("gripper", "1"), [x]) and not is_displacement(Feature("joint_1", "rad"), [x])
    assert not is_displacement(joint, [joint]) and not is_displacement(joint, [x])
    for name in ("desired_x", "depth", "door", "x"):
        assert not is_displacement(Feature(name, "m"), [x])
    for name in ("dx", "d_x", "delta_x", "deltax"):
        assert is_displacement(Feature(name, "m"), [x]) and displaced_by(Feature(name, "m")) == x
    assert is_displacement(Feature("dq1", "rad"), [Feature("q1", "rad")]) and not is_displacement(dx, [dx])
    assert is_displacement(dx, [x, dx])  # a state that tells the last action too


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    gain=st.floats(0.3, 1.0),
    lag=st.integers(0, 2),
    noise=st.floats(0, 0.005),
    kind=st.sampled_from([None, *DIFFERENCED, *SET_POINTS]),
)
def test_only_what_is_no_displacement_is_doubted(seed, gain, lag, noise, kind):
    episodes = [reach(seed + 31 * i, gain, lag, noise) for i in range(6)]
    if kind is None:
        assert doubt(LAYOUT, episodes) is None
    elif kind in DIFFERENCED:
        assert "differenced again" in str(doubt(LAYOUT, remade(episodes, DIFFERENCED[kind])))
    else:
        assert "set points" in str(doubt(LAYOUT, remade(episodes, SET_POINTS[kind])))


@pytest.mark.parametrize("change", DIFFERENCED.values(), ids=DIFFERENCED)
def test_too_few_steps_or_no_state_to_compare_with_prove_nothing(change):
    doubted = remade([reach(i) for i in range(6)], change)
    assert doubt(LAYOUT, doubted) is not None
    assert doubt(LAYOUT, doubted[:2]) is None
    joints = Layout(LAYOUT.cameras, tuple(Feature(f"joint_{i}", "rad") for i in range(3)), LAYOUT.actions, 10.0)
    assert doubt(joints, doubted) is None


def test_a_hand_that_stands_still_proves_nothing():
    still = [episode(np.zeros((20, 3)), np.zeros((20, 3))) for _ in range(6)]
    assert doubt(LAYOUT, still) is None
