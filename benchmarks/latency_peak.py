"""Megabytes that a process needs to load a policy, act and answer: `python benchmarks/latency_peak.py FOLDER`.

Beside the policy it imports next to nothing, so what is measured is the backend's own.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np

from aegis_policy import Observation
from aegis_policy.inference.load import load_policy


def peak_mb() -> float:
    """The most memory that this process has had. (Its `ru_maxrss` begins with that of the one that started it.)"""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


if __name__ == "__main__":
    policy = load_policy(sys.argv[1])
    info = policy.info
    images = {each.name: np.zeros((each.height, each.width, 3), np.uint8) for each in info.cameras}
    policy.act(Observation(images, np.zeros(len(info.state), np.float32), info.instructions[0]), seed=0)
    list(policy.ask(images, "what is there?"))
    print(peak_mb())
