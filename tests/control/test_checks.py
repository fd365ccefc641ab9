"""A chunk is followed as a whole or not at all, and a refusal says what, where, how much and against which limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aegis_policy import ActionChunk
from tests.control.robot import HOME, LIMITS, chunk, controller, steady

STILL = [0.2, 0.5, 0.0, 0.0, 0.0]


def offer(what: ActionChunk, now: float = 1.0, limits=LIMITS):
    """To a robot that stands at HOME since before 1 s."""
    control = controller(limits=limits)
    control.start(0.9)
    control.tick(0.95, HOME, 0.95)
    assert control.offer(steady(stamp=0.96), 0.97) is None
    control.tick(1.0, HOME, 1.0)
    return control.offer(what, now)


def changed(row: int, column: int, value: float) -> ActionChunk:
    actions = np.array([STILL] * 8, np.float32)
    actions[row, column] = value
    return ActionChunk(actions, 1.0)


def test_a_good_one_is_taken():
    assert offer(chunk(*[STILL] * 8, stamp=1.0)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(value):
    rejection = offer(changed(3, 2, value))
    assert rejection.check == "finite" and rejection.reason == f"action 3 of 'dx' is {np.float32(value)}"


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        (np.zeros((0, 5), np.float32), "[0, 5]"),
        (np.zeros((8, 4), np.float32), "[8, 4]"),
        (np.zeros(5, np.float32), "[5]"),
        (np.zeros((1, 8, 5), np.float32), "[1, 8, 5]"),
        (np.full((8, 5), "a"), "expected real numbers"),
        (np.zeros((8, 5), complex), "complex128"),
    ],
)
def test_shapes_and_types(actions, said):
    rejection = offer(ActionChunk(actions, 1.0))
    assert rejection.check == "shape" and said in rejection.reason


@pytest.mark.parametrize(
    ("stamp", "now", "said"),
    [
        (1.5, 1.0, "stamped 0.5 s in the future, limit 0.01 s"),
        (np.nan, 1.0, "nan is not a time"),
        (1.0, np.nan, "not a time"),
        (np.inf, 1.0, "in the future"),
        (1.0, 3.0, "stale, 2 s old, limit 1.5 s"),
        (0.5, 1.0, "0.4 s before the start"),
        (0.95, 1.0, "0.01 s before the one that is followed"),
        (1.0, 1.9, "its last action was due 0.1 s ago"),
    ],
)
def test_times(stamp, now, said):
    rejection = offer(chunk(*[STILL] * 8, stamp=stamp), now)
    assert rejection.check == "stamp" and said in rejection.reason


def test_a_jump_off_the_present_place():
    rejection = offer(chunk(*[[0.8, *STILL[1:]]] * 8, stamp=1.0))
    assert rejection.check == "jump" and rejection.reason == "action 0 of 'q1' is 0.6 rad away, limit 0.5 rad"
    late = offer(chunk(*[[0.8, *STILL[1:]]] * 8, stamp=1.0), 1.2)  # it would be there by now
    assert late.check == "jump" and "0.6 rad off the present place" in late.reason


def test_a_jump_inside():
    rejection = offer(changed(5, 1, 1.3))
    assert rejection.check == "jump" and rejection.reason == "action 5 of 'q2' is 0.8 rad away, limit 0.5 rad"
    assert offer(changed(5, 2, 0.2)).reason == "action 5 of 'dx' is 0.2 m away, limit 0.1 m"


def test_jerk():
    shaky = (replace(LIMITS[0], chunk_jerk=100.0), *LIMITS[1:])
    rejection = offer(changed(4, 0, 0.3), limits=shaky)  # third differences of 0.1 * (1, -3, 3, -1) at 10 Hz
    assert rejection.check == "jerk"
    assert rejection.reason == "actions 2 to 5 of 'q1' have a jerk of 300 rad/s³, limit 100 rad/s³"
    assert offer(changed(4, 0, 0.3), limits=(replace(LIMITS[0], chunk_jerk=301.0), *LIMITS[1:])) is None


def test_a_grippers_command_is_no_jump():
    assert offer(changed(4, 4, 40.0)) is None


def test_a_refused_chunk_changes_nothing():
    control = controller()
    control.start(0.0)
    control.tick(0.02, HOME, 0.02)
    assert control.offer(changed(3, 0, np.nan), 0.02) is not None
    assert control.tick(0.04, HOME, 0.04) is None and control.wants_chunk(0.04)
