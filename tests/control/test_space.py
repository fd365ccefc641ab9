"""What actions mean by their names and units, and limits from plain numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aegis_policy import Feature
from aegis_policy.control import ActionSpace, AxisLimits, Controller, GripperLimits, Synchronous, Timeouts, read_limits
from aegis_policy.control.space import Kind
from aegis_policy.control.watchdog import Watchdog
from tests.control.robot import HOME, INFO, LIMITS, TIMEOUTS

SPACE = ActionSpace(INFO)
AXIS = {"velocity": 1, "acceleration": 4.0, "jerk": 40.0, "jump": 0.2, "chunk_jerk": float("inf")}
PLACED = AXIS | {"lower": -1.0, "upper": 1.0, "following": 0.1}
DATA = {"q1": PLACED, "q2": PLACED, "dx": PLACED, "drz": AXIS, "gripper": {"lower": -1, "upper": 1}}


def test_kinds_and_where_they_are_measured():
    assert [dimension.kind for dimension in SPACE.dimensions] == [
        *[Kind.POSITION] * 2,
        *[Kind.DISPLACEMENT] * 2,
        Kind.GRIPPER,
    ]
    assert [dimension.measured_by for dimension in SPACE.dimensions] == [0, 1, 2, None, None]
    assert SPACE.coordinates(HOME).tolist() == [0.2, 0.5, 0.5, 0.0, 0.0]


def test_displacements_add_up_and_positions_do_not():
    points = SPACE.waypoints(np.array([[0.3, 0.5, 0.01, 0.1, 1], [0.4, 0.5, 0.02, 0.1, -1]]), SPACE.coordinates(HOME))
    assert points[:, 0] == pytest.approx([0.2, 0.3, 0.4])
    assert points[:, 2] == pytest.approx([0.5, 0.51, 0.53])
    assert points[:, 3] == pytest.approx([0.0, 0.1, 0.2])
    assert points[1:, 4].tolist() == [1, -1]


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (Feature("action_0", "1"), "action 'action_0' has the unit '1'"),
        (Feature("q9", "rad"), "action 'q9': the state lacks 'q9' in rad"),
        (Feature("dy", "m"), "action 'dy': the state lacks 'y' in m"),
        (Feature("q1", "m"), "the state lacks 'q1' in m"),
    ],
)
def test_actions_that_cannot_be_held_to_limits_are_refused(feature, said):
    with pytest.raises(ValueError, match=said):
        ActionSpace(replace(INFO, actions=(feature,)))


def test_limits_are_read_by_name():
    limits = read_limits(SPACE, DATA)
    assert limits[0] == AxisLimits(1, 4.0, 40.0, 0.2, float("inf"), -1.0, 1.0, 0.1)
    assert limits[3] == AxisLimits(1, 4.0, 40.0, 0.2, float("inf"))
    assert limits[4] == GripperLimits(-1, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"q2": None}, "missing for q2"),
        ({"q7": PLACED}, "no action q7; it has q1, q2, dx, drz, gripper"),
        (
            {"q1": AXIS},
            "limits of 'q1': expected velocity, acceleration, jerk, jump, chunk_jerk, lower, upper, following",
        ),
        ({"drz": PLACED}, "limits of 'drz': expected velocity, acceleration, jerk, jump, chunk_jerk; got"),
        ({"gripper": PLACED}, "limits of 'gripper': expected lower, upper; got"),
        ({"q1": PLACED | {"jerk": "40"}}, "limits of 'q1': jerk is '40': expected a number"),
        ({"q1": PLACED | {"jerk": True}}, "jerk is True"),
        ({"q1": PLACED | {"jerk": float("nan")}}, "jerk is nan"),
        ({"q1": PLACED | {"jerk": float("inf")}}, "jerk is inf: expected a finite number above 0"),
        ({"q1": PLACED | {"velocity": 0}}, "velocity is 0: expected a finite number above 0"),
        ({"q1": PLACED | {"jump": -1}}, "jump is -1: expected a number above 0"),
        ({"q1": PLACED | {"lower": 2}}, "lower 2 is not below upper 1"),
        ({"gripper": {"lower": 1, "upper": -1}}, "limits of 'gripper': lower 1 and upper -1"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(change, said):
    data = {name: value for name, value in (DATA | change).items() if value is not None}
    with pytest.raises(ValueError, match=said):
        read_limits(SPACE, data)


def test_limits_have_to_be_of_the_actions_kinds():
    with pytest.raises(ValueError, match="limits of 'gripper': expected GripperLimits, got AxisLimits"):
        Controller(INFO, (*LIMITS[:4], LIMITS[0]), Synchronous(4), TIMEOUTS, 50.0)


def test_times_have_to_be_possible():
    with pytest.raises(ValueError, match="timeout 'tick' is nan"):
        Timeouts(tick=float("nan"), state=1.0, chunk=1.0)
    with pytest.raises(ValueError, match=r"ticks every 0.02 s: expected above 0 and at most the timeout, 0.01 s"):
        Watchdog(Timeouts(tick=0.01, state=1.0, chunk=1.0), 0.02)
    with pytest.raises(ValueError, match="start at nan"):
        Controller(INFO, LIMITS, Synchronous(4), TIMEOUTS, 50.0).start(float("nan"))
