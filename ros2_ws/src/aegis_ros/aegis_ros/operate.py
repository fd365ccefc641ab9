"""`operate`: tell a policy node what to do, ask it something on the way, and say what came of it.

    operate "pick up the red cube" --ask "what color is the object?" --seconds 15
    operate                        what the robot says on /instruction, as a simulated one does

Configures and activates the node if it is not active. Where somebody knows when the job is done (/sim_robot/success),
the instruction ends then; else it runs until its time is up. Ctrl-C cancels, and the arm comes to rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from aegis_interfaces.action import Ask, RunInstruction
from aegis_interfaces.msg import PolicyStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from rclpy.utilities import remove_ros_args
from std_msgs.msg import String
from std_srvs.srv import Trigger

from aegis_ros.conversions import to_duration, to_seconds
from aegis_ros.qos import LATCHED

PATIENCE = 30.0  # s of real time for a node to answer
CONFIGURING = 120.0  # s of real time: a policy is loaded
LOOK = 0.2  # s of real time between two looks at whether the job is done


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class OperateError(RuntimeError):
    """What was to be done cannot be; says why."""


class Operator(Node):
    """Whoever gives the instructions. Nothing is heard or answered but while one of its methods waits."""

    def __init__(self, node: str) -> None:
        super().__init__("operate")
        self._node = node
        self._run = ActionClient(self, RunInstruction, f"{node}/run_instruction")
        self._ask = ActionClient(self, Ask, f"{node}/ask")
        self._done = self.create_client(Trigger, "/sim_robot/success")
        self._told: list[str] = []
        self._status = PolicyStatus()
        self._steps = 0
        self.create_subscription(String, "/instruction", lambda message: self._told.append(message.data), LATCHED)
        self.create_subscription(PolicyStatus, f"{node}/status", self._on_status, LATCHED)

    def make_ready(self) -> None:
        """Bring the policy node to where it takes instructions.

        Raises:
            OperateError: it is not there, or what it drives does not fit; says which.
        """
        asking = self.create_client(GetState, f"{self._node}/get_state")
        state = self._answer(asking, GetState.Request(), PATIENCE).current_state.id
        changing = self.create_client(ChangeState, f"{self._node}/change_state")
        for here, transition in (
            (State.PRIMARY_STATE_UNCONFIGURED, Transition.TRANSITION_CONFIGURE),
            (State.PRIMARY_STATE_INACTIVE, Transition.TRANSITION_ACTIVATE),
        ):
            if state <= here:
                wanted = ChangeState.Request(transition=Transition(id=transition))
                if not self._answer(changing, wanted, CONFIGURING).success:
                    self._wait(lambda: self._status.message, LOOK)
                    raise OperateError(f"{self._node} is not active: {self._status.message or 'see its log'}")

    def instruction(self) -> str:
        """What the robot says that it is to do.

        Raises:
            OperateError: nothing.
        """
        if not self._wait(lambda: self._told, PATIENCE):
            raise OperateError("no instruction given, and none on /instruction: name one")
        return self._told[-1]

    def carry_out(self, instruction: str, seconds: float, question: str | None) -> bool:
        """Have it carried out, and the question answered on the way; returns whether it was.

        Raises:
            OperateError: it is refused.
        """
        say(f"instruction: {instruction}")
        goal = RunInstruction.Goal(instruction=instruction, time_limit=to_duration(seconds))
        sent = self._send(self._run, goal, self._on_feedback)
        done = False
        try:
            ended = self._accepted(sent).get_result_async()
            if question and self._wait(lambda: self._steps or ended.done(), PATIENCE):
                self._put(question)
            done = self._until_done(ended)
        except KeyboardInterrupt:
            pass
        finally:  # whatever went wrong here, the arm is not left moving
            result = self._withdrawn(sent)
        say(f"{'done' if done else result.message} after {to_seconds(result.duration):.1f} s of the robot's clock")
        return done or (result.reason == result.TIME_LIMIT and not self._done.service_is_ready())

    def _withdrawn(self, sent: Future) -> RunInstruction.Result:
        """What came of a goal, which is canceled if it has not ended, as soon as it is known to have been accepted."""
        if not self._wait(sent.done, PATIENCE) or not sent.result().accepted:
            return RunInstruction.Result(message="canceled before it began")
        ended = sent.result().get_result_async()
        if not self._wait(ended.done, LOOK):
            sent.result().cancel_goal_async()
        if not self._wait(ended.done, PATIENCE):
            raise OperateError(f"{self._node} did not end the instruction within {PATIENCE:g} s of being told to")
        return ended.result().result

    def _put(self, question: str) -> None:
        result = self._accepted(self._send(self._ask, Ask.Goal(question=question))).get_result_async()
        if not self._wait(result.done, PATIENCE):
            raise OperateError(f"no answer within {PATIENCE:g} s to: {question}")
        answer = result.result().result
        say(f"asked on the way: {question} -> {answer.answer if answer.success else answer.message}")

    def _until_done(self, ended: Future) -> bool:
        """Whether somebody says that it is done, before it has ended."""
        while not self._wait(ended.done, LOOK):
            if self._done.service_is_ready() and self._answer(self._done, Trigger.Request(), PATIENCE).success:
                return True
        return False

    def _send(self, client: ActionClient, goal: Any, feedback: Callable[[Any], None] | None = None) -> Future:
        if not client.wait_for_server(PATIENCE):
            raise OperateError(f"no {self._node} there")
        return client.send_goal_async(goal, feedback)

    def _accepted(self, sent: Future) -> Any:
        """The handle of a goal that was sent."""
        if not self._wait(sent.done, PATIENCE) or not sent.result().accepted:
            self._wait(lambda: False, LOOK)
            raise OperateError(f"{self._node} refused: {self._status.message or 'see its log'}")
        return sent.result()

    def _answer(self, client: Any, request: Any, patience: float) -> Any:
        if not client.wait_for_service(PATIENCE):
            raise OperateError(f"nobody answers to {client.srv_name}: is {self._node} running?")
        future = client.call_async(request)
        if not self._wait(future.done, patience):
            raise OperateError(f"{client.srv_name} did not answer within {patience:g} s")
        return future.result()

    def _wait(self, condition: Callable[[], Any], patience: float) -> bool:
        """Until it holds, for so long at most, s; returns whether it does."""
        until = time.monotonic() + patience
        while not condition() and time.monotonic() < until:
            rclpy.spin_once(self, timeout_sec=0.05)
        return bool(condition())

    def _on_status(self, status: PolicyStatus) -> None:
        self._status = status

    def _on_feedback(self, message: Any) -> None:
        self._steps = message.feedback.executed_steps


def main() -> None:
    parser = argparse.ArgumentParser(prog="operate", description=__doc__.splitlines()[0])
    parser.add_argument("instruction", nargs="?", help="in words; what /instruction says if left out")
    parser.add_argument("--ask", metavar="QUESTION", help="put once the arm moves")
    parser.add_argument("--seconds", type=float, default=15.0, help="of the robot's clock, at most (default: 15)")
    parser.add_argument("--node", default="/policy_node", help="the policy node (default: /policy_node)")
    arguments = parser.parse_args(remove_ros_args(sys.argv)[1:])
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is to cancel first
    operator = Operator(arguments.node)
    try:
        operator.make_ready()
        done = operator.carry_out(arguments.instruction or operator.instruction(), arguments.seconds, arguments.ask)
    except OperateError as error:
        sys.exit(f"operate: {error}")
    finally:
        operator.destroy_node()
        rclpy.try_shutdown()
    sys.exit(0 if done else 1)
