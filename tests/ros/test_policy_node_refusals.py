"""`policy_node` refuses what does not fit, with the reason, before anything may move."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")
pytest.importorskip("pink", reason="the extra `ros` is not installed")

from collections.abc import Iterator
from contextlib import closing

from aegis_interfaces.msg import PolicyStatus

from tests.ros.driving import Operator, PolicyProcess
from tests.ros.halting import panda
from tests.ros.light import LightRobot

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def operator() -> Iterator[Operator]:
    with closing(LightRobot(*panda(), clock=True)):
        operating = Operator()
        operating.wait_for(lambda: operating.images["front"], "the robot")
        yield operating
        operating.destroy_node()


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        (["arm.joints:=[panda_joint1, elbow]"], "joint states: no elbow; heard: panda_finger_joint1, "),
        (["cameras:=[front]"], "the policy wants camera wrist; parameter 'cameras' has front"),
        pytest.param(["arm.tip:=hand"], "no frame hand; it has panda_link0, ", marks=pytest.mark.slow),
        pytest.param(["camera.front.topic:=/nowhere"], "no image of camera 'front'", marks=pytest.mark.slow),
        pytest.param(["limits.dx.velocity:=-1.0"], "limits of 'dx': velocity is -1", marks=pytest.mark.slow),
        (["policy:=http://127.0.0.1:9"], "no policy server there"),
        (
            ["rate:=8.0", "timeouts.tick:=0.2"],
            "parameter 'arm.coasting' is 0.1 s, and with a 'rate' of 8 commands come",
        ),
        (["arm.output:=torque"], "parameter 'arm.output' is 'torque': expected one of trajectory, array, twist"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(operator: Operator, parameters: list[str], reason: str) -> None:
    arguments = [word for parameter in ["timeouts.start:=3.0", *parameters] for word in ("-p", parameter)]
    operator.reports.clear()
    with PolicyProcess(*arguments) as policy:
        operator.wait_for(lambda: operator.reports, "the node")
        assert not operator.change("configure"), policy.log()
        assert reason in policy.log()
        operator.wait_for(lambda: reason in operator.last_report().message, "the reason in the status")
        assert operator.last_report().state == PolicyStatus.INACTIVE and not operator.commands
