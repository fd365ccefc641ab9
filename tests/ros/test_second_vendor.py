"""The policy node with an arm whose driver speaks DDS by another vendor than the node's."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")
pytest.importorskip("pink", reason="the extra `ros` is not installed")

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from aegis_interfaces.action import RunInstruction

from aegis_sim.joints import ARM_JOINTS, FINGER_JOINTS
from tests.ros.halting import Bench

PYTHON = Path(__file__).parents[2] / ".venv-cyclone" / "bin" / "python"

pytestmark = [
    pytest.mark.sim,
    pytest.mark.skipif(not PYTHON.exists(), reason="no second vendor of DDS; `make test-ros` brings one"),
]


@pytest.fixture
def bench() -> Iterator[Bench]:
    """With a robot whose joints another process has to tell of."""
    made = Bench(simulated_time=False)
    made.robot.joints_on = False
    yield made
    made.close()


def test_it_drives_the_arm_and_halts_when_that_falls_silent(bench: Bench) -> None:
    began = bench.operator.arm()
    joints = zip((*ARM_JOINTS, *FINGER_JOINTS), (*began, 0.04, 0.04), strict=True)
    words = [f"{name}={position}" for name, position in joints]
    script = Path(__file__).with_name("cyclone_arm.py")
    with subprocess.Popen([str(PYTHON), str(script), os.environ["ROS_DOMAIN_ID"], *words]) as arm:
        try:
            bench.operator.states.clear()
            bench.operator.wait_for(lambda: bench.operator.states, "joint states from Cyclone")
            bench.spin(0.5)
            bench.set_off()
            bench.operator.wait_for(lambda: abs(bench.operator.arm()[0] - began[0]) > 0.1, "the arm to turn")
        finally:
            arm.kill()
    ended = bench.operator.outcome(bench.handle)
    assert ended.reason == RunInstruction.Result.STALE_INPUT and "joint states of the arm" in ended.message
