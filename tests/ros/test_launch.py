"""The launch files start what they say. ROS 2's wheels have no `launch_ros`, so this runs with a system ROS 2 only."""

from __future__ import annotations

import pytest

pytest.importorskip("launch_ros", reason="no launch_ros: the wheels of `make test-ros` lack it, apt's ROS 2 has it")

import subprocess
from collections.abc import Iterator

from aegis_interfaces.msg import PolicyStatus

from tests.ros.driving import Operator

pytestmark = pytest.mark.sim


@pytest.fixture
def launched() -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(["ros2", "launch", "aegis_ros", "simulation.launch.py", "seed:=1", "rate:=0.2"])
    yield process
    process.terminate()
    process.wait(timeout=60)


def test_the_simulation_comes_up_with_a_policy_that_waits_for_instructions(launched: subprocess.Popen) -> None:
    operator = Operator()
    operator.wait_for_state(PolicyStatus.IDLE)
    assert operator.images["front"] and launched.poll() is None
    operator.destroy_node()
