"""The picture and the figures in docs/control.md: `python benchmarks/control.py`.

A policy gives smooth chunks at 10 Hz; those it observes for in 0.7 of the seconds ask for 0.25 rad more, so there is a
jump where the first of them takes over and one after the last. Plotted for one joint: what the chunks ask for, and what
is commanded at 100 Hz, up to a stop at the end, against the limits. Timed: a tick of seven such joints.
Writes docs/images/control.png and benchmarks/results/control.json; takes some seconds.
"""

from __future__ import annotations

import json
import time

import matplotlib
import numpy as np
from provenance import ROOT, provenance

from aegis_policy import ActionChunk, Feature, PolicyInfo
from aegis_policy.control import Asynchronous, AxisLimits, Command, Controller, Scheduler, TemporalEnsemble, Timeouts

matplotlib.use("Agg")
import matplotlib.pyplot as plt

JOINTS, HORIZON, CHUNK_HZ, CONTROL_HZ, LATENCY = 7, 10, 10.0, 100.0, 0.15
SECONDS, SHOWN_FROM, STOP_AT, MORE_FROM, MORE_TO = 5.0, 1.6, 4.2, 1.9, 2.6
LIMITS = AxisLimits(1.2, 5.0, 50.0, jump=0.5, chunk_jerk=2000.0, lower=-1.0, upper=1.0, following=0.1)
JOINT_NAMES = tuple(Feature(f"q{i + 1}", "rad") for i in range(JOINTS))
INFO = PolicyInfo("sine", (), JOINT_NAMES, JOINT_NAMES, HORIZON, CHUNK_HZ, ("follow the sine",), "")
ROWS = (
    ("position\nrad", LIMITS.upper),
    ("velocity\nrad/s", LIMITS.velocity),
    ("acceleration\nrad/s²", LIMITS.acceleration),
    ("jerk\nrad/s³", LIMITS.jerk),
)
ASKED, COMMANDED, LIMIT = "#ea580c", "#1d4ed8", "#9ca3af"


def main() -> None:
    commands, taken, _ = drive(Asynchronous(5))
    asked = [asked_for(command.stamp, taken) for command in commands]
    draw(np.array([command.stamp for command in commands]), np.array(asked), joint(commands))
    peaks = np.abs(joint(commands)).max(axis=1)
    written = {
        "peaks": dict(zip(("position", "velocity", "acceleration", "jerk"), peaks.tolist(), strict=True)),
        "limits": {name.partition("\n")[0]: limit for name, limit in ROWS},
        "median_tick_ms": {"asynchronous": timed(Asynchronous(5)), "temporal ensemble": timed(TemporalEnsemble(1))},
        "joints": JOINTS,
        **provenance(),
    }
    path = ROOT / "benchmarks" / "results" / "control.json"
    path.write_text(json.dumps(written, indent=1) + "\n")
    print(f"a tick of {JOINTS} joints: {written['median_tick_ms']} ms; see {path}")


def drive(scheduler: Scheduler) -> tuple[list[Command], list[tuple[float, ActionChunk]], list[float]]:
    """Commands, chunks with the time they were taken, and the seconds of each tick; the robot follows its commands."""
    control = Controller(INFO, [LIMITS] * JOINTS, scheduler, Timeouts(tick=0.05, state=0.05, chunk=1.0), CONTROL_HZ)
    control.start(0.0)
    commands: list[Command] = []
    taken: list[tuple[float, ActionChunk]] = []
    seconds: list[float] = []
    state, observed = np.zeros(JOINTS), None
    for now in np.arange(1, round(SECONDS * CONTROL_HZ)) / CONTROL_HZ:
        if now >= STOP_AT:
            control.stop()
        started = time.perf_counter()
        command = control.tick(now, state, now)
        seconds.append(time.perf_counter() - started)
        if command is not None:
            commands.append(command)
            state = command.position
        if observed is None and control.wants_chunk(now):
            observed = now
        if observed is not None and observed + LATENCY <= now < STOP_AT:
            chunk = infer(observed)
            if rejection := control.offer(chunk, now):
                raise SystemExit(str(rejection))
            taken.append((now, chunk))
            observed = None
    return commands, taken, seconds


def infer(stamp: float) -> ActionChunk:
    instants = stamp + np.arange(1, HORIZON + 1) / CHUNK_HZ
    actions = 0.6 * np.sin(1.2 * instants) + (0.25 if MORE_FROM <= stamp < MORE_TO else 0.0)
    return ActionChunk(np.tile(actions[:, None], JOINTS).astype(np.float32), stamp)


def asked_for(now: float, taken: list[tuple[float, ActionChunk]]) -> float:
    """What the newest chunk asks of a joint, on straight lines between its actions."""
    chunk = [chunk for since, chunk in taken if since < now][-1]
    return float(np.interp(now, chunk.stamp + np.arange(1, HORIZON + 1) / CHUNK_HZ, chunk.actions[:, 0]))


def joint(commands: list[Command]) -> np.ndarray:
    """One joint's position, velocity, acceleration and mean jerk since the tick before, [4, N]."""
    rows = np.array([(c.position[0], c.velocity[0], c.acceleration[0]) for c in commands]).T
    return np.vstack([rows, np.diff(rows[2], prepend=0.0) * CONTROL_HZ])


def timed(scheduler: Scheduler) -> float:
    """The median of a tick, ms: on a machine with other work, what a mean says is how often it was interrupted."""
    return float(np.median([drive(scheduler)[2] for _ in range(10)])) * 1e3


def draw(times: np.ndarray, asked: np.ndarray, commanded: np.ndarray) -> None:
    """Commanded [4, N] and asked-for [N] of one joint over `times` [N]."""
    moving = times < STOP_AT
    figure, axes = plt.subplots(4, 1, figsize=(8, 7.2), sharex=True, layout="constrained")
    for order, (axis, (name, limit)) in enumerate(zip(axes, ROWS, strict=True)):
        raw = np.diff(asked[moving], n=order) * CONTROL_HZ**order
        axis.plot(times[moving][order:], raw, color=ASKED, linewidth=0.9, alpha=0.7, label="asked for by the chunks")
        axis.plot(times, commanded[order], color=COMMANDED, linewidth=1.6, label="commanded")
        for side in (-limit, limit):
            axis.axhline(side, color=LIMIT, linewidth=1.0, linestyle="--", label="limit" if side > 0 else None)
        axis.axvline(STOP_AT, color=LIMIT, linewidth=0.8, linestyle=":")
        axis.set(ylabel=name, ylim=(-1.45 * limit, 1.45 * limit), xlim=(SHOWN_FROM, SECONDS))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(ncols=3, loc="upper left", frameon=False, fontsize=9)
    axes[0].text(STOP_AT + 0.03, -1.3 * LIMITS.upper, "stop", color="#4b5563", fontsize=9)
    axes[3].set_xlabel("time, s")
    figure.savefig(ROOT / "docs" / "images" / "control.png", dpi=110)


if __name__ == "__main__":
    main()
