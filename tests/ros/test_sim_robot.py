"""`sim_robot_node` is a robot to whoever talks to it: it shows, moves, refuses, starts anew and comes back."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 sourced; `make test-ros` brings one")

import xml.etree.ElementTree as ElementTree

import numpy as np
from std_srvs.srv import Trigger

from aegis_ros.conversions import to_seconds
from aegis_sim.joints import FINGER_TRAVEL, JointServo
from aegis_sim.tasks import expert, make
from tests.ros.robot import ARM, TURN, Robot, Watcher, begin, first_moment, trajectory

pytestmark = pytest.mark.sim


def test_sensors_are_of_one_clock(watcher: Watcher) -> None:
    watcher.wait(1.0)
    states = [to_seconds(state.header.stamp) for state in watcher.states]
    assert (np.diff(states) > 0).all() and (np.diff(watcher.clock) > 0).all()
    assert set(watcher.clock[1:-1]) <= set(states) | {states[0] - 0.02}
    for name, images in watcher.images.items():
        stamps = [to_seconds(image.header.stamp) for image in images]
        assert np.diff(stamps) == pytest.approx(0.1), name  # the tabletop's control rate
        assert {stamp for stamp in stamps if states[0] <= stamp <= states[-1]} <= set(states)
    state, image = watcher.states[-1], watcher.images["wrist"][-1]
    assert list(state.name) == [*ARM, "panda_finger_joint1", "panda_finger_joint2"]
    assert len(state.position) == len(state.velocity) == 9
    assert (image.encoding, image.height, image.width, image.header.frame_id) == ("rgb8", 96, 96, "wrist_camera")


def test_the_arm_follows_a_trajectory_and_holds_its_end(watcher: Watcher) -> None:
    start = watcher.arm()
    watcher.send(trajectory([0.5, 1.0], [start + TURN / 2, start + TURN], [1.5 * TURN, 0 * TURN]))
    watcher.wait(1.5)
    assert watcher.arm() == pytest.approx(start + TURN, abs=0.005)
    held = watcher.arm()
    watcher.wait(0.5)
    assert watcher.arm() == pytest.approx(held, abs=0.002)


def test_positions_alone_are_gone_to_at_once_and_held(watcher: Watcher) -> None:
    there = watcher.arm() + TURN / 10
    watcher.move_joints(there.tolist())
    watcher.wait(0.4)
    assert watcher.arm() == pytest.approx(there, abs=0.002)
    watcher.wait(0.5)
    assert watcher.arm() == pytest.approx(there, abs=0.002)


def test_the_hand_is_told_apart_from_the_arm(watcher: Watcher) -> None:
    here = watcher.arm()
    for target in (0.0, FINGER_TRAVEL):
        watcher.move_fingers(target)
        watcher.wait(1.5)
        assert watcher.fingers() == pytest.approx([target, target], abs=0.003)
    assert watcher.arm() == pytest.approx(here, abs=0.002)


def test_nonsense_is_refused_aloud_and_moves_nothing(robot: Robot, watcher: Watcher) -> None:
    here = watcher.arm()
    watcher.send(trajectory([0.2], [here + TURN], joints=[*ARM[:6], "elbow"]))
    watcher.send(trajectory([0.2], [here * np.nan]))
    watcher.move_joints([0.0] * 6)
    watcher.move_fingers(0.0, 0.0)
    watcher.wait(0.8)
    assert watcher.arm() == pytest.approx(here, abs=0.002)
    assert "refused a trajectory: joint names unknown: elbow; missing: panda_joint7" in robot.log()
    assert "refused a trajectory: positions of point 0" in robot.log()
    assert "refused: arm command [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]: expected 7 finite numbers" in robot.log()
    assert "refused: gripper command [0.0, 0.0]" in robot.log()


def test_a_seed_is_one_episode(watcher: Watcher) -> None:
    once = first_moment(watcher, 7)
    watcher.send(trajectory([0.3], [watcher.arm() + TURN]))
    watcher.wait(0.4)
    other = first_moment(watcher, 8)
    again = first_moment(watcher, 7)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[0], other[0]) and not np.array_equal(once[2], other[2])
    env = make("pick")
    observation, info = env.reset(seed=7)
    assert np.array_equal(once[0], observation["images"]["front"])
    assert begin(watcher, 7).instruction == info["instruction"]
    env.close()


def test_a_task_and_a_split_can_be_chosen_and_what_is_latched_is_found_later(watcher: Watcher) -> None:
    plain, moved = first_moment(watcher, 3, task="place-on"), first_moment(watcher, 3, split="moved-camera")
    assert not np.array_equal(plain[0], moved[0]) and np.array_equal(plain[2], moved[2])
    instruction = begin(watcher, 3, split="moved-camera").instruction
    assert instruction.startswith("place the ") and watcher.latched("/instruction") == instruction
    described = {joint.get("name") for joint in ElementTree.fromstring(watcher.latched("/robot_description"))}
    assert described >= set(watcher.states[-1].name)


@pytest.mark.parametrize(
    ("fields", "reason"), [({"task": "fly"}, "task 'fly': expected one of"), ({"split": "moon"}, "split 'moon'")]
)
def test_an_unknown_episode_is_refused_and_the_old_one_goes_on(watcher: Watcher, fields: dict, reason: str) -> None:
    response = begin(watcher, 0, **fields)
    assert not response.success and reason in response.message
    watcher.wait(0.2)


def test_what_the_expert_did_succeeds_by_topics_alone(watcher: Watcher) -> None:
    env = make("pick", cameras=())
    env.reset(seed=1)
    driver, servo = expert(env), JointServo(env.arm)
    closes, places, speeds = [], [], []
    while not env.success:
        action = driver.act()
        env.step(action)
        closes.append(action[6] >= 0.5)
        places.append(servo.positions()[:7])
        speeds.append(servo.velocities()[:7])
    env.close()

    first_moment(watcher, 1, task="pick")
    assert watcher.call(Trigger, "/sim_robot/success", Trigger.Request()).message == "not done yet"
    began = watcher.now()
    watcher.send(trajectory([0.1 * (i + 1) for i in range(len(places))], np.array(places), np.array(speeds)))
    for step, close in enumerate(closes):
        watcher.wait_for(lambda step=step: watcher.now() >= began + 0.1 * step, "a control step")
        watcher.move_fingers(0.0 if close else FINGER_TRAVEL)
    watcher.wait(1.0)
    response = watcher.call(Trigger, "/sim_robot/success", Trigger.Request())
    assert (response.success, response.message) == (True, "done")
