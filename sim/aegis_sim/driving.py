"""What a policy is told when it drives, and the noise it draws: the same wherever it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aegis_policy import Camera, Observation, PolicyInfo
from aegis_sim.env import ACTION_FEATURES, CAMERAS, STATE_FEATURES, ArmEnv

ACTING, ASKING = 0, 1
"""Two streams of random numbers of each episode, so that asking never changes a motion."""


def check_fit(info: PolicyInfo, env: ArmEnv, replan_every: int) -> None:
    """Raise ValueError, saying what differs, unless the policy is one for this environment's robot and cameras."""
    given_cameras = [Camera(name, env.image_size, env.image_size) for name in CAMERAS]
    for camera in info.cameras:
        if camera not in given_cameras:
            raise ValueError(f"the policy wants {camera}; the task has {given_cameras}")
    for what, wanted, given in (
        ("state", info.state, STATE_FEATURES),
        ("actions", info.actions, ACTION_FEATURES),
        ("control rate in Hz", info.control_hz, env.control_hz),
    ):
        if wanted != given:
            raise ValueError(f"the policy's {what} is {wanted}; the task's is {given}")
    if not 1 <= replan_every <= info.horizon:
        raise ValueError(f"replan_every is {replan_every}: expected 1 to {info.horizon}, the length of a chunk")


def for_policy(info: PolicyInfo, observation: Mapping[str, Any], instruction: str, stamp: float) -> Observation:
    """An environment's observation as the policy takes it: the cameras that it has, and the time (s)."""
    images = {camera.name: observation["images"][camera.name] for camera in info.cameras}
    return Observation(images, observation["state"], instruction, stamp=stamp)


def action_seed(seed: int, step: int) -> int:
    """The seed for the policy's noise at one step of one episode: 32 bits, the same whenever it is played."""
    return int(np.random.SeedSequence([seed, ACTING, step]).generate_state(1)[0])
