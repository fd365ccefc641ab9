"""A small policy that truly computes, for tests of what stands in front of a policy; and its server as a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np

from aegis_policy.policy import (
    ActionChunk,
    Camera,
    Feature,
    Observation,
    ObservationError,
    PolicyInfo,
    check_images,
    check_observation,
)


class LinearPolicy:
    """Actions are a fixed linear map of the state and the images' mean colours, plus noise of the seed.

    Those that are committed come first, as they were told, and then half of what is pending besides is added.

    Its answer is the mean of each image. Asked how many answers were given up, it says how many of its generators were
    closed before their end; asked to count, it counts slowly and for long. The instruction "break" makes it fail as a
    policy with a bug does, "diverge" makes it give actions that are not numbers; the question "break midway?" makes it
    fail after the first word. "slowly" makes it take half a second. With a `gate`, it acts once that file exists;
    with a `gain`, its actions are that many times as large.
    """

    info = PolicyInfo(
        model="linear",
        cameras=(Camera("front", 12, 16), Camera("wrist", 8, 8)),
        state=(Feature("x", "m"), Feature("y", "m"), Feature("opening", "m")),
        actions=(Feature("dx", "m"), Feature("dy", "m"), Feature("gripper", "1")),
        horizon=4,
        control_hz=10.0,
        instructions=("pick up the red cube",),
        checkpoint="0" * 64,
        max_delay=3,
    )

    def __init__(self, gate: Path | None = None, gain: float = 1.0) -> None:
        self.gate, self.gain = gate, gain
        self.given_up = 0
        inputs = len(self.info.state) + 3 * len(self.info.cameras)
        outputs = self.info.horizon * len(self.info.actions)
        self.weights = np.random.default_rng(0).normal(size=(outputs, inputs)).astype(np.float32)

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        check_observation(self.info, observation)
        if observation.instruction == "break":
            raise RuntimeError("a bug in the policy")
        if observation.instruction == "slowly":
            time.sleep(0.5)
        while self.gate and not self.gate.exists():
            time.sleep(0.01)
        if self.gate and "break" in self.gate.read_text():
            raise RuntimeError("a gate that breaks")
        colours = [observation.images[camera.name].mean(axis=(0, 1)) / 255 for camera in self.info.cameras]
        actions = self.weights @ np.concatenate([observation.state, *colours]).astype(np.float32)
        actions += 0.01 * np.random.default_rng(seed).normal(size=actions.shape).astype(np.float32)
        if observation.instruction == "diverge":
            actions *= np.float32(np.nan)
        actions *= np.float32(self.gain)
        actions = actions.reshape(self.info.horizon, -1)
        if (pending := observation.pending) is not None:
            actions[: len(pending.actions)] += np.asarray(pending.actions, np.float32) / 2
            actions[: pending.delay] = pending.actions[: pending.delay]
        return ActionChunk(actions, observation.stamp)

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        check_images(self.info, images, all_cameras=False)
        if question == "too long?":
            raise ObservationError("question: too long")
        if question.startswith("count"):
            words: Sequence[str] = [f"{number} " for number in range(400)]
        elif question == "how many answers were given up?":
            words = [str(self.given_up)]
        else:
            words = [f"{name}: {image.mean():.2f}\n" for name, image in images.items()]
        try:
            for word in words:
                yield word
                time.sleep(0.01 if len(words) == 400 else 0.0)
                if question == "break midway?":
                    raise RuntimeError("a bug in the policy")
        except GeneratorExit:
            self.given_up += 1
            raise


LINEAR = (sys.executable, __file__)
"""The command that serves it."""


@dataclass(frozen=True)
class Server:
    """A server process: where it listens, and the file its log goes to."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self, status: int = 200, seconds: float = 60.0) -> None:
        """Wait until /readyz answers with `status`."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up and self.process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz").status_code == status:
                    return
            time.sleep(0.02)
        raise AssertionError(f"no {status} from {self.url}/readyz:\n{self.log.read_text()}")


@contextmanager
def serving(log: Path, *command: str, port: int | None = None) -> Iterator[Server]:
    """A server in a process of its own, by default the linear policy's; killed at the end if it still runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = port or free.getsockname()[1]
    with log.open("wb") as stderr:
        # Python's view of the environment: rerun, once imported, writes an OTEL_SERVICE_NAME behind its back.
        started = [*(command or LINEAR), "--port", str(port)]
        process = subprocess.Popen(started, stderr=stderr, env=dict(os.environ))
    try:
        yield Server(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.kill()
        process.wait()


def load(gain: Path | None) -> LinearPolicy:
    """The policy whose gain is in a file, as a checkpoint would be; "other" there is one for another robot."""
    if gain is None:
        return LinearPolicy()
    if gain.read_text() == "other":
        policy = LinearPolicy()
        policy.info = replace(policy.info, control_hz=20.0)
        return policy
    return LinearPolicy(gain=float(gain.read_text()))


if __name__ == "__main__":
    import argparse
    import logging

    from aegis_server.engine import Capacity
    from aegis_server.process import run
    from aegis_server.settings import Settings, read_keys

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--gate", type=Path)
    parser.add_argument("--gain", type=Path, help="file that is read again at every reload")
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--deadline-s", type=float, default=30.0)
    parser.add_argument("--grace-s", type=int, default=5)
    parser.add_argument("--keys", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    keys = read_keys(arguments.keys) if arguments.keys else ()
    run(
        LinearPolicy(arguments.gate) if arguments.gate else load(arguments.gain),
        port=arguments.port,
        settings=Settings(keys=keys, capacity=Capacity(acts=arguments.queue), deadline_s=arguments.deadline_s),
        load=lambda: load(arguments.gain),
        grace_s=arguments.grace_s,
    )
