"""Everything between a robot and a policy, put together and checked before anything may move."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.lifecycle import LifecycleNode

from aegis_policy import Policy
from aegis_policy.control import ActionSpace, Controller, Limits, Timeouts, read_limits
from aegis_policy.hand import Hand
from aegis_policy.inference.load import load_policy
from aegis_policy.inference.remote import RemotePolicy
from aegis_ros.answers import Turns
from aegis_ros.arm import Arm, MismatchError, Translator
from aegis_ros.driver import Driver
from aegis_ros.inputs import Gates, Inputs
from aegis_ros.outputs import ArrayOutput, Output, TrajectoryOutput, TwistOutput
from aegis_ros.parameters import (
    OUTPUTS,
    ParameterError,
    given_limits,
    read,
    read_cameras,
    read_optional,
    read_scheduler,
)
from aegis_ros.senses import Senses, decoder


@dataclass(frozen=True)
class Parts:
    """What is there while the node is configured."""

    policy: Policy
    turns: Turns
    inputs: Inputs
    senses: Senses
    arm: Arm
    output: Output
    driver: Driver


def assemble(
    node: LifecycleNode,
    send: Callable[[Any, float | None], None],
    broken: Callable[[str], None],
    stop: Callable[[str], None],
    reset: Callable[[], None],
) -> Parts:
    """Load the policy, wait for what the robot sends, and see that the two fit.

    Args:
        node: whose parameters say how.
        send: see `Driver`.
        broken, stop, reset: see `Senses`.

    Raises:
        ValueError, RuntimeError, OSError: a parameter, the policy or the robot is not as it has to be; says which.
    """
    cameras = read_cameras(node)
    policy = load_policy(read(node, "policy") or None)
    if missing := [camera.name for camera in policy.info.cameras if camera.name not in cameras]:
        raise MismatchError(
            f"the policy wants camera {', '.join(missing)}; parameter 'cameras' has {', '.join(cameras)}"
        )
    wanted = {camera.name: cameras[camera.name] for camera in policy.info.cameras}
    gates = Gates(
        image_age=read(node, "timeouts.images"),
        joint_age=read(node, "timeouts.joints"),
        skew=read(node, "timeouts.skew"),
        ahead=read(node, "timeouts.ahead"),
    )
    decoders = {camera.name: decoder(camera, wanted[camera.name].compressed) for camera in policy.info.cameras}
    hand = _hand(node)
    joints = read(node, "arm.joints")
    inputs = Inputs(decoders, joints, hand.joints, gates)
    senses = Senses(node, inputs, wanted, stop, reset, broken)
    try:
        _wait(senses, inputs, read(node, "timeouts.start"))
        assert senses.description is not None
        arm = Arm(
            senses.description, joints, read(node, "arm.base"), read(node, "arm.tip"), read(node, "arm.home"), hand
        )
        turns = Turns(needed=not isinstance(policy, RemotePolicy))
        output, driver = _driver(node, policy, arm, inputs, turns, send)
    except BaseException:
        senses.close()
        raise
    return Parts(policy, turns, inputs, senses, arm, output, driver)


def _hand(node: LifecycleNode) -> Hand:
    joints = tuple(read_optional(node, "gripper.joints", ()))
    return Hand(
        joints,
        scale=read(node, "gripper.scale"),
        offset=read(node, "gripper.offset"),
        open=read(node, "gripper.open"),
        closed=read(node, "gripper.closed"),
    )


def _driver(
    node: LifecycleNode,
    policy: Policy,
    arm: Arm,
    inputs: Inputs,
    turns: Turns,
    send: Callable[[Any, float | None], None],
) -> tuple[Output, Driver]:
    info = policy.info
    shares = read(node, "displacements.translation"), read(node, "displacements.rotation")
    translator = Translator(arm, info, *shares)
    joints = inputs.joints()
    assert joints is not None
    translator.state(joints.positions, joints.fingers)
    if isinstance(view := inputs.view(), str):
        raise MismatchError(f"no observation: {view}")
    space = ActionSpace(info)
    limits = read_limits(space, given_limits(node, [feature.name for feature in info.actions]))
    translator.check(limits)
    timeouts = Timeouts(
        tick=read(node, "timeouts.tick"),
        state=read(node, "timeouts.joints"),
        chunk=read(node, "timeouts.chunk"),
        ahead=read(node, "timeouts.ahead"),
    )
    controller = Controller(info, limits, read_scheduler(node), timeouts, read(node, "rate"))
    first_chunk = read(node, "timeouts.first_chunk")
    output = _output(node, translator, limits)
    driver = Driver(
        translator,
        controller,
        inputs,
        output,
        policy,
        turns,
        send,
        latest_tick=timeouts.tick,
        first_chunk=first_chunk,
    )
    return output, driver


def _output(node: LifecycleNode, translator: Translator, limits: Limits) -> Output:
    name, following = read(node, "arm.output"), read(node, "arm.following")
    if name == "trajectory":
        return TrajectoryOutput(translator, following, _coasting(node), read(node, "arm.braking"))
    if name == "array":
        return ArrayOutput(translator, following)
    if name == "twist":
        return TwistOutput(translator, limits, following, read(node, "arm.gain"))
    raise ParameterError(f"parameter 'arm.output' is '{name}': expected one of {', '.join(OUTPUTS)}")


def _coasting(node: LifecycleNode) -> float:
    """s, for which a trajectory reaches on: if the next command comes later, the arm brakes, and is torn on by it."""
    coasting, rate, tick = (read(node, name) for name in ("arm.coasting", "rate", "timeouts.tick"))
    if coasting < 1 / rate:
        raise ParameterError(
            f"parameter 'arm.coasting' is {coasting:g} s, and with a 'rate' of {rate:g} commands come every "
            f"{1 / rate:g} s: the arm would brake before each; choose a longer one, or a higher rate"
        )
    if coasting < tick:
        node.get_logger().warning(
            f"a command may be {tick:g} s late by 'timeouts.tick', and after 'arm.coasting', {coasting:g} s, the arm "
            "brakes and is then torn on: on a real arm, make them the same"
        )
    return coasting


def _wait(senses: Senses, inputs: Inputs, limit: float) -> None:
    """Until everything has come once.

    Raises:
        MismatchError: something has not come within `limit` (s); says what.
    """
    until = time.monotonic() + limit
    while True:
        missing = inputs.missing() + ([] if senses.description else ["no robot_description"])
        if senses.get_parameter("use_sim_time").value and senses.seconds() == 0.0:
            missing.append("no /clock, though use_sim_time is set")
        if not missing:
            return
        if time.monotonic() > until:
            raise MismatchError(f"waited {limit:g} s: {'; '.join(missing)}")
        time.sleep(0.05)
