"""`policy_node` drives an arm by joint positions alone or by the hand's velocity; whatever fails, it comes to rest.

Processes, DDS and HTTP between; that a policy does its job by each output, `test_closed_loop.py` tries.
"""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")
pytest.importorskip("pink", reason="the extra `ros` is not installed")

from collections.abc import Iterator
from contextlib import closing

import numpy as np

from tests.ros.halting import FAULTS, Bench, Fault, halts
from tests.ros.light import ARRAYS, TWISTS
from tests.ros.servo import numbers

pytestmark = pytest.mark.sim

TRIED = ("camera_frozen", "canceled", "emergency_stop", "node_killed")


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    output, topic = request.param
    with closing(Bench(False, f"arm.output:={output}", f"arm.command_topic:={topic}")) as made:
        yield made


def halts_and_stays_silent(bench: Bench, fault: Fault) -> None:
    """Nothing more comes until it is told to move again."""
    halts(bench, fault)
    sent = len(bench.robot.arrays), len(bench.robot.twists)
    bench.spin(0.3)
    assert (len(bench.robot.arrays), len(bench.robot.twists)) == sent


@pytest.mark.parametrize("bench", [("array", ARRAYS)], indirect=True)
def test_by_positions_whatever_comes_last_is_held(bench: Bench) -> None:
    for fault in FAULTS:
        if fault.name in TRIED:
            halts_and_stays_silent(bench, fault)
            assert bench.operator.arm() == pytest.approx(np.array(bench.robot.arrays[-1].data), abs=1e-6)
    assert {len(array.data) for array in bench.robot.arrays} == {7}
    assert not bench.robot.trajectories and not bench.robot.twists


@pytest.mark.parametrize("bench", [("twist", TWISTS)], indirect=True)
def test_by_twists_it_comes_to_rest_with_none(bench: Bench) -> None:
    for fault in FAULTS:
        if fault.name in TRIED:
            halts_and_stays_silent(bench, fault)
            if fault.name in ("camera_frozen", "canceled"):
                assert not numbers(bench.robot.twists[-1]).any()
    assert {twist.header.frame_id for twist in bench.robot.twists} == {"panda_link0"}
    assert not bench.robot.trajectories and not bench.robot.arrays
