"""A simulated Panda follows joint trajectories closely enough that what was done with the gripper can be done again."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_sim.joints import FINGER_TRAVEL, JointServo
from aegis_sim.tasks import expert, make

pytestmark = pytest.mark.sim
TURN = np.array([0.3, -0.2, 0.2, 0.3, -0.2, 0.3, 0.4])  # rad


@pytest.mark.parametrize("task", ["pick", "lift"])
def test_the_arm_is_where_a_smooth_motion_has_it(task: str) -> None:
    env = make(task)
    env.reset(seed=1)
    servo = JointServo(env.arm)
    start = servo.positions()[:7]
    s = np.arange(servo.period, 1.0, servo.period)[:, None]  # one second from rest to rest
    places, speeds = start + (3 * s**2 - 2 * s**3) * TURN, (6 * s - 6 * s**2) * TURN
    errors = []
    for place, speed in zip(places, speeds, strict=True):
        servo.follow(place[None], speed[None], FINGER_TRAVEL)
        errors.append(np.abs(servo.positions()[:7] - place).max())
    assert max(errors) < 0.02
    rest = round(0.5 / servo.period)
    servo.follow(np.tile(start + TURN, (rest, 1)), np.zeros((rest, 7)), FINGER_TRAVEL)
    assert np.abs(servo.positions()[:7] - start - TURN).max() < 0.001
    assert np.abs(servo.velocities()[:7]).max() < 0.01
    env.close()


def test_the_fingers_close_and_open_in_mirror_image() -> None:
    env = make("lift")
    env.reset(seed=1)
    servo = JointServo(env.arm)
    here, rest = servo.positions()[:7], round(1.0 / servo.period)
    for target in (0.0, FINGER_TRAVEL):
        servo.follow(np.tile(here, (rest, 1)), np.zeros((rest, 7)), target)
        assert servo.positions()[7:] == pytest.approx([target, target], abs=0.003)
    env.close()


def test_what_the_expert_did_can_be_done_again_by_its_joints_alone() -> None:
    env = make("pick", cameras=())
    env.reset(seed=1)
    driver = expert(env)
    servo = JointServo(env.arm)
    first, done, path = servo.positions()[:7], [], []
    while not env.success:
        done.append(driver.act())
        env.step(done[-1])
        path.append((servo.positions()[:7], servo.velocities()[:7]))
    env.reset(seed=1)
    assert np.array_equal(servo.positions()[:7], first)
    steps = round(1 / env.control_hz / servo.period)
    before = first
    for action, (place, speed) in zip(done, path, strict=True):
        between = before + np.linspace(0, 1, steps + 1)[1:, None] * (place - before)
        servo.follow(between, np.tile(speed, (steps, 1)), 0.0 if action[6] >= 0.5 else FINGER_TRAVEL)
        env.count(action)
        before = place
    assert env.success
    env.close()


def test_only_a_panda_is_driven_by_its_joints() -> None:
    env = make("lift", robot="IIWA")
    with pytest.raises(ValueError, match="only a Panda"):
        JointServo(env.arm)
    env.close()
