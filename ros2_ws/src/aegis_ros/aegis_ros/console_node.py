"""`console_node`: a robot that `policy_node` drives, in the console of a policy server; see docs/console.md.

    /v1/robot of the server ── commands ──► this node ── goals, cancels, e-stop, reset ──► policy_node
                            ◄── reports ───           ◄── status, chunks; cameras, joints ──

What keeps people safe is in `policy_node`: it latches its emergency stop, and watches over what comes in. This node
passes on what people say, and takes back what they have started when it hears no more of them.
"""

from __future__ import annotations

import functools
import signal
import time
from typing import Any

import rclpy
from action_msgs.srv import CancelGoal
from aegis_interfaces.action import RunInstruction
from aegis_interfaces.msg import ActionChunk, PolicyStatus
from aegis_interfaces.srv import NewEpisode
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from aegis_policy.inference.remote import RemotePolicy
from aegis_policy.inference.robot_link import LOST, ServerLink
from aegis_ros.console_view import View
from aegis_ros.conversions import to_duration, to_seconds
from aegis_ros.operate import OperateError, Operator
from aegis_ros.parameters import CameraTopic
from aegis_ros.qos import LATCHED, RELIABLE
from aegis_ros.senses import decoder

LOOK = 0.02  # s of real time between two looks at what people say
REPORT = 0.1  # s between two reports
SILENCE = 1.0  # s without a word from the server: what was started from the console is taken back
UNCONFIRMED = 0.5  # s after which a stop ought to show in the policy node's status
PATIENCE = 2.0  # s for an answer, and for the arm to come to rest at the end
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
STOPPED = "from the console"
FIRST_SEED = 1001  # of new scenes; odd ones are those of evaluations


