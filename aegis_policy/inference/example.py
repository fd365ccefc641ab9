"""An observation and a question that any policy takes: to try one out with, or to show how it is called."""

from __future__ import annotations

import numpy as np

from aegis_policy.policy import Observation, PolicyInfo

EXAMPLE_QUESTION = "what colour is the cube?"


def example_observation(info: PolicyInfo) -> Observation:
    """An observation that fits `info`: grey images, a state of zeros, an instruction it was trained on."""
    images = {camera.name: np.full((camera.height, camera.width, 3), 128, np.uint8) for camera in info.cameras}
    instruction = info.instructions[0] if info.instructions else "pick up the red cube"
    return Observation(images, np.zeros(len(info.state), np.float32), instruction)
