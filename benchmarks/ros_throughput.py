"""What reaches `policy_node` of two cameras' images: `source ros2_ws/env.sh && python benchmarks/ros_throughput.py`.

Two cameras of 640 x 480 at 30 Hz and joint states at 100 Hz come from one process, the node drives an arm without
physics (tests/ros/light.py) from another, its policy sits in a third. What of each stream is lost on the way is counted
by the node's own diagnostics; how regular its control loop is, by the stamps of its commands; with each transport of
Fast DDS. Some minutes on two cores with nothing else to do. Writes benchmarks/results/ros_throughput.json, where what
was measured with another receive buffer of the system's (`sysctl net.core.rmem_default`) is kept, and the table in
docs/ros.md.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from aegis_interfaces.action import RunInstruction
from diagnostic_msgs.msg import DiagnosticArray
from pages import fill, table
from provenance import ROOT, provenance
from tqdm import tqdm

sys.path.insert(0, str(ROOT))  # the robot, the policy and who stands beside them are the tests'

from aegis_ros.conversions import to_seconds
from tests.ros.driving import Operator, PolicyProcess
from tests.ros.halting import panda
from tests.ros.light import LEFT, RIGHT, SPAWN, LightRobot, PolicyServer
from tests.ros.robot import own_domain

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "ros_throughput.json", ROOT / "docs" / "ros.md"
SIZE, RATE = (480, 640), 100.0
PROFILE = ROOT / "ros2_ws" / "src" / "aegis_ros" / "config" / "large_images.xml"
TRANSPORTS = {
    "default": {},
    "large_images.xml": {"FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILE)},
    "UDP alone": {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"},
    "LARGE_DATA": {"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"},
}
STREAMS = ("front", "wrist", "joint states")
LEG, LEGS = 2.0, 10  # s to one side, how often
QUIET = 2.5  # s in which nothing is sent, so that both ends count the same


class RemoteRobot:
    """A `LightRobot` in a process of its own; `sending` switches it on and off."""

    def __init__(self) -> None:
        self.sending, self.ends = SPAWN.Event(), SPAWN.Event()
        self.sent = {name: SPAWN.Value("i", 0) for name in STREAMS}
        self.sending.set()
        self._process = SPAWN.Process(target=run_robot, args=(self.sending, self.ends, self.sent))
        self._process.start()

    def close(self) -> None:
        self.ends.set()
        self._process.join()


def run_robot(sending: Any, ends: Any, sent: dict[str, Any]) -> None:
    rclpy.init()
    with closing(LightRobot(*panda(), SIZE)) as robot:
        while not ends.wait(0.05):
            robot.cameras_on = robot.joints_on = sending.is_set()
            for name, count in sent.items():
                count.value = robot.sent[name]
    rclpy.shutdown()


def main() -> None:
    found = json.loads(RESULTS.read_text())["transports"] if RESULTS.exists() else {}
    buffer = int(Path("/proc/sys/net/core/rmem_default").read_text())
    for transport, environment in tqdm(TRANSPORTS.items(), unit="transport"):
        with own_domain({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", **environment}):
            found[f"{transport}, receive buffer {buffer // 1024} KiB"] = measure()
    settings = {"cameras": 2, "size": SIZE, "camera_hz": 30, "joint_states_hz": 100, "control_hz": RATE}
    RESULTS.write_text(json.dumps({"transports": found, **settings, **provenance()}, indent=1) + "\n")
    write_table(found)


@contextmanager
def driven() -> Iterator[tuple[RemoteRobot, PolicyProcess, Operator]]:
    """A robot, the node that drives it, and who gives the instructions."""
    with closing(RemoteRobot()) as robot, closing(PolicyServer()) as server:
        parameters = (f"policy:={server.url}", "use_sim_time:=false", f"rate:={RATE}", "scheduler:=asynchronous")
        with PolicyProcess(*(word for parameter in parameters for word in ("-p", parameter))) as node:
            operator = Operator(cameras=())
            operator.start()
            yield robot, node, operator
            operator.destroy_node()


def measure() -> dict[str, Any]:
    """Loss of each stream, and periods of the control loop, ms, over LEGS instructions."""
    with driven() as (robot, node, operator):
        heard: list[DiagnosticArray] = []
        operator.create_subscription(DiagnosticArray, "/diagnostics", heard.append, 10)
        before = counted(robot, operator, heard)
        began, spent, periods = time.monotonic(), processor_time(node.process.pid), []
        halted = 0
        for leg in range(LEGS):
            handle = operator.instruct(LEFT if leg % 2 else RIGHT, LEG)
            operator.commands.clear()
            halted += operator.outcome(handle).reason == RunInstruction.Result.STALE_INPUT
            periods += np.diff([to_seconds(command.header.stamp) for command in operator.commands]).tolist()
        share = (processor_time(node.process.pid) - spent) / (time.monotonic() - began)
        after = counted(robot, operator, heard)
    sent, received = ({name: after[side][name] - before[side][name] for name in STREAMS} for side in (0, 1))
    ms = np.array(periods) * 1e3
    return {
        "lost": {name: round(1 - received[name] / sent[name], 4) for name in STREAMS},
        "sent": sent,
        "halted": halted,
        "instructions": LEGS,
        "period_ms": {"p1": pick(ms, 1), "p50": pick(ms, 50), "p99": pick(ms, 99), "max": pick(ms, 100)},
        "node_cores": round(share, 2),
    }


def processor_time(pid: int) -> float:
    """Of a process so far, s."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def pick(values: np.ndarray, percentile: float) -> float:
    return round(float(np.percentile(values, percentile)), 2)


def counted(
    robot: RemoteRobot, operator: Operator, heard: list[DiagnosticArray]
) -> tuple[dict[str, int], dict[str, int]]:
    """Messages sent and received so far, of each stream, while nothing is on its way."""
    robot.sending.clear()
    spin(operator, QUIET)
    names = {f"camera '{name}'": name for name in STREAMS[:2]} | {"joint states of the arm": STREAMS[2]}
    received = {}
    for status in heard[-1].status:
        if (what := status.name.partition(": ")[2]) in names:
            received[names[what]] = int({pair.key: pair.value for pair in status.values}["received"])
    sent = {name: robot.sent[name].value for name in STREAMS}
    robot.sending.set()
    spin(operator, 1.0)
    return sent, received


def spin(operator: Operator, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        rclpy.spin_once(operator, timeout_sec=0.05)


def write_table(found: dict[str, dict[str, Any]]) -> None:
    """Put the figures into the page."""
    head = ("transport", "images lost", "joint states lost", "halted for want of images")
    rows = []
    for name, measured in found.items():
        lost, period = measured["lost"], measured["period_ms"]
        images = ", ".join(f"{lost[camera]:.1%}" for camera in STREAMS[:2])
        halted = f"{measured['halted']} of {measured['instructions']}"
        periods = ", ".join(f"{period[which]:.1f}" for which in ("p50", "p99", "max"))
        rows.append((name, images, f"{lost[STREAMS[2]]:.1%}", halted, periods))
    fill(PAGE, "throughput", table((*head, "control period, ms: median, p99, longest"), rows))


if __name__ == "__main__":
    main()
