"""Whatever fails, the arm halts, the reason is said, and it moves again when told to: processes, DDS and HTTP between.

How fast is measured by benchmarks/halt.py; here it has a second, since other work on the machine may take its time.
"""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")
pytest.importorskip("pink", reason="the extra `ros` is not installed")

from collections.abc import Callable, Iterator

from aegis_interfaces.action import RunInstruction
from aegis_interfaces.msg import PolicyStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from tests.ros.halting import CLOCK_FAULTS, FAULTS, IMAGES, JOINTS, STILL, Bench, Fault, halts
from tests.ros.light import LEFT, RIGHT

pytestmark = pytest.mark.sim

REASON = RunInstruction.Result


@pytest.fixture(scope="module")
def bench_by() -> Iterator[Callable[[bool], Bench]]:
    """Makes the bench, by the machine's clock or by one that is a topic; there is one at a time."""
    there: dict[bool, Bench] = {}

    def make(simulated_time: bool) -> Bench:
        if simulated_time not in there:
            close()
            there[simulated_time] = Bench(simulated_time)
        return there[simulated_time]

    def close() -> None:
        while there:
            there.popitem()[1].close()

    yield make
    close()


@pytest.fixture
def bench(bench_by: Callable[[bool], Bench]) -> Bench:
    return bench_by(False)


@pytest.mark.parametrize(
    ("simulated_time", "fault"),
    [*((False, fault) for fault in FAULTS), *((True, fault) for fault in CLOCK_FAULTS)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_arm_halts_and_waits_to_be_told(
    bench_by: Callable[[bool], Bench], simulated_time: bool, fault: Fault
) -> None:
    bench = bench_by(simulated_time)
    halts(bench, fault)
    commands = len(bench.robot.taken)
    bench.spin(0.3)
    assert len(bench.robot.taken) == commands
    bench.set_off()
    bench.rest()


def test_of_two_instructions_at_once_the_second_is_carried_out(bench: Bench) -> None:
    bench.set_off()
    first = bench.handle
    sent = [bench.operator.sending(side, 20.0) for side in (LEFT, RIGHT)]
    second, third = (bench.operator.result_of(future, "a goal's answer") for future in sent)
    assert bench.operator.outcome(first).reason == REASON.PREEMPTED
    assert bench.operator.outcome(second).reason == REASON.PREEMPTED
    bench.operator.wait_for(lambda: bench.operator.last_report().instruction == RIGHT, "the last instruction")
    third.cancel_goal_async()
    assert bench.operator.outcome(third).reason == REASON.CANCELED


def test_a_transition_that_there_is_not_is_refused_and_stops_nothing(bench: Bench) -> None:
    bench.set_off()
    assert not bench.operator.change("activate") and not bench.operator.change("configure")
    assert "refused transition 3: from here there are deactivate (4)" in bench.node.log()
    assert bench.operator.last_report().state == PolicyStatus.RUNNING and bench.speed() > STILL
    bench.rest()


def test_its_diagnostics_are_those_of_what_happens(bench: Bench) -> None:
    heard: list[DiagnosticArray] = []
    subscription = bench.operator.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 10)

    def status(name: str) -> DiagnosticStatus:
        return next(status for status in heard[-1].status if status.name == f"policy_node: {name}")

    def values(name: str) -> dict[str, str]:
        return {pair.key: pair.value for pair in status(name).values}

    bench.set_off()
    heard.clear()
    bench.operator.wait_for(lambda: len(heard) > 1, "diagnostics")
    assert {status.level for status in heard[-1].status} == {DiagnosticStatus.OK}
    assert status("policy").message == "carries out an instruction"
    assert 10 < float(values("camera 'front'")["rate, Hz"]) < 40 and float(values("camera 'front'")["age, s"]) < IMAGES
    assert 50 < float(values("joint states of the arm")["rate, Hz"]) < 120
    assert 50 < float(values("control loop")["rate, Hz"]) < 120
    assert float(values("control loop")["longest period, s"]) < JOINTS
    bench.robot.cameras_on = False
    assert bench.operator.outcome(bench.handle).reason == REASON.STALE_INPUT
    heard.clear()
    bench.operator.wait_for(lambda: heard, "diagnostics")
    assert (
        status("camera 'wrist'").level == DiagnosticStatus.ERROR and "nothing new" in status("camera 'wrist'").message
    )
    assert status("policy").level == DiagnosticStatus.WARN
    assert status("joint states of the arm").level == DiagnosticStatus.OK
    bench.mend()
    bench.operator.destroy_subscription(subscription)
    assert bench.operator.last_report().state == PolicyStatus.HOLDING