class ConsoleNode(Node):
    """See the file's docstring."""

    def __init__(self) -> None:
        super().__init__("console_node")
        self._server = self._declare("server", "http://127.0.0.1:8000", "address of `aegis serve`")
        self._driver = self._declare("node", "/policy_node", "the policy node")
        self._name = self._declare("name", "ROS robot", "what people read")
        self._time_limit = self._declare("time_limit", 60.0, "s of the robot's clock, of an instruction")
        self._autostart = self._declare(
            "autostart", False, "configure and activate the policy node if it is not active"
        )
        self._run = ActionClient(self, RunInstruction, f"{self._driver}/run_instruction")
        self._cancel = self.create_client(CancelGoal, f"{self._driver}/run_instruction/_action/cancel_goal")
        self._estop = self.create_client(Trigger, f"{self._driver}/estop")
        self._reset = self.create_client(Trigger, f"{self._driver}/reset")
        self._episodes = self.create_client(NewEpisode, "/sim_robot/new_episode")
        self._latched_at: float | None = None  # when people stopped it; until they release it
        self._given, self._ours = 0, 0  # instructions from the console, and which of them is under way, if any
        self._holding = self._scene_wanted = False
        self._note, self._seed = "", FIRST_SEED
        self._reported_at = 0.0

    def _declare(self, name: str, default: Any, description: str) -> Any:
        return self.declare_parameter(name, default, ParameterDescriptor(description=description, read_only=True)).value

    # -- attaching -----------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Ask the policy node what it hears, and the server what it serves; then join the two.

        Raises:
            OperateError: the policy node cannot be made ready; says why.
            ConnectionError: there is no policy server.
        """
        if self._autostart:
            operator = Operator(self._driver)
            operator.make_ready()
            operator.destroy_node()
        cameras, joints = self._heard_by_the_policy_node()
        policy = RemotePolicy(self._server)
        wanted = {camera: cameras[camera.name] for camera in policy.info.cameras if camera.name in cameras}
        decoders = {camera.name: decoder(camera, source.compressed) for camera, source in wanted.items()}
        self._view = View(policy.info, decoders, joints)
        policy.close()
        for camera, source in wanted.items():
            kind = CompressedImage if source.compressed else Image
            self.create_subscription(kind, source.topic, functools.partial(self._on_image, camera.name), NEWEST)
        self.create_subscription(JointState, "joint_states", self._on_joints, qos_profile_sensor_data)
        self.create_subscription(String, "instruction", self._on_instruction, LATCHED)
        self.create_subscription(PolicyStatus, f"{self._driver}/status", self._on_status, LATCHED)
        self.create_subscription(ActionChunk, f"{self._driver}/chunk", self._on_chunk, RELIABLE)
        self._described = self._view.description(self._name)
        self._link = ServerLink(self._server, self._described)
        self._link.open()
        self.create_timer(LOOK, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _heard_by_the_policy_node(self) -> tuple[dict[str, CameraTopic], list[str]]:
        """Its cameras and the arm's joints, once it is configured; and its clock becomes this node's."""
        client = AsyncParameterClient(self, self._driver)
        names, joints, simulated = self._asked(client, "cameras", "arm.joints", "use_sim_time")
        self.set_parameters([Parameter("use_sim_time", value=simulated)])
        topics = self._asked(client, *(f"camera.{name}.topic" for name in names))
        compressed = self._asked(client, *(f"camera.{name}.compressed" for name in names))
        return dict(zip(names, map(CameraTopic, topics, compressed), strict=True)), list(joints)

    def _asked(self, client: AsyncParameterClient, *names: str) -> list[Any]:
        """The policy node's parameters, as soon as it has them."""
        while True:
            if client.wait_for_services(PATIENCE):
                answer = client.get_parameters(list(names))
                rclpy.spin_until_future_complete(self, answer, timeout_sec=PATIENCE)
                if answer.done() and len(answer.result().values) == len(names):
                    return [rclpy.parameter.parameter_value_to_python(value) for value in answer.result().values]
            self.get_logger().info(f"waiting for {self._driver} to be configured", throttle_duration_sec=10.0)
            time.sleep(LOOK)

    # -- what comes from the robot -------------------------------------------------------------------------------

    def _on_image(self, camera: str, message: Image | CompressedImage) -> None:
        stamp, now = self._times(message)
        self._view.inputs.add_image(camera, stamp, now, message)

    def _on_joints(self, message: JointState) -> None:
        stamp, now = self._times(message)
        self._view.inputs.add_joints(message.name, message.position, stamp, now)

    def _times(self, message: Any) -> tuple[float, float]:
        """When it was stamped, and now, both by a clock that runs on when the robot's does not."""
        now = time.monotonic()
        return now - (self._robots_now() - to_seconds(message.header.stamp)), now

    def _robots_now(self) -> float:
        return self.get_clock().now().nanoseconds * 1e-9

    def _on_instruction(self, message: String) -> None:
        self._view.told = message.data

    def _on_status(self, message: PolicyStatus) -> None:
        self._view.hear(message, time.monotonic())

    def _on_chunk(self, message: ActionChunk) -> None:
        self._view.chunk = message

    # -- what people say -----------------------------------------------------------------------------------------

    def _look(self) -> None:
        while (command := self._link.command()) is not None:
            self._heed(command)
        now = time.monotonic()
        if self._ours and self._link.silence_s > SILENCE:
            self._hold("halted: nothing heard from the server")
        if now - self._reported_at >= REPORT:
            self._reported_at = now
            self._follow_up(now)
            self._report(now)

    def _heed(self, command: dict[str, Any]) -> None:
        if command is LOST:
            if self._ours:
                self._hold("halted: the link to the server is lost")
        elif "stop" in command:
            self._stop()
        elif "release" in command:
            self._latched_at, self._note = None, "the stop is released; nothing moves until it is started"
            self._call(self._reset, Trigger.Request(), "not released")
        elif "pause" in command:
            self._hold("paused")
        elif self._stopped() is not None:
            self.get_logger().warning(f"refused while stopped: {command}")
        elif "reset" in command:
            self._hold("")
            self._scene_wanted = True
        elif isinstance(instruction := command.get("start"), str) and instruction.strip():
            self._start(instruction)

    def _stop(self) -> None:
        """Press the policy node's emergency stop; the server says it again and again, for as long as it is to hold."""
        if self._latched_at is None:
            self._latched_at, self._note = time.monotonic(), "stopped"
            self.get_logger().warning("stopped from the console")
        self._ours, self._holding, self._scene_wanted = 0, False, False
        if self._view.status.state != PolicyStatus.STOPPED:
            self._call(self._estop, Trigger.Request(), "not stopped")

    def _stopped(self) -> str | None:
        if self._latched_at is not None:
            return STOPPED
        status = self._view.status
        return status.message if status.state == PolicyStatus.STOPPED else None

    def _start(self, instruction: str) -> None:
        self._holding = self._scene_wanted = False
        if not self._run.server_is_ready():
            self._note = f"not started: {self._driver} is not there"
            return
        self._given += 1
        self._ours, self._note = self._given, ""
        goal = RunInstruction.Goal(instruction=instruction, time_limit=to_duration(self._time_limit))
        sent = self._run.send_goal_async(goal)
        sent.add_done_callback(functools.partial(self._on_answer, self._given))

    def _on_answer(self, given: int, sent: Future) -> None:
        handle = sent.result()
        if not handle.accepted:
            self._end(given, f"{self._driver} refused: {self._view.status.message or 'see its log'}")
            return
        if given != self._ours:  # it was taken back before it was accepted
            handle.cancel_goal_async()
        handle.get_result_async().add_done_callback(lambda ended: self._end(given, ended.result().result.message))

    def _end(self, given: int, why: str) -> None:
        if given == self._ours:
            self._ours, self._note = 0, why

    def _hold(self, note: str) -> None:
        """End whatever is carried out, whoever gave it."""
        self._ours, self._scene_wanted, self._holding, self._note = 0, False, True, note
        self._cancel_all()

    def _cancel_all(self) -> None:
        if self._cancel.service_is_ready():
            self._cancel.call_async(CancelGoal.Request())  # of no goal in particular: of all

    def _call(self, client: Any, request: Any, failed: str) -> None:
        """Have it done; why it was not, if so, is noted."""

        def answered(future: Future) -> None:
            if not future.result().success:
                self._note = f"{failed}: {future.result().message}"

        if client.service_is_ready():
            client.call_async(request).add_done_callback(answered)
        elif self._view.status.state != PolicyStatus.INACTIVE:
            self._note = f"{failed}: nobody answers to {client.srv_name}"

    # -- time and again ------------------------------------------------------------------------------------------

    def _follow_up(self, now: float) -> None:
        """What takes longer than a moment: until the arm holds, and then the new scene."""
        if self._view.running(now):
            if self._holding:
                self._cancel_all()
            return
        self._holding = False
        if self._scene_wanted:
            self._scene_wanted = False
            self._new_scene()

    def _new_scene(self) -> None:
        if not self._episodes.service_is_ready():
            self._note = "this robot has no scenes to set up anew"
            return
        self._note = "new scene"
        self._call(self._episodes, NewEpisode.Request(seed=self._seed), "no new scene")
        self._seed += 2

    def _report(self, now: float) -> None:
        description = self._view.description(self._name)
        if description != self._described:
            self._described = description
            self._link.describe(description)
        note = self._note or self._view.status.message
        unconfirmed = self._latched_at is not None and now - self._latched_at > UNCONFIRMED
        if unconfirmed and self._view.status.state not in (PolicyStatus.STOPPED, PolicyStatus.INACTIVE):
            note = f"THE STOP HAS NOT REACHED {self._driver}: use the robot's own"
        self._link.report(self._view.report(now, self._robots_now(), self._stopped(), note))

    def end(self) -> None:
        """Take back what was started from here, and leave."""
        if not hasattr(self, "_link"):
            return
        if self._ours:
            self._hold("the console node ends")
            until = time.monotonic() + PATIENCE
            while self._view.running(time.monotonic()) and time.monotonic() < until:
                rclpy.spin_once(self, timeout_sec=LOOK)
        self._link.close()


def main() -> None:
    """Run until told to end, by Ctrl-C or SIGTERM; what was started from the console ends first."""
    # ROS's own signal handlers would end the clients before the goal is canceled.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    node = ConsoleNode()
    try:
        node.attach()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # how one ends it
    except (OperateError, ConnectionError) as error:
        raise SystemExit(f"console_node: {error}") from error
    finally:
        node.end()
        node.destroy_node()
        rclpy.try_shutdown()
