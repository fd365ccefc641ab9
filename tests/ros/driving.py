"""A policy_node in a process of its own, and someone who configures it, gives it instructions and asks it things."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from aegis_interfaces.action import Ask as AskAction
from aegis_interfaces.action import RunInstruction
from aegis_interfaces.msg import PolicyStatus
from aegis_interfaces.srv import Ask
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from aegis_ros.conversions import to_duration
from tests.ros.robot import Process, Watcher

NODE = Path(get_package_prefix("aegis_ros"), "lib/aegis_ros/policy_node")
PANDA = Path(get_package_share_directory("aegis_ros"), "config/panda.yaml")


class PolicyProcess(Process):
    """The process, in simulated time, with the Panda's parameters and then others."""

    def __init__(self, *arguments: str, command: Sequence[str] = (str(NODE),)) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        super().__init__("--params-file", str(PANDA), "-p", "use_sim_time:=true", *arguments, command=command)


class Operator(Watcher):
    """Whoever stands beside the arm: keeps what is commanded and reported, and presses the buttons."""

    def __init__(self, cameras: Sequence[str] = ("front", "wrist")) -> None:
        super().__init__(cameras)
        self.commands: list[JointTrajectory] = []
        self.reports: list[PolicyStatus] = []
        self.create_subscription(
            JointTrajectory, "/joint_trajectory_controller/joint_trajectory", self.commands.append, 100
        )
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(PolicyStatus, "/policy_node/status", self.reports.append, latched)
        self._run = ActionClient(self, RunInstruction, "/policy_node/run_instruction")
        self._ask = ActionClient(self, AskAction, "/policy_node/ask")

    def change(self, transition: str) -> bool:
        wanted = ChangeState.Request(transition=Transition(id=getattr(Transition, f"TRANSITION_{transition.upper()}")))
        return self.call(ChangeState, "/policy_node/change_state", wanted).success

    def start(self) -> None:
        assert self.change("configure"), self.last_report()
        assert self.change("activate")

    def last_report(self) -> PolicyStatus:
        self.wait_for(lambda: self.reports, "a status")
        return self.reports[-1]

    def wait_for_state(self, state: int) -> PolicyStatus:
        self.wait_for(lambda: self.reports and self.reports[-1].state == state, f"status {state}")
        return self.reports[-1]

    def button(self, name: str) -> Trigger.Response:
        return self.call(Trigger, f"/policy_node/{name}", Trigger.Request())

    def succeeded(self) -> bool:
        return self.call(Trigger, "/sim_robot/success", Trigger.Request()).success

    def instruct(self, instruction: str, limit: float) -> Any:
        """The goal's handle; None if it was refused."""
        handle = self.result_of(self.sending(instruction, limit), "a goal's answer")
        return handle if handle.accepted else None

    def sending(self, instruction: str, limit: float) -> rclpy.Future:
        """Its handle is to come."""
        assert self._run.wait_for_server(60.0)
        return self._run.send_goal_async(RunInstruction.Goal(instruction=instruction, time_limit=to_duration(limit)))

    def outcome(self, handle: Any) -> RunInstruction.Result:
        return self.result_of(handle.get_result_async(), "an instruction's end").result

    def ask(self, question: str) -> Ask.Response:
        return self.call(Ask, "/policy_node/ask", Ask.Request(question=question))

    def ask_aloud(self, question: str, *cameras: str) -> tuple[AskAction.Result, list[str]]:
        """The answer of the action, and what it said on the way."""
        parts: list[str] = []
        assert self._ask.wait_for_server(60.0)
        goal = AskAction.Goal(question=question, cameras=cameras)
        sent = self._ask.send_goal_async(goal, lambda message: parts.append(message.feedback.partial_answer))
        handle = self.result_of(sent, "a question's acceptance")
        return self.result_of(handle.get_result_async(), "an answer").result, parts

    def result_of(self, future: rclpy.Future, what: str) -> Any:
        self.wait_for(future.done, what)
        return future.result()

    def moving(self) -> bool:
        return bool(self.states) and max(abs(speed) for speed in self.states[-1].velocity[:7]) > 0.1
