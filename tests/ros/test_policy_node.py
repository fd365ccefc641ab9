"""A policy drives the simulated arm by topics alone, answers meanwhile, and stops when it is told to.

Two nodes in two processes; the simulation runs at a fifth of real time, so that a busy machine can keep up.
"""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

from collections.abc import Iterator
from functools import partial

import numpy as np
from aegis_interfaces.action import RunInstruction
from aegis_interfaces.msg import PolicyStatus

from aegis_policy import Policy
from aegis_policy.inference.load import load_policy
from aegis_ros.conversions import to_seconds
from aegis_sim.env import ArmEnv
from aegis_sim.results import Episode
from aegis_sim.rollout import run_episodes
from aegis_sim.tasks import make
from tests.ros.driving import Operator, PolicyProcess
from tests.ros.robot import Robot, begin

pytestmark = pytest.mark.sim

SEEDS = range(201, 221, 2)  # of evaluation episodes, on none of which a setting was chosen
LIMIT = 12.0  # s
RATE = "rate:=0.2"
REASON = RunInstruction.Result


@pytest.fixture(scope="module")
def operator() -> Iterator[Operator]:
    with Robot("-p", "seed:=1", "-p", RATE), PolicyProcess() as policy:
        operating = Operator()
        operating.wait_for(lambda: operating.images["front"], "the robot")
        operating.start()
        yield operating
        operating.destroy_node()
        assert "Traceback" not in policy.log(), policy.log()


def set_off(operator: Operator, seed: int = 5, limit: float = 20.0):
    """A new episode and an instruction, with which the arm is moving."""
    instruction = begin(operator, seed).instruction
    operator.wait(0.3)
    handle = operator.instruct(instruction, limit)
    operator.wait_for(operator.moving, "the arm to move")
    return handle


def speeds_from(operator: Operator, instant: float) -> tuple[np.ndarray, np.ndarray]:
    """Times and the fastest joint's speed, rad/s, from `instant` on."""
    states = [state for state in operator.states if to_seconds(state.header.stamp) >= instant]
    times = np.array([to_seconds(state.header.stamp) for state in states])
    return times, np.abs([state.velocity[:7] for state in states]).max(axis=1)


@pytest.mark.parametrize(("count", "short"), [(4, 1), pytest.param(10, 2, marks=pytest.mark.slow)])
def test_it_picks_up_what_it_is_told_to_as_often_as_in_one_process(operator: Operator, count: int, short: int) -> None:
    lifted, seeds = [], SEEDS[:count]
    for seed in seeds:
        handle = set_off(operator, seed)
        began = operator.now()
        while not operator.succeeded() and operator.now() - began < LIMIT:
            operator.wait(0.2)
        lifted.append(operator.succeeded())
        handle.cancel_goal_async()
        ended = operator.outcome(handle)
        assert ended.reason == REASON.CANCELED, ended.message
        assert ended.executed_steps > 10
        assert 0 <= operator.last_report().latency < 1.0  # 0: the simulation's clock has not moved on meanwhile
    policy, env = load_policy(), make("pick")
    alone = [episode.rollout.success for episode in map(partial(play, policy, env), seeds) if episode.rollout]
    env.close()
    assert sum(lifted) >= sum(alone) - short, (lifted, alone)  # here no two runs are alike
    joints = {tuple(command.joint_names) for command in operator.commands}
    assert joints == {tuple(f"panda_joint{i}" for i in range(1, 8))}
    assert not any(speed for command in operator.commands for speed in command.points[-1].velocities)


def play(policy: Policy, env: ArmEnv, seed: int) -> Episode:
    """The episode with everything in this process."""
    return run_episodes(policy, [env], [seed], questions_asked=False)[0]


def test_it_answers_while_it_moves(operator: Operator) -> None:
    handle = set_off(operator)
    answer = operator.ask("what color is the object?")
    assert answer.success and answer.answer.strip(), answer.message
    assert operator.last_report().state == PolicyStatus.RUNNING
    streamed, parts = operator.ask_aloud("how many objects are there?", "front")
    assert streamed.success and streamed.answer and set(parts) <= {streamed.answer[: len(part)] for part in parts}
    assert operator.moving()
    handle.cancel_goal_async()
    assert operator.outcome(handle).reason == REASON.CANCELED


def test_an_emergency_stop_silences_it_at_once_and_latches(operator: Operator) -> None:
    handle = set_off(operator)
    pressed = operator.now()
    assert operator.button("estop").success
    ended = operator.outcome(handle)
    assert (ended.reason, ended.message) == (REASON.STOPPED, "emergency stop: asked for")
    operator.wait(0.2)  # what was on its way has come
    operator.commands.clear()
    operator.wait(1.0)
    assert not operator.commands
    times, speeds = speeds_from(operator, pressed)
    assert speeds.max() > 0.1 and speeds[times > pressed + 0.8].max() < 0.02
    assert operator.wait_for_state(PolicyStatus.STOPPED).message == "emergency stop: asked for"
    assert operator.instruct("pick up the red cube", 5.0) is None
    assert operator.button("reset").success
    operator.wait_for_state(PolicyStatus.IDLE)
    operator.wait(0.5)
    assert not operator.commands and not operator.moving()


def test_a_new_instruction_takes_over_and_time_runs_out(operator: Operator) -> None:
    first = set_off(operator)
    second = operator.instruct("pick up the red ball", 1.5)
    assert operator.outcome(first).reason == REASON.PREEMPTED
    ended = operator.outcome(second)
    assert (ended.reason, ended.message) == (REASON.TIME_LIMIT, "the time is up: 1.5 s")
    assert 1.5 <= to_seconds(ended.duration) < 2.5
    operator.wait(0.2)
    assert not operator.moving() and operator.wait_for_state(PolicyStatus.IDLE).instruction == ""


def test_it_comes_to_rest_before_it_is_inactive_and_then_commands_nothing(operator: Operator) -> None:
    handle = set_off(operator)
    told = operator.now()
    assert operator.change("deactivate")
    rest = operator.now()
    assert operator.outcome(handle).reason == REASON.STOPPED
    operator.wait(0.5)
    operator.commands.clear()
    times, speeds = speeds_from(operator, told)
    assert speeds.max() > 0.1 and speeds[times > rest + 0.2].max() < 0.02
    assert np.abs(np.diff(speeds) / np.diff(times)).max() < 40.0  # rad/s²; to stop dead within one tick is hundreds
    assert operator.instruct("pick up the red cube", 5.0) is None
    operator.wait(0.3)
    assert not operator.commands
    operator.wait_for_state(PolicyStatus.INACTIVE)
    assert operator.change("activate")
    operator.wait_for_state(PolicyStatus.IDLE)
