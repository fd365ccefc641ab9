"""`policy_node`: lets a policy drive an arm and answers questions meanwhile; a managed lifecycle node.

    senses' thread      hears cameras, joints, clock; the stop button            senses.py, inputs.py
    control loop        one command each 1/rate s of the node's clock            driver.py: tick
    inference loop      observes and acts whenever a chunk is wanted             driver.py: think
    answers' thread     questions, word by word, between actions                 answers.py
    this node's thread  transitions, goals, questions coming in, status

Topics, parameters and what happens when something goes wrong: docs/ros.md.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import rclpy
from aegis_interfaces.action import Ask as AskAction
from aegis_interfaces.action import RunInstruction
from aegis_interfaces.msg import ActionChunk, PolicyStatus
from aegis_interfaces.srv import Ask
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_msgs.msg import Float64MultiArray

from aegis_policy.control import State
from aegis_ros import chunks
from aegis_ros.answers import answer
from aegis_ros.conversions import to_duration, to_seconds, to_stamp
from aegis_ros.diagnostics import Diagnostics
from aegis_ros.driver import Driver, Ending, Followed, Job, Reason
from aegis_ros.loop import Loop, Pace
from aegis_ros.parameters import declare, read
from aegis_ros.parts import Parts, assemble
from aegis_ros.qos import LATCHED, RELIABLE

REST = 5.0  # s of real time that deactivating waits for the arm to come to rest
LOOK = 0.005  # s of real time between two looks at whether a chunk is wanted
DIAGNOSE = 1.0  # s of real time between two messages on /diagnostics
REPORT = 0.05  # s of real time between two looks at what is to be reported
Done = TransitionCallbackReturn


class PolicyNode(LifecycleNode):
    """See the file's docstring."""

    def __init__(self) -> None:
        super().__init__("policy_node")
        declare(self)
        self._parts: Parts | None = None
        self._loops: list[Loop] = []
        self._pace: Pace | None = None
        self._stopped = ""  # the emergency stop's reason: it outlives a cleanup
        self._refused = ""  # why the last configuring failed
        self._running: dict[Job, ServerGoalHandle] = {}
        self._commands: tuple[Publisher, Publisher] | None = None
        self._answering = ThreadPoolExecutor(1, "answers")
        self._told: tuple[Any, ...] = ()
        self._told_at = 0.0
        self._shown: Followed | None = None
        self._chunks = self.create_publisher(ActionChunk, "~/chunk", RELIABLE)
        self._status = self.create_publisher(PolicyStatus, "~/status", LATCHED)
        waiting = ReentrantCallbackGroup()  # these await what happens on other threads
        self.create_service(Ask, "~/ask", self._on_ask, callback_group=waiting)
        ActionServer(
            self,
            AskAction,
            "~/ask",
            self._on_ask_goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=waiting,
        )
        ActionServer(
            self,
            RunInstruction,
            "~/run_instruction",
            self._on_run,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
            callback_group=waiting,
        )
        self._diagnostics = Diagnostics(self.get_name())
        self._diagnosed = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        # by the machine's clock: a simulation's may stand still, and that is to be reported too
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(REPORT, self._report, clock=steady)
        self.create_timer(DIAGNOSE, self._diagnose, clock=steady)

    # -- transitions ---------------------------------------------------------------------------------------------

    def _LifecycleNodeMixin__change_state(self, transition: int) -> TransitionCallbackReturn:
        """Refuse a transition that the state does not have; rclpy's own method would let it end the process."""
        available = {number: label for number, label, *_ in self._state_machine.available_transitions}
        if transition not in available:
            there = ", ".join(f"{label} ({number})" for number, label in available.items())
            self.get_logger().error(f"refused transition {transition}: from here there are {there}")
            return Done.FAILURE
        return super()._LifecycleNodeMixin__change_state(transition)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load, look and check; refused with the reason if anything does not fit."""
        try:
            self._parts = assemble(self, self._send, self._break, self._estop, self._reset)
            self._commands = (
                self.create_lifecycle_publisher(
                    self._parts.output.message_type, read(self, "arm.command_topic"), RELIABLE
                ),
                self.create_lifecycle_publisher(Float64MultiArray, read(self, "gripper.command_topic"), RELIABLE),
            )
        except Exception as error:
            self.get_logger().debug(traceback.format_exc())
            self.get_logger().error(f"not configured: {error}")
            self._release()
            self._refused = f"not configured: {error}"
            return Done.FAILURE
        self._refused = ""
        if self._stopped:
            self._parts.driver.estop(self._stopped)
        self.get_logger().info(
            f"configured: {self._parts.policy.info.model} drives {', '.join(self._parts.arm.joints)}"
        )
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._parts is not None
        done = super().on_activate(state)
        driver, clock = self._parts.driver, self._parts.senses.seconds
        self._pace = Pace(clock, 1 / read(self, "rate"), driver.tick)
        self._loops = [
            Loop("control loop", self._pace, self._break),
            Loop("inference loop", lambda: 0.0 if driver.think(clock) else LOOK, self._break),
        ]
        return done

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Brake to standstill first."""
        self._halt("the node is deactivated")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._halt("the node is shut down")
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.get_logger().error("an error in a transition: the arm stops, and the node is unconfigured")
        self._halt("an error in a transition")
        self._release()
        return Done.SUCCESS

    def _halt(self, why: str) -> None:
        """Brake, and when the arm is at rest, end the loops."""
        if self._parts is None:
            return
        driver = self._parts.driver
        driver.stop(Reason.STOPPED, why)  # also what waits: it must not begin with the next activation
        if not self._loops:
            return
        until = time.monotonic() + REST
        while not driver.at_rest and time.monotonic() < until:
            time.sleep(LOOK)
        if not driver.at_rest:  # its last command ends in standstill anyway
            driver.estop(f"{why}, and the arm did not come to rest within {REST:g} s (does its clock stand still?)")
        for loop in self._loops:
            loop.stop()
        self._loops, self._pace = [], None

    def _release(self) -> None:
        if self._parts is not None:
            if self._parts.driver.state is State.ESTOP:
                self._stopped = self._parts.driver.trouble
            self._parts.senses.close()
            self._parts = None
        for publisher in self._commands or ():
            self.destroy_lifecycle_publisher(publisher)
        self._commands = None

    # -- from other threads --------------------------------------------------------------------------------------

    def _send(self, message: Any, gripper: float | None) -> None:
        assert self._commands is not None
        arm, hand = self._commands
        arm.publish(message)
        if gripper is not None:
            hand.publish(Float64MultiArray(data=[gripper]))

    def _estop(self, reason: str) -> None:
        self._stopped = self._stopped or reason
        if self._parts is not None:
            self._parts.driver.estop(reason)

    def _reset(self) -> None:
        if self._parts is not None:
            self._parts.driver.reset()
        self._stopped = ""

    def _break(self, message: str) -> None:
        """Something has failed outside the control loop."""
        self.get_logger().error(message)
        if self._parts is not None:
            self._parts.driver.stop(Reason.FAULT, message)

    # -- instructions --------------------------------------------------------------------------------------------

    def _on_goal(self, goal: RunInstruction.Goal) -> GoalResponse:
        wrong = ""
        if not self._loops or self._parts is None:
            wrong = "the node is not active"
        elif self._parts.driver.state is State.ESTOP:
            wrong = f"stopped: {self._parts.driver.trouble}; ~/reset first"
        elif not goal.instruction.strip():
            wrong = "the instruction is empty"
        elif to_seconds(goal.time_limit) <= 0:
            wrong = "the time limit is not positive"
        if wrong:
            self.get_logger().error(f"refused '{goal.instruction}': {wrong}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        for job, goal in self._running.items():
            if goal.goal_id == handle.goal_id and self._parts is not None:
                self._parts.driver.end(job, Reason.CANCELED, "canceled by the client")
        return CancelResponse.ACCEPT

    async def _on_run(self, handle: ServerGoalHandle) -> RunInstruction.Result:
        ended: Future = Future(executor=self.executor)
        job = Job(handle.request.instruction, to_seconds(handle.request.time_limit), self._waking(ended.set_result))
        self.get_logger().info(f"'{job.instruction}' for at most {job.limit:g} s")
        if not self._loops or self._parts is None:  # deactivated since the goal was accepted
            handle.abort()
            return RunInstruction.Result(reason=int(Reason.STOPPED), message="the node is not active")
        self._running[job] = handle
        self._parts.driver.request(job)
        if handle.is_cancel_requested:
            self._parts.driver.end(job, Reason.CANCELED, "canceled by the client")
        ending: Ending = await ended
        del self._running[job]
        self.get_logger().info(f"'{job.instruction}' ended after {ending.duration:.2f} s: {ending.message}")
        if ending.reason is Reason.CANCELED:
            handle.canceled()
        elif ending.reason is Reason.TIME_LIMIT:
            handle.succeed()
        else:
            handle.abort()
        return RunInstruction.Result(
            reason=int(ending.reason),
            message=ending.message,
            executed_steps=ending.steps,
            duration=to_duration(ending.duration),
        )

    # -- questions -----------------------------------------------------------------------------------------------

    async def _on_ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        answered = await self._answered(request, lambda _: True)
        response.success, response.message, response.answer, response.stamp = answered
        return response

    async def _on_ask_goal(self, handle: ServerGoalHandle) -> AskAction.Result:
        def said(text: str) -> bool:
            handle.publish_feedback(AskAction.Feedback(partial_answer=text))
            return not handle.is_cancel_requested

        success, message, text, stamp = await self._answered(handle.request, said)
        if success:
            handle.succeed()
        elif handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return AskAction.Result(success=success, message=message, answer=text, stamp=stamp)

    def _answered(self, request: Any, said: Callable[[str], bool]) -> Future:
        """Success, message, answer and stamp of a question, on the answers' thread."""
        found: Future = Future(executor=self.executor)
        told = self._waking(found.set_result)
        self._answering.submit(lambda: told(self._answer(request, said)))
        return found

    def _answer(self, request: Any, said: Callable[[str], bool]) -> tuple[bool, str, str, Any]:
        parts = self._parts
        if parts is None:
            return False, "the node is not configured", "", to_stamp(0)
        try:
            cameras = list(request.cameras) or [camera.name for camera in parts.policy.info.cameras]
            images, stamp = parts.inputs.pictures(cameras)
            if late := parts.inputs.late(cameras, parts.senses.seconds()):
                return False, late, "", to_stamp(round(stamp * 1e9))
            text, whole = answer(parts.policy, parts.turns, images, request.question, said)
        except Exception as error:
            self.get_logger().error(f"'{request.question}': {traceback.format_exc()}")
            return False, f"{type(error).__name__}: {error}", "", to_stamp(0)
        return whole, "" if whole else "canceled by the client", text, to_stamp(round(stamp * 1e9))

    def _waking(self, told: Callable[[Any], None]) -> Callable[[Any], None]:
        """`told`, from another thread: who awaits goes on at once."""

        def wake(value: Any) -> None:
            told(value)
            if self.executor is not None:
                self.executor.wake()

        return wake

    # -- reports -------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        message = self._message()
        for job, handle in self._running.items():
            if self._parts is not None and self._parts.driver.instruction == job.instruction:
                progress = self._parts.driver.progress(self._parts.senses.seconds())
                handle.publish_feedback(
                    RunInstruction.Feedback(
                        queue_depth=progress.queue, executed_steps=progress.steps, latency=progress.latency
                    )
                )
        told = (message.state, message.message, message.instruction, message.checkpoint)
        if told != self._told or time.monotonic() - self._told_at >= 1.0:
            self._told, self._told_at = told, time.monotonic()
            self._status.publish(message)
        self._show_chunk()

    def _show_chunk(self) -> None:
        """Once, the newest that the arm follows: seen from here, so that showing it never holds up who acts."""
        followed = self._parts.driver.followed if self._parts is not None else None
        if self._parts is not None and followed is not None and followed is not self._shown:
            self._chunks.publish(chunks.to_message(followed, self._parts.policy.info))
        self._shown = followed

    def _diagnose(self) -> None:
        self._diagnosed.publish(self._diagnostics.message(self._message(), self._parts, self._pace))

    def _message(self) -> PolicyStatus:
        parts = self._parts
        if parts is None:
            now = self.get_clock().now().to_msg()
            return PolicyStatus(stamp=now, state=PolicyStatus.INACTIVE, message=self._refused)
        driver, now, info = parts.driver, parts.senses.seconds(), parts.policy.info
        progress = driver.progress(now)
        return PolicyStatus(
            stamp=to_stamp(round(now * 1e9)),
            state=self._state(driver),
            message=driver.trouble,
            model=info.model,
            checkpoint=info.checkpoint,
            instruction=driver.instruction,
            queue_depth=progress.queue,
            executed_steps=progress.steps,
            latency=progress.latency,
            observation_age=max(parts.inputs.age(now), 0.0),
        )

    def _state(self, driver: Driver) -> int:
        if driver.state is State.ESTOP:
            return PolicyStatus.STOPPED
        if not self._loops:
            return PolicyStatus.INACTIVE
        if driver.instruction:
            return PolicyStatus.RUNNING
        return PolicyStatus.HOLDING if driver.trouble else PolicyStatus.IDLE

    def end(self) -> None:
        """Bring the arm to rest and let go of everything."""
        self._halt("the node ends")
        self._answering.shutdown(wait=False, cancel_futures=True)
        self._release()


def main() -> None:
    """Run until told to end, by Ctrl-C or SIGTERM; the arm comes to rest first."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # ROS's would end the publishers before the arm rests
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    node = PolicyNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # how one ends it
    finally:
        node.end()
        rclpy.try_shutdown()
