"""How far the simulated arm goes of what it is told to: `python benchmarks/displacements.py`.

robosuite's controller is a spring that has not come to rest when the next displacement replaces the last. The share
that it goes, by least squares over all steps of the expert's demonstrations of `pick`, is what an arm that goes all the
way has to take of a displacement (`displacements.*` of the ROS 2 `policy_node`). A minute on one core. Writes
benchmarks/results/displacements.json.
"""

from __future__ import annotations

import json

import numpy as np
from provenance import ROOT, provenance
from scipy.spatial.transform import Rotation

from aegis_sim import tasks

RESULTS = ROOT / "benchmarks" / "results" / "displacements.json"
EPISODES, SEED = 10, 0


def main() -> None:
    env = tasks.make("pick", cameras=())
    expert = tasks.expert(env)
    asked, went = [], []
    for index in range(EPISODES):
        before = env.reset(seed=tasks.episode_seed("record", SEED, index))[0]["state"]
        expert.reset()
        ended = False
        while not ended:
            action = expert.act()
            observation, _, terminated, truncated, _ = env.step(action)
            after = observation["state"]
            turned = Rotation.from_rotvec(after[3:6]) * Rotation.from_rotvec(before[3:6]).inv()
            asked.append(action[:6])
            went.append([*(after[:3] - before[:3]), *turned.as_rotvec()])
            before, ended = after, terminated or truncated
    env.close()
    told, done = np.array(asked), np.array(went)
    shares = {
        name: float((told[:, part] * done[:, part]).sum() / (told[:, part] ** 2).sum())
        for name, part in (("translation", slice(3)), ("rotation", slice(3, 6)))
    }
    found = {**shares, "steps": len(told), "episodes": EPISODES, "seed": SEED, **provenance()}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(f"of a displacement in m {shares['translation']:.2f}, in rad {shares['rotation']:.2f}; see {RESULTS}")


if __name__ == "__main__":
    main()
