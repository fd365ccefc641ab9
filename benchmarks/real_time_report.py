"""The table and the plots of benchmarks/real_time.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pages import fill, table
from provenance import ROOT, provenance
from real_time_play import EXECUTE, TICKS, Cell

from aegis_sim.statistics import rate_of

RESULTS = ROOT / "benchmarks" / "results" / "real_time.json"
PAGE, PLOT = ROOT / "docs" / "control.md", ROOT / "docs" / "images" / "real_time.png"
HEAD = (
    "",
    "policy, scheduler",
    "success",
    "jump at seams, within, m/s",
    "jerk at seams, within, m/s³",
    "starved",
    "late",
)
COLOURS = {"synchronous": "#9ca3af", "asynchronous": "#2563eb", "ensemble": "#d97706", "real-time": "#059669"}

Rows = list[dict[str, Any]]


def write(played: Sequence[tuple[Cell, Rows]], settings: dict[str, Any]) -> None:
    found = [(cell, summary(rows)) for cell, rows in played]
    cells = {cell.name: each for cell, each in found}
    measured = {**settings, "execute": EXECUTE, "cells": cells, **provenance()}
    RESULTS.write_text(json.dumps(measured, indent=1) + "\n")
    rows, last = [], ""
    for cell, each in found:
        lives_with = "" if cell.lives_with == last else cell.lives_with
        rows.append([lives_with, f"{cell.policy}, {cell.scheduler}", *_row(each)])
        last = cell.lives_with
    fill(PAGE, "real time", table(HEAD, rows))
    draw(found)


def _row(found: dict[str, Any]) -> list[str]:
    success, jump, jerk = found["success"], found["jump"], found["jerk"]
    return [
        f"{success['rate']:.2f} ({success['low']:.2f} to {success['high']:.2f})",
        f"{jump['seam']:.2f}, {jump['within']:.2f}",
        f"{jerk['seam']:.0f}, {jerk['within']:.0f}",
        f"{found['starved']:.0%}",
        f"{found['refused']:.0%}",
    ]


def summary(rows: Rows) -> dict[str, Any]:
    """Root mean squares over all of a cell's episodes; starved: share of ticks; refused: share of chunks, come late."""
    told: dict[str, Any] = {"success": rate_of(row["success"] for row in rows).to_dict()}
    for measure in ("jump", "jerk"):
        told[measure] = {where: _root_mean_square(rows, measure, where) for where in ("seam", "within")}
    told["starved"] = sum(row["starved"] for row in rows) / sum(TICKS * row["steps"] for row in rows)
    told["refused"] = sum(row["refused"] for row in rows) / max(1, sum(row["refused"] + row["chunks"] for row in rows))
    told["steps"] = sum(row["steps"] for row in rows) / len(rows)
    return told


def _root_mean_square(rows: Rows, measure: str, where: str) -> float:
    squares, count = sum(row[measure][where] for row in rows), sum(row[measure][f"{where}_n"] for row in rows)
    return float(squares / max(1, count)) ** 0.5


def draw(found: Sequence[tuple[Cell, dict[str, Any]]]) -> None:
    """Success, and jerk at seams, over latency: a line for each policy and scheduler."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    steady = [(cell, each) for cell, each in found if not (cell.jitter or cell.drops)]
    for policy, scheduler in dict.fromkeys((cell.policy, cell.scheduler) for cell, _ in steady):
        line = [(cell.latency, each) for cell, each in steady if (cell.policy, cell.scheduler) == (policy, scheduler)]
        style = {"color": COLOURS[scheduler], "linestyle": "-" if policy == "trained" else "--", "marker": "o"}
        latencies = [latency for latency, _ in line]
        values = ([each["success"]["rate"] for _, each in line], [each["jerk"]["seam"] for _, each in line])
        for panel, value in zip(panels, values, strict=True):
            panel.plot(latencies, value, **style, markersize=4, label=f"{scheduler}, {policy}")
    panels[0].set(xlabel="latency, ms", ylabel="success", ylim=(0, 1.02))
    panels[1].set(xlabel="latency, ms", ylabel="jerk at seams, m/s³", ylim=(0, None))
    panels[1].legend(frameon=False, fontsize=7, handlelength=4, loc="center left", bbox_to_anchor=(1, 0.5))
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(PLOT, dpi=110)
