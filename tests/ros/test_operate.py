"""`operate` brings the policy node to where it takes instructions, has one carried out, and says what came of it."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")
pytest.importorskip("pink", reason="the extra `ros` is not installed")

import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ament_index_python.packages import get_package_prefix

from tests.ros.driving import PolicyProcess
from tests.ros.halting import PATIENT, panda
from tests.ros.light import LEFT, LightRobot, PolicyServer

pytestmark = pytest.mark.sim

ARGUMENTS = [word for parameter in ("use_sim_time:=false", *PATIENT) for word in ("-p", parameter)]
OPERATE = str(Path(get_package_prefix("aegis_ros"), "lib/aegis_ros/operate"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with closing(LightRobot(*panda())), closing(PolicyServer()) as server:
        yield server.url


def operate(*words: str) -> tuple[int, str]:
    """Exit status, and all that it says."""
    ran = subprocess.run([OPERATE, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return ran.returncode, ran.stdout


def test_it_says_what_was_done_and_answered_and_can_be_used_again(url: str) -> None:
    with PolicyProcess(*ARGUMENTS, "-p", f"policy:={url}"):
        for _ in range(2):
            status, said = operate(LEFT, "--seconds", "2", "--ask", "how many objects are there?")
            assert status == 0, said
            asked, answered, ended = said.splitlines()
            assert asked == f"instruction: {LEFT}"
            assert answered == "asked on the way: how many objects are there? -> nothing"
            assert ended.startswith("the time is up: 2 s after 2.")


def test_interrupted_it_cancels_first(url: str) -> None:
    with PolicyProcess(*ARGUMENTS, "-p", f"policy:={url}"):
        with subprocess.Popen([OPERATE, LEFT, "--ask", "what is it?"], stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            assert running.stdout.readline() == f"instruction: {LEFT}\n"
            assert "what is it?" in running.stdout.readline()  # so it moves
            running.send_signal(signal.SIGINT)
            assert running.stdout.read().startswith("canceled by the client after ")
        assert running.returncode == 1


def test_what_stands_in_the_way_is_said(url: str) -> None:
    with PolicyProcess("-p", "use_sim_time:=false", "-p", f"policy:={url}", "-p", "arm.output:=torque"):
        status, said = operate(LEFT)
        assert status == 1
        assert "/policy_node is not active: not configured: parameter 'arm.output' is 'torque'" in said
