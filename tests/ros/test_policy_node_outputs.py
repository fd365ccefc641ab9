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

from tests.ros.halting import FAULTS, Bench, halts
from tests.ros.light import ARRAYS, TWISTS
from tests.ros.servo import numbers

pytestmark = pytest.mark.sim

TRIED = ("camera_frozen", "joints_stopped", "canceled", "emergency_stop", "node_hangs", "node_killed")


def bench_with(output: str, topic: str) -> Iterator[Bench]:
    with closing(Bench(False, f"arm.output:={output}", f"arm.command_topic:={topic}")) as bench:
        yield bench


@pytest.fixture(scope="module")
def by_positions() -> Iterator[Bench]:
    yield from bench_with("array", ARRAYS)


@pytest.fixture(scope="module")
def by_twists() -> Iterator[Bench]:
    yield from bench_with("twist", TWISTS)


def test_by_positions_whatever_comes_last_is_held(by_positions: Bench) -> None:
    bench = by_positions
    for fault in FAULTS:
        if fault.name in TRIED:
            halts(bench, fault)
            assert bench.operator.arm() == pytest.approx(np.array(bench.robot.arrays[-1].data), abs=1e-6)
    assert {len(array.data) for array in bench.robot.arrays} == {7}
    assert not bench.robot.trajectories and not bench.robot.twists


def test_by_twists_it_comes_to_rest_with_none(by_twists: Bench) -> None:
    bench = by_twists
    for fault in FAULTS:
        if fault.name in TRIED:
            halts(bench, fault)
            if fault.name in ("camera_frozen", "canceled"):
                assert not numbers(bench.robot.twists[-1]).any()
    assert {twist.header.frame_id for twist in bench.robot.twists} == {"panda_link0"}
    assert not bench.robot.trajectories and not bench.robot.arrays
