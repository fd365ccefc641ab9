"""One episode of benchmarks/real_time.py: an arm, a controller and a policy that thinks while a virtual clock runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aegis_policy import ActionChunk, Observation, Policy
from aegis_policy.control import (
    ActionSpace,
    Asynchronous,
    AxisLimits,
    Command,
    Controller,
    GripperLimits,
    RealTime,
    Scheduler,
    Synchronous,
    TemporalEnsemble,
    Timeouts,
)
from aegis_sim.driving import action_seed

EXECUTE = 4
CONTROL_HZ, TICKS = 50.0, 5  # of commands; of them to a control step of the environment
WIDE = {
    "m": AxisLimits(3.0, 100.0, 10000.0, jump=1.0, chunk_jerk=1e6, lower=-100.0, upper=100.0, following=100.0),
    "rad": AxisLimits(30.0, 1000.0, 100000.0, jump=10.0, chunk_jerk=1e7, following=100.0),
    "1": GripperLimits(-10.0, 10.0),
}
SCHEDULERS: dict[str, type[Scheduler]] = {
    "synchronous": Synchronous,
    "asynchronous": Asynchronous,
    "ensemble": TemporalEnsemble,
    "real-time": RealTime,
}
DROPPED, ASK_AGAIN_S = 0.2, 0.5


@dataclass(frozen=True)
class Cell:
    """A policy and a scheduler, and what they have to live with; latency in ms."""

    policy: str
    scheduler: str
    latency: int
    jitter: bool = False
    drops: bool = False

    @property
    def lives_with(self) -> str:
        return f"{self.latency} ms{', jitter' * self.jitter}{', drops' * self.drops}"

    @property
    def name(self) -> str:
        return f"{self.policy}, {self.scheduler}, {self.lives_with}"


@dataclass
class Play:
    """One episode: `env` is driven by a controller on a clock that only this moves."""

    env: Any
    policy: Policy
    cell: Cell
    seed: int
    told: list[np.ndarray] = field(default_factory=list)  # displacements per step, m
    seams: set[int] = field(default_factory=set)  # steps with which another chunk took over
    starved = late = chunks = 0
    awaited: tuple[float, ActionChunk | None, int] | None = None  # when it comes, it, how many were committed

    def run(self) -> dict[str, Any]:
        _, info = self.env.reset(seed=self.seed)
        self.instruction, space = info["instruction"], ActionSpace(self.policy.info)
        limits = [WIDE[feature.unit] for feature in self.policy.info.actions]
        scheduler = SCHEDULERS[self.cell.scheduler](EXECUTE)
        timeouts = Timeouts(tick=1.0, state=10.0, chunk=30.0)
        self.control = Controller(self.policy.info, limits, scheduler, timeouts, CONTROL_HZ)
        self.control.start(0.0)
        self.control.tick(0.0, self.env.state(), 0.0)
        self.luck = np.random.default_rng([self.seed, 7])
        command: Command | None = None
        for step in range(self.env.max_steps):
            before, gripper = command, None
            self.ask(step)
            for tick in range(TICKS):
                command = self.tick(step / self.env.control_hz + (tick + 1) / CONTROL_HZ)
                gripper = command.position[-1] if command is not None and gripper is None else gripper
            action = np.zeros(len(space))
            if command is not None and gripper is not None:
                start = np.zeros(len(space)) if before is None else before.position
                action[:-1] = (command.position - start)[:-1] if before is not None else 0.0
                action[-1] = gripper
            self.told.append(action[:3])
            self.env.advance(action)
            info = self.env.count(action)
            if info["success"]:
                break
        return self.row(bool(info["success"]))

    def ask(self, step: int) -> None:
        """Observe, if a chunk is wanted; what comes of it is known at once, but comes later."""
        now = step / self.env.control_hz
        if self.awaited is not None or not self.control.wants_chunk(now):
            return
        pending = self.control.ask(now)
        late = self.cell.latency / 1000 * (1 + self.cell.jitter * self.luck.random())
        if self.cell.drops and self.luck.random() < DROPPED:
            self.awaited = now + ASK_AGAIN_S, None, 0
            return
        seen = self.env.observe()
        images = {camera.name: seen["images"][camera.name] for camera in self.policy.info.cameras}
        observation = Observation(images, seen["state"], self.instruction, now, pending)
        chunk = self.policy.act(observation, seed=action_seed(self.seed, step))
        self.awaited = now + late, chunk, pending.delay if pending else 0

    def tick(self, now: float) -> Command | None:
        """Command for the instant `now`, after what has come by the tick before it."""
        if self.awaited is not None and self.awaited[0] <= now - 1 / CONTROL_HZ + 1e-9:
            _, chunk, committed = self.awaited
            self.awaited = None
            if chunk is not None:
                self.take(chunk, now - 1 / CONTROL_HZ, committed)
        plan = self.control.plan
        self.starved += plan is not None and now > plan.end + 1e-9
        return self.control.tick(now, self.env.state(), now)

    def take(self, chunk: ActionChunk, now: float, committed: int) -> None:
        first = self.control.plan is None
        rejection = self.control.offer(chunk, now)
        self.late += rejection is not None
        plan = self.control.plan
        if rejection is None and plan is not None:
            self.chunks += 1
            if not first:
                over = max(now, plan.start + (committed - plan.behind) * plan.step)
                self.seams.add(round(over * self.env.control_hz))

    def row(self, success: bool) -> dict[str, Any]:
        rate, told = self.env.control_hz, np.array(self.told)
        jumps = np.linalg.norm(np.diff(told, axis=0), axis=1) * rate  # [n]: into step n + 1
        jerks = np.linalg.norm(np.diff(told, n=2, axis=0), axis=1) * rate**3  # [n]: steps n to n + 2
        moving = next((i for i, each in enumerate(told) if each.any()), 0)
        seam = {n - 1 for n in self.seams}
        bent = {n - 2 for n in self.seams} | seam
        return {
            "success": success,
            "steps": len(told),
            "chunks": self.chunks,
            "refused": self.late,
            "starved": self.starved,
            "jump": _split(jumps, seam, moving),
            "jerk": _split(jerks, bent, moving),
        }


def _split(values: np.ndarray, seams: set[int], begin: int) -> dict[str, float | int]:
    """Sums of squares and counts, at seams and elsewhere, from index `begin` on."""
    here = np.array([n in seams for n in range(len(values))], bool)
    after = np.arange(len(values)) >= begin
    found: dict[str, float | int] = {}
    for name, which in (("seam", here & after), ("within", ~here & after)):
        found[name], found[f"{name}_n"] = float(np.square(values[which]).sum()), int(which.sum())
    return found
