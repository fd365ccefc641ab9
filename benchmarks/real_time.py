"""Real time, shown: what latency does to an arm that thinks while it moves, by scheduler. The table in docs/control.md.

    python benchmarks/real_time.py --episodes 50                        all cells: hours; goes on where it left off
    python benchmarks/real_time.py --episodes 50 --only real-time/200   these cells
    python benchmarks/real_time.py --report                             table and picture of what is there

In simulation on a virtual clock: the policy's chunks come after a latency that is made up, of 0 to 300 ms, with or
without jitter (uniform, up to as much again) and drops (one in five never comes, and is asked for anew after 0.5 s).
Everything between chunk and robot is `aegis_policy.control`, at 50 commands a second, with limits too wide to smooth a
seam. Episodes are those of `aegis eval --task pick --seed 0`.

Of each episode: success; starved ticks, after the first chunk, with nothing to carry out; and of the displacements per
0.1 s that the arm was told, the jump (m/s) and the jerk (m/s³) at seams, where another chunk takes over, and elsewhere.
Appends to benchmarks/results/real_time.jsonl, one line an episode. `--checkpoint` with a name after a colon, such as
runs/rtc:trained, adds a policy that was trained for it, in cells of that name.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from provenance import ROOT, provenance

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
from aegis_policy.inference.load import load_policy
from aegis_sim import tasks
from aegis_sim.driving import action_seed
from aegis_sim.statistics import rate_of

TASK, SEED, EXECUTE = "pick", 0, 4
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
LATENCIES_MS = (0, 100, 200, 300)
DROPPED, ASK_AGAIN_S = 0.2, 0.5
LINES = ROOT / "benchmarks" / "results" / "real_time.jsonl"


@dataclass(frozen=True)
class Cell:
    """A scheduler and what it has to live with; latency in ms."""

    scheduler: str
    latency: int
    jitter: bool = False
    drops: bool = False

    @property
    def name(self) -> str:
        return f"{self.scheduler}/{self.latency}{'/jitter' * self.jitter}{'/drops' * self.drops}"


CELLS = [
    *(Cell(scheduler, latency) for latency in LATENCIES_MS for scheduler in SCHEDULERS),
    *(Cell(scheduler, 200, jitter=True) for scheduler in SCHEDULERS),
    *(Cell(scheduler, 200, jitter=True, drops=True) for scheduler in SCHEDULERS),
]


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
        scheduler = SCHEDULERS[self.cell.scheduler.partition(" ")[0]](EXECUTE)
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


def run(episodes: int, only: Sequence[str], checkpoint: str | None) -> None:
    """Play what is not there yet, round by round, so that all cells grow alike."""
    source, _, name = (checkpoint or "").partition(":")
    policy = load_policy(source or None)
    cells = [Cell(f"real-time {name}", c.latency, c.jitter, c.drops) for c in CELLS if c.scheduler == "real-time"]
    cells = [cell for cell in (cells if name else CELLS) if not only or cell.name in only]
    there = {(row["cell"], row["episode"]) for row in rows()}
    env = tasks.make(TASK, image_size=policy.info.cameras[0].height)
    for episode in range(episodes):
        for cell in cells:
            if (cell.name, episode) not in there:
                row = Play(env, policy, cell, tasks.episode_seed("eval", SEED, episode)).run()
                with LINES.open("a") as file:
                    file.write(json.dumps({"cell": cell.name, "episode": episode, **row}) + "\n")
                print(cell.name, episode, row["success"], flush=True)


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


def report() -> None:
    """The table, for people and as JSON, and the picture."""
    played = defaultdict(list)
    for row in rows():
        played[row["cell"]].append(row)
    table = {cell: summary(found) for cell, found in played.items()}
    (ROOT / "benchmarks" / "results" / "real_time.json").write_text(
        json.dumps({"task": TASK, "seed": SEED, "execute": EXECUTE, "cells": table, **provenance()}, indent=1) + "\n"
    )
    print("| scheduler, ms | success | jump at seams, within, m/s | jerk at seams, within, m/s³ | starved | refused |")
    print("|---|---|---|---|---|---|")
    for cell, found in table.items():
        jump, jerk, success = found["jump"], found["jerk"], rate_of(row["success"] for row in played[cell])
        print(
            f"| {cell} | {success} | {jump['seam']:.3f}, {jump['within']:.3f} | {jerk['seam']:.1f}, "
            f"{jerk['within']:.1f} | {found['starved']:.0%} | {found['refused']:.0%} |"
        )
    draw(table)


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Root mean squares over all of a cell's episodes; starved: share of ticks; refused: share of chunks."""
    told: dict[str, Any] = {"success": rate_of(row["success"] for row in found).to_dict()}
    for measure in ("jump", "jerk"):
        told[measure] = {
            where: (
                sum(row[measure][where] for row in found) / max(1, sum(row[measure][f"{where}_n"] for row in found))
            )
            ** 0.5
            for where in ("seam", "within")
        }
    told["starved"] = sum(row["starved"] for row in found) / sum(TICKS * row["steps"] for row in found)
    told["refused"] = sum(row["refused"] for row in found) / max(
        1, sum(row["refused"] + row["chunks"] for row in found)
    )
    return told


def draw(table: dict[str, dict[str, Any]]) -> None:
    """Success, and jerk at seams, over latency; one line a scheduler."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    steady = [cell.split("/") for cell in table if cell.count("/") == 1]
    for scheduler in dict.fromkeys(name for name, _ in steady):
        latencies = sorted(int(latency) for name, latency in steady if name == scheduler)
        found = [table[f"{scheduler}/{latency}"] for latency in latencies]
        left.plot(latencies, [each["success"]["rate"] for each in found], marker="o", label=scheduler)
        right.plot(latencies, [each["jerk"]["seam"] / each["jerk"]["within"] for each in found], marker="o")
    left.set(xlabel="latency, ms", ylabel="success", ylim=(0, 1))
    right.set(xlabel="latency, ms", ylabel="jerk at seams / within chunks")
    right.axhline(1, color="#9ca3af", linestyle="--", linewidth=1)
    left.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(ROOT / "docs" / "images" / "real_time.png"), dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--only", nargs="*", default=[], help="these cells alone")
    parser.add_argument("--checkpoint", help="DIR:NAME of a policy that was trained for real-time chunking")
    parser.add_argument("--report", action="store_true")
    arguments = parser.parse_args()
    if not arguments.report:
        run(arguments.episodes, arguments.only, arguments.checkpoint)
    report()
