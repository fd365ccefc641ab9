"""The interfaces do what they are for: a service and an action of one name, and a motion that is canceled."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

import threading
import time
from collections.abc import Iterator
from typing import Any

import rclpy
from aegis_interfaces.action import Ask as AskAction
from aegis_interfaces.action import RunInstruction
from aegis_interfaces.msg import PolicyStatus
from aegis_interfaces.srv import Ask
from rclpy.action import ActionClient, ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node

WORDS = ["a", " red", " cube"]
PATIENCE = 60.0  # s


class Answering(Node):
    """Answers as a policy would, from nothing."""

    def __init__(self) -> None:
        super().__init__("answering")
        self.create_service(Ask, "ask", self._answer)
        ActionServer(self, AskAction, "ask", self._stream)
        ActionServer(self, RunInstruction, "run", self._run, cancel_callback=lambda _: CancelResponse.ACCEPT)

    def _answer(self, _: Ask.Request, response: Ask.Response) -> Ask.Response:
        response.success, response.answer = True, "".join(WORDS)
        return response

    def _stream(self, goal: ServerGoalHandle) -> AskAction.Result:
        for count in range(1, len(WORDS) + 1):
            goal.publish_feedback(AskAction.Feedback(partial_answer="".join(WORDS[:count])))
        goal.succeed()
        return AskAction.Result(success=True, answer="".join(WORDS))

    def _run(self, goal: ServerGoalHandle) -> RunInstruction.Result:
        steps = 0
        while not goal.is_cancel_requested:
            steps += 1
            goal.publish_feedback(RunInstruction.Feedback(queue_depth=4, executed_steps=steps, latency=0.05))
            time.sleep(0.05)
        goal.canceled()
        reason = RunInstruction.Result.CANCELED
        return RunInstruction.Result(reason=reason, message="canceled by the client", executed_steps=steps)


@pytest.fixture(scope="module")
def client() -> Iterator[Node]:
    nodes = [Answering(), Node("client")]
    executor = MultiThreadedExecutor(4)
    for node in nodes:
        executor.add_node(node)
    spinning = threading.Thread(target=executor.spin)
    spinning.start()
    yield nodes[1]
    executor.shutdown()
    spinning.join()


def result(future: rclpy.Future) -> Any:
    until = time.monotonic() + PATIENCE
    while not future.done():
        assert time.monotonic() < until, "no answer"
        time.sleep(0.01)
    return future.result()


def test_a_service_and_an_action_of_one_name_stand_beside_each_other(client: Node) -> None:
    service, action = client.create_client(Ask, "ask"), ActionClient(client, AskAction, "ask")
    assert service.wait_for_service(PATIENCE) and action.wait_for_server(PATIENCE)
    assert result(service.call_async(Ask.Request(question="what is there?"))).answer == "a red cube"
    parts: list[str] = []
    goal = AskAction.Goal(question="what is there?", cameras=["front"])
    handle = result(action.send_goal_async(goal, lambda message: parts.append(message.feedback.partial_answer)))
    answer = result(handle.get_result_async()).result
    assert (answer.success, answer.answer) == (True, "a red cube")
    assert parts and set(parts) <= {"a", "a red", "a red cube"}


def test_an_instruction_is_followed_until_it_is_canceled_and_says_why_it_ended(client: Node) -> None:
    action, steps = ActionClient(client, RunInstruction, "run"), []
    assert action.wait_for_server(PATIENCE)
    goal = RunInstruction.Goal(instruction="pick up the red cube")
    handle = result(action.send_goal_async(goal, lambda message: steps.append(message.feedback.executed_steps)))
    until = time.monotonic() + PATIENCE
    while len(steps) < 3:
        assert time.monotonic() < until, "no feedback"
        time.sleep(0.01)
    result(handle.cancel_goal_async())
    ended = result(handle.get_result_async()).result
    assert (ended.reason, ended.message) == (RunInstruction.Result.CANCELED, "canceled by the client")
    assert ended.executed_steps >= steps[-1]


def test_states_and_reasons_have_names_of_their_own() -> None:
    states = {PolicyStatus.IDLE, PolicyStatus.RUNNING, PolicyStatus.HOLDING, PolicyStatus.STOPPED}
    assert states == {0, 1, 2, 3}
