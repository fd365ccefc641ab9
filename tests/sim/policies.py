"""Policies for tests of the evaluation: one that repeats what the expert did, and some that only wander."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from aegis_policy import ActionChunk, Camera, Observation, PolicyInfo
from aegis_policy.policy import check_images, check_observation
from aegis_sim import tasks
from aegis_sim.env import ACTION_FEATURES, STATE_FEATURES
from aegis_sim.expert import Expert
from aegis_sim.table_env import CONTROL_HZ
from aegis_sim.tasks import IMAGE_SIZE

INFO = PolicyInfo(
    model="test",
    cameras=(Camera("front", IMAGE_SIZE, IMAGE_SIZE), Camera("wrist", IMAGE_SIZE, IMAGE_SIZE)),
    state=STATE_FEATURES,
    actions=ACTION_FEATURES,
    horizon=8,
    control_hz=CONTROL_HZ,
    instructions=("pick up the red cube",),
    checkpoint="0" * 64,
)


class Wandering:
    """Moves at random, with noise of the seed, and answers by the brightness of the image: right only by luck."""

    info = INFO

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        check_observation(self.info, observation)
        actions = np.random.default_rng(seed).normal(0, 0.02, (self.info.horizon, len(ACTION_FEATURES)))
        actions[:, 0] += 0.001 * observation.images["front"].mean()
        actions[:, 6] = 0
        return ActionChunk(actions.astype(np.float32), observation.stamp)

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        check_images(self.info, images, all_cameras=False)
        yield from ("Y", "es ") if int(images["front"].sum()) % 2 else ("n", "o")


class Mortal(Wandering):
    """Is killed, as if out of memory, late in the first episode to come that far; never again, in any process.

    Leaves a line in `folder`/starts for each episode that it begins: its process and the gripper's place.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        if observation.stamp == 0:
            with (self._folder / "starts").open("a") as file:
                file.write(f"{os.getpid()} {observation.state[:3].tobytes().hex()}\n")
        if observation.stamp > 3:
            with suppress(FileExistsError):
                (self._folder / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return super().act(observation, seed=seed)


class Replay(Wandering):
    """Repeats what the expert did in each of the episodes it has recorded, told apart by their first state."""

    def __init__(self, task: str, seeds: Sequence[int]) -> None:
        env = tasks.make(task, cameras=())
        expert = Expert(env)
        self._recordings: dict[bytes, list[np.ndarray]] = {}
        for seed in seeds:
            observation, _ = env.reset(seed=seed)
            expert.reset()
            actions = self._recordings[observation["state"].tobytes()] = []
            done = False
            while not done:
                actions.append(expert.act())
                _, _, terminated, truncated, _ = env.step(actions[-1])
                done = terminated or truncated
        env.close()
        self._playing: list[np.ndarray] = []

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        if observation.stamp == 0:
            self._playing = self._recordings[observation.state.tobytes()]
        step = round(observation.stamp * CONTROL_HZ)
        return ActionChunk(np.array(self._playing[step : step + self.info.horizon]), observation.stamp)


if __name__ == "__main__":
    import argparse

    from aegis_server.process import run

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    run(Wandering(), port=parser.parse_args().port)
