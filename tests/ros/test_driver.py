"""Whatever fails, the arm stops inside its limits and in time, says why, and moves again only when told to."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")
pytest.importorskip("pink", reason="the extra `ros` is not installed")

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aegis_policy.control import Asynchronous, RealTime, Scheduler, State, Synchronous
from aegis_ros.driver import Reason
from tests.ros.virtual import FIRST_CHUNK, GATES, LIMIT, PERIOD, SPEED, TIMEOUTS, World

BRAKING = 0.3  # s, from 0.3 rad/s to standstill with these limits
PHASES = np.linspace(0.0, 0.48, 5)  # s, later and later in the course of a chunk


def assert_inside(world: World) -> None:
    """All that was sent is within the limits of speed and acceleration."""
    times = np.array([sent.now for sent in world.sent])
    speeds = np.array([sent.velocities for sent in world.sent])
    places = np.array([sent.positions for sent in world.sent])
    assert (np.abs(speeds) <= LIMIT.velocity + 1e-9).all()
    together = np.isclose(np.diff(times), PERIOD)
    assert (np.abs(np.diff(speeds, axis=0)[together]) <= LIMIT.acceleration * PERIOD + 1e-6).all()
    assert (np.abs(np.diff(places, axis=0)) <= LIMIT.velocity * PERIOD + 1e-6).all()


def freeze_camera(world: World) -> None:
    world.camera_on = False


def delay_camera(world: World) -> None:
    world.camera_lag = 0.7


def silence_joints(world: World) -> None:
    world.joints_on = False


def rename_joints(world: World) -> None:
    world.names = ("shoulder", "wrist")


def jump_back(world: World) -> None:
    world.skew -= 5.0


def jump_forward(world: World) -> None:
    world.skew += 3.0


def stall(world: World) -> None:
    world.now += 0.4


def spoil_with_nan(world: World) -> None:
    world.policy.spoil = lambda actions: actions * np.nan


def spoil_with_width(world: World) -> None:
    world.policy.spoil = lambda actions: actions[:, :2]


def spoil_with_jump(world: World) -> None:
    world.policy.spoil = lambda actions: actions + [0.0, 0.5, 0.0]


def spoil_with_error(world: World) -> None:
    def fail(actions: np.ndarray) -> np.ndarray:
        raise ConnectionError("the server is gone")

    world.policy.spoil = fail


def slow_policy(world: World) -> None:
    world.policy.delay = 4.0


def push_arm(world: World) -> None:
    world.push = 0.3


AT_ONCE = 2 * PERIOD
ONE_CHUNK = 0.6  # s: the next chunk is asked for by then
FAULTS: list[tuple[Callable[[World], None], Reason, str, float]] = [
    # what fails, what the instruction ends with, its message, s until it can be noticed and braking begins
    (freeze_camera, Reason.STALE_INPUT, "camera 'front': nothing new for 0.5", GATES.image_age + AT_ONCE),
    (delay_camera, Reason.STALE_INPUT, "camera 'front': ", GATES.image_age + AT_ONCE),
    (silence_joints, Reason.STALE_INPUT, "joint states of the arm: nothing new for 0.1", GATES.joint_age + AT_ONCE),
    (rename_joints, Reason.STALE_INPUT, "joint states of the arm: nothing new for 0.1", GATES.joint_age + AT_ONCE),
    (jump_back, Reason.FAULT, "clock: went back by 4.98 s", AT_ONCE),
    (jump_forward, Reason.FAULT, "tick: 3.02 s after the last (late, or the clock jumped)", AT_ONCE),
    (stall, Reason.FAULT, "tick: 0.42 s after the last", AT_ONCE),
    (spoil_with_nan, Reason.POLICY_ERROR, "action 0 of 'shoulder' is nan", ONE_CHUNK + AT_ONCE),
    (spoil_with_width, Reason.POLICY_ERROR, "policy: ", ONE_CHUNK + AT_ONCE),
    (spoil_with_jump, Reason.LIMIT, "'elbow' is 0.5", TIMEOUTS.chunk + AT_ONCE),
    (spoil_with_error, Reason.POLICY_ERROR, "ConnectionError: the server is gone", ONE_CHUNK + AT_ONCE),
    (slow_policy, Reason.POLICY_ERROR, "the policy was too late", TIMEOUTS.chunk + AT_ONCE),
    (push_arm, Reason.LIMIT, "following: 'shoulder' is 0.3", AT_ONCE),
]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("fail", "reason", "message", "noticed"), FAULTS, ids=lambda fault: getattr(fault, "__name__", "")
)
def test_a_fault_stops_the_arm_inside_its_limits_and_in_time(
    fail: Callable[[World], None], reason: Reason, message: str, noticed: float, phase: float
) -> None:
    world = World()
    world.moving()
    world.run(phase)
    fail(world)
    broken = world.now
    world.run_until(lambda: world.endings)
    ending = world.endings[0]
    assert ending.reason is reason and message in ending.message, ending
    moved = [sent for sent in world.sent if sent.now > broken and np.abs(sent.velocities).max() > 1e-6]
    last = moved[-1].now if moved else broken
    assert last <= broken + noticed + BRAKING, (last - broken, ending)
    assert_inside(world)
    assert world.driver.trouble == ending.message
    sent = len(world.sent)
    world.run(2.0)
    assert len(world.sent) == sent, "nothing is sent until the next instruction"


@pytest.mark.parametrize("delay", np.linspace(0.06, 0.18, 7))
def test_a_chunk_that_comes_while_the_arm_brakes_does_not_hide_why_it_does(delay: float) -> None:
    world = World(timeouts=replace(TIMEOUTS, chunk=0.8))
    world.moving()
    spoil_with_jump(world)
    world.policy.delay = delay
    world.run_until(lambda: world.endings)
    assert world.endings[0].reason is Reason.LIMIT and "'elbow' is 0." in world.endings[0].message, world.endings[0]


def mend(world: World) -> None:
    world.camera_on = world.joints_on = True
    world.camera_lag, world.names, world.push = World.camera_lag, World.names, 0.0
    world.policy.spoil, world.policy.delay = lambda actions: actions, 0.0


@pytest.mark.parametrize("fail", [fault[0] for fault in FAULTS], ids=lambda fail: fail.__name__)
def test_once_mended_it_takes_the_next_instruction_and_no_other_step(fail: Callable[[World], None]) -> None:
    world = World()
    world.moving()
    fail(world)
    world.run_until(lambda: world.endings)
    assert world.driver.state is State.IDLE and world.driver.instruction == ""
    mend(world)
    world.run(3.0)
    before = len(world.sent)
    world.moving()
    assert len(world.sent) > before and world.driver.trouble == ""
    assert_inside(world)


def test_nothing_begins_while_something_is_stale() -> None:
    world = World()
    world.run(1.0)
    freeze_camera(world)
    world.run(1.0)
    world.begin()
    world.run(1.0)
    assert world.endings[0].reason is Reason.STALE_INPUT and not world.sent


def test_without_a_first_chunk_in_time_it_ends() -> None:
    world = World()
    world.run(1.0)
    spoil_with_jump(world)
    world.begin()
    began = world.now
    world.run_until(lambda: world.endings)
    assert world.endings[0].reason is Reason.POLICY_ERROR and "no actions within 1 s" in world.endings[0].message
    assert world.now - began <= FIRST_CHUNK + 3 * PERIOD and not world.sent


@pytest.mark.parametrize("phase", PHASES)
def test_an_instruction_ends_when_its_time_is_up_or_its_client_says_so(phase: float) -> None:
    world = World()
    world.run(0.5)
    world.begin(limit=2.0 + phase)
    world.run_until(lambda: world.endings)
    job = world.moving()
    world.run(phase)
    world.driver.end(job, Reason.CANCELED, "canceled")
    canceled = world.now
    world.run_until(lambda: len(world.endings) == 2)
    timed, ended = world.endings
    assert timed.reason is Reason.TIME_LIMIT and timed.duration == pytest.approx(2.0 + phase, abs=BRAKING + AT_ONCE)
    assert ended.reason is Reason.CANCELED and world.now - canceled <= BRAKING + AT_ONCE
    assert np.abs(world.sent[-1].velocities).max() < 1e-6
    assert_inside(world)


@pytest.mark.parametrize("phase", PHASES)
def test_of_three_instructions_at_once_the_last_is_carried_out_after_standstill(phase: float) -> None:
    world = World()
    world.moving()
    world.run(phase)
    world.begin()
    world.begin()
    world.run_until(lambda: len(world.endings) == 2)
    assert [ending.reason for ending in world.endings] == [Reason.PREEMPTED] * 2
    assert "before it began" in world.endings[0].message
    assert np.abs(world.sent[-1].velocities).max() < 1e-6
    world.run(2.0)
    assert len(world.endings) == 2 and np.abs(world.sent[-1].velocities).min() > 0.2
    assert_inside(world)


def test_the_emergency_stop_silences_at_once_and_outlasts_instructions_until_it_is_reset() -> None:
    world = World()
    world.moving()
    sent = len(world.sent)
    world.driver.estop("the red button")
    world.begin()
    world.run(2.0)
    assert len(world.sent) == sent
    assert [(ending.reason, ending.message) for ending in world.endings] == [(Reason.STOPPED, "the red button")] * 2
    assert world.driver.state is State.ESTOP and world.driver.trouble == "the red button"
    world.driver.reset()
    world.run(1.0)
    assert len(world.sent) == sent, "a reset moves nothing"
    world.moving()
    assert_inside(world)


def test_a_command_that_cannot_be_sent_stops_the_arm_until_it_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.moving()

    def refuse(*_: object) -> None:
        raise OSError("no wire")

    monkeypatch.setattr(world.driver, "_send", refuse)
    world.run(0.1)
    assert world.endings[0].reason is Reason.FAULT and "OSError: no wire" in world.endings[0].message
    assert world.driver.state is State.ESTOP


@pytest.mark.parametrize("latency", [0.06, 0.14, 0.26])
def test_in_real_time_a_policy_goes_on_from_what_is_carried_out_meanwhile(latency: float) -> None:
    """The policy takes its place from what is pending, whatever it sees: at an even pace, there is no seam."""
    world = World(scheduler=RealTime(4))
    world.policy.delay = latency
    world.run(0.5)
    world.begin()
    until = world.now + 6.0
    world.run_until(lambda: world.now >= until)
    first, *others = world.policy.told
    assert first is None and len(others) > 8
    assert all(pending is not None and pending.actions.dtype == np.float32 for pending in others)
    enough = int(np.ceil((latency + world.camera_lag) / 0.1))
    assert all(enough - 1 <= pending.delay <= enough + 2 for pending in others[5:])
    speeds = np.array([sent.velocities for sent in world.sent if sent.now > world.now - 4.0])
    np.testing.assert_allclose(speeds, SPEED, atol=0.01)
    assert world.driver.followed is not None
    assert world.driver.followed.start <= world.now < world.driver.followed.start + 1.0
    assert world.driver.followed.most == 10
    assert_inside(world)


@pytest.mark.parametrize("lag", [0.02, 0.15, 0.3, 0.4])
def test_who_stands_between_chunks_acts_on_what_was_seen_there_however_late_the_camera(lag: float) -> None:
    """A picture from on the way would have the next chunk go once more what the arm has gone since."""
    timeouts = replace(TIMEOUTS, chunk=3.0)
    world, off = World(timeouts=timeouts, scheduler=Synchronous(5), camera_lag=lag), list[np.ndarray]()

    def look(actions: np.ndarray) -> np.ndarray:
        off.append(actions[0, :2] - 0.1 * SPEED - world.sent[-1].positions if world.sent else np.zeros(2))
        return actions

    world.policy.spoil = look
    world.run(1.0)
    world.begin()
    world.run(8.0)
    assert len(off) > 5 and not world.endings
    np.testing.assert_allclose(off, 0.0, atol=1e-3)


@pytest.mark.parametrize(("scheduler", "delay"), [(Synchronous(5), 0.3), (Asynchronous(5), 0.1), (RealTime(4), 0.14)])
def test_steps_are_actions_that_were_carried_out_and_not_time(scheduler: Scheduler, delay: float) -> None:
    world = World(scheduler=scheduler)
    world.policy.delay = delay
    world.run(1.0)
    world.begin()
    world.run(6.0)
    moved = world.sent[-1].positions[0] - world.sent[0].positions[0]
    assert world.driver.progress(world.clock).steps == pytest.approx(moved / (0.1 * SPEED), abs=3)


def test_what_kept_the_policy_from_seeing_is_named_and_not_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    world, apart = World(), "images and joint states lie 0.200 s apart, limit 0.12 s"
    world.moving()
    monkeypatch.setattr(world.inputs, "view", lambda: apart)
    world.run_until(lambda: world.endings)
    world.begin()
    world.run_until(lambda: len(world.endings) == 2)
    for ending, begins in zip(world.endings, ("chunk: stale", "no actions within 1 s"), strict=True):
        assert ending.reason is Reason.STALE_INPUT and ending.message.startswith(begins)
        assert ending.message.endswith(apart)
