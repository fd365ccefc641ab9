"""A simulated robot for a policy server's console: an instruction comes, the robot moves, people watch.

    python -m aegis_sim.live --server http://127.0.0.1:8000 --task pick

The robot lives in real time. While a chunk is carried out the next is already asked for; when no fresh one is there the
arm holds still. It halts by itself when the server is silent or gone, and a stop latches until it is released.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from aegis_policy import ActionChunk, ObservationError
from aegis_policy.inference.remote import RemotePolicy
from aegis_policy.inference.robot_link import LOST, ServerLink
from aegis_sim.driving import action_seed, check_fit, for_policy
from aegis_sim.live_scene import LiveScene

logger = logging.getLogger(__name__)

REPLAN_EVERY = 4  # actions of a chunk until the next is asked for, as `aegis eval` does
SILENCE_S = 1.0  # without a word from the server: halt
REST_S = 3.0  # that a success is shown for, before a new scene
ACT_S = 10.0  # that the server may take for a chunk
RETRY_S = 0.5  # after the server would not act
STOPPED = "from the console"


@dataclass
class Plan:
    """A chunk being carried out: its number and actions [H, A], and how many of them are behind."""

    number: int
    actions: np.ndarray
    executed: int


class LiveRobot:
    """One robot from its first scene to its last; `step` is one control step."""

    def __init__(self, scene: LiveScene, policy: RemotePolicy, link: ServerLink, seed: int) -> None:
        check_fit(policy.info, scene.env, REPLAN_EVERY)
        self._scene, self._policy, self.link, self._seed = scene, policy, link, seed
        self._worker = ThreadPoolExecutor(1)
        self._asked: Future[tuple[ActionChunk, float]] | None = None
        self._asked_at, self._epoch, self._asked_epoch = 0, 0, 0
        self._steps, self._chunks, self._not_before = 0, 0, 0.0
        self._plan: Plan | None = None
        self._rest_until: float | None = None
        self.running, self.instruction = False, ""
        self.stopped: str | None = None
        self._latency_ms: float | None = None
        self.note = ""

    def step(self, now: float) -> None:
        """Heed the server, move or hold still, and report.

        Args:
            now: s, of a clock that only runs forward.
        """
        while (command := self.link.command()) is not None:
            self._heed(command, now)
        if self.running and self.link.silence_s > SILENCE_S:
            self.halt("halted: nothing heard from the server")
        if self._rest_until is not None and now >= self._rest_until:
            self._new_scene()
        self._take_chunk(now)
        self._move(now)
        if self.running:
            self._ask(now)
        self.link.report(self._report())

    def halt(self, note: str) -> None:
        """Hold still, and forget what was planned."""
        self.running, self._plan, self.note = False, None, note
        self._epoch += 1  # whatever is still being computed answers an instruction that is void

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)

    def _heed(self, command: dict[str, Any], now: float) -> None:
        if command is LOST or "stop" in command:
            if command is not LOST:
                self.stopped, self._rest_until = STOPPED, None
            if self.running:
                self.halt("halted: the link to the server is lost" if command is LOST else "stopped")
        elif "release" in command:
            self.stopped, self.note = None, "the stop is released; nothing moves until it is started"
        elif "pause" in command:
            self.halt("paused")
        elif self.stopped is not None:
            logger.warning("refused while stopped: %s", command)
        elif "reset" in command:
            self._new_scene()
        elif isinstance(instruction := command.get("start"), str) and instruction.strip():
            self.halt("")
            self.running, self.instruction, self._rest_until = True, instruction, None
            self._scene.begin(instruction)

    def _new_scene(self) -> None:
        self.halt("new scene")
        self.instruction, self._rest_until = "", None
        self._scene.draw()
        self.link.describe(self._scene.describe(self._policy.info.horizon))

    def _take_chunk(self, now: float) -> None:
        """Let the chunk that has come take over, from the action that is due by now."""
        if self._asked is None or not self._asked.done():
            return
        asked, self._asked = self._asked, None
        try:
            chunk, latency_s = asked.result()
        except (OSError, ObservationError) as error:  # the server says why; the arm holds still meanwhile
            logger.warning("no chunk: %s", error)
            self._not_before = now + RETRY_S
            if self._asked_epoch == self._epoch:
                self.note = str(error)[:500]
            return
        self._latency_ms = 1000 * latency_s
        if self._asked_epoch != self._epoch:
            return
        if not np.isfinite(chunk.actions).all():
            self.halt("halted: the policy gave numbers that are not finite")
            return
        self._chunks += 1
        self.note = ""
        behind = self._steps - self._asked_at if self._plan else 0  # before the first, the arm stood and waited
        self._plan = Plan(self._chunks, chunk.actions, min(behind, len(chunk.actions)))

    def _move(self, now: float) -> None:
        plan = self._plan
        if not self.running or plan is None or plan.executed >= len(plan.actions):
            self._scene.hold()
            return
        self._scene.move(plan.actions[plan.executed])
        plan.executed += 1
        self._steps += 1
        if self._scene.success:
            self.running, self._rest_until = False, now + REST_S
            self._epoch += 1
            self.note = "done"

    def _ask(self, now: float) -> None:
        due = self._plan is None or self._plan.executed >= min(REPLAN_EVERY, len(self._plan.actions))
        if self._asked is not None or not due or now < self._not_before:
            return
        self._asked_at, self._asked_epoch = self._steps, self._epoch
        seen = for_policy(self._policy.info, self._scene.observation, self.instruction, now)
        self._asked = self._worker.submit(self._act, seen, action_seed(self._seed, self._steps))

    def _act(self, seen: Any, seed: int) -> tuple[ActionChunk, float]:
        began = time.perf_counter()
        chunk = self._policy.act(seen, seed=seed)
        return chunk, time.perf_counter() - began

    def _report(self) -> dict[str, Any]:
        plan = self._plan
        return {
            "frames": self._scene.frames(),
            "state": self._scene.observation["state"],
            "running": self.running,
            "instruction": self.instruction,
            "stopped": self.stopped,
            "chunk": plan and {"number": plan.number, "actions": plan.actions, "executed": plan.executed},
            "latency_ms": self._latency_ms,
            "success": self._scene.success,
            "note": self.note,
        }


def live(server: str = "http://127.0.0.1:8000", task: str = "pick", seed: int = 0, *, once: bool = False) -> None:
    """Attach a simulated robot to a policy server, for its console; a key of the server comes from AEGIS_API_KEY.

    Args:
        server: its address.
        task: robot task of `aegis eval`: pick, place-on, lift...
        seed: of the scenes.
        once: end when the server goes, rather than wait for it to come back.
    """
    policy = RemotePolicy(server, timeout=ACT_S)
    scene = LiveScene(task, seed)
    link = ServerLink(server, scene.describe(policy.info.horizon))
    robot = LiveRobot(scene, policy, link, seed)
    link.open()
    try:
        run(robot, 1 / scene.env.control_hz, lambda: once and bool(link.lost))
    finally:
        link.close()
        robot.close()
        scene.close()
    raise ConnectionError(f"{server}: {'the server has gone' if link.lost is True else link.lost}")


def run(robot: LiveRobot, period_s: float, ended: Callable[[], bool]) -> None:
    """Step in real time until it is over; one that took too long delays all that follow."""
    due = time.monotonic()
    while not ended():
        robot.step(time.monotonic())
        now = time.monotonic()
        due = max(due + period_s, now)
        time.sleep(due - now)


def main() -> None:
    """The command line of `live`."""
    import tyro

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        tyro.cli(live)
    except (ValueError, OSError) as error:
        sys.exit(f"aegis_sim.live: {error}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
