"""What docs/arena.md shows of arena.json: tables between two marks in the page, and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from pages import fill, table
from provenance import ROOT

PAGE, PLOT = ROOT / "docs" / "arena.md", ROOT / "docs" / "images" / "arena.png"
PICTURE = (
    "![Success, right object and answers of the shipped policy on every split of the three tabletop tasks]"
    "(images/arena.png)"
)
RATES = (("success", "#15803d", "o"), ("right_object", "#1d4ed8", "s"), ("vqa", "#b45309", "D"))
WORDS = {"success": "success", "right_object": "right object", "vqa": "answers"}
Found = Mapping[str, Any]


def write_tables(found: Found) -> None:
    """Put today's figures into the page and draw the plot."""
    parts = (PICTURE, tasks_table(found), splits_table(found), arms_table(found))
    fill(PAGE, "figures", "\n\n".join(parts))
    plot(found)


def tasks_table(found: Found) -> str:
    """Success and right object of everyone on the split "seen"."""
    head = ["task", "expert", "random", "shipped policy", "right object: shipped", "random"]
    rows = [
        [
            f"`{task}`",
            *(_rate(who.get(name, {}).get("success")) for name in ("expert", "random", "shipped")),
            *(_rate(who.get(name, {}).get("right_object")) for name in ("shipped", "random")),
        ]
        for task, who in found["tasks"].items()
    ]
    return "**Tasks**, split `seen`: success.\n\n" + table(head, rows)


def splits_table(found: Found) -> str:
    """The shipped policy on every split, task by task."""
    rows = []
    for split, measured in found["splits"].items():
        for task, who in measured["tasks"].items():
            shipped = who["shipped"]
            row = [f"`{split}`", f"`{task}`", *(_rate(shipped[what]) for what in WORDS), str(shipped["success"]["n"])]
            rows.append([*row, _rate(who["expert"]["success"])])
    head = ["split", "task", "success", "right object", "answers during it", "episodes", "expert's success"]
    return "**Splits**, the shipped policy.\n\n" + table(head, rows)


def arms_table(found: Found) -> str:
    """The experts with every arm."""
    arms = list(next(iter(found["arms"].values())))
    rows = [[f"`{task}`", *(_rate(by[arm]["success"]) for arm in arms)] for task, by in found["arms"].items()]
    return "**Arms**: the experts' success.\n\n" + table(["task", *arms], rows)


def plot(found: Found) -> None:
    """The shipped policy on every split and task, with intervals; the expert and random actions beside it."""
    tasks = list(found["splits"]["seen"]["tasks"])
    figure, axes = plt.subplots(1, len(tasks), figsize=(11, 3.4), sharey=True, sharex=True, layout="constrained")
    for axis, task in zip(axes, tasks, strict=True):
        _panel(axis, {split: measured["tasks"][task] for split, measured in found["splits"].items()})
        axis.set_title(task, fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(PLOT, dpi=110)
    plt.close(figure)


def _panel(axis: Axes, by_split: Found) -> None:
    splits = list(by_split)
    for offset, (what, colour, mark) in enumerate(RATES):
        rates = [by_split[split]["shipped"][what] for split in splits]
        y = [row + (offset - 1) * 0.22 for row in range(len(splits))]
        x = [rate["rate"] for rate in rates]
        errors = [[r["rate"] - r["low"] for r in rates], [r["high"] - r["rate"] for r in rates]]
        axis.errorbar(x, y, xerr=errors, fmt=mark, color=colour, ms=5, lw=1.4, label=WORDS[what])
    for who, colour in (("expert", "#64748b"), ("random", "#cbd5e1")):
        x = [by_split[split][who]["success"]["rate"] for split in splits]
        axis.scatter(x, range(len(splits)), marker="|", s=260, color=colour, zorder=0, label=f"{who}'s success")
    axis.set_yticks(range(len(splits)), splits)
    axis.set_xlim(-0.03, 1.03)
    axis.grid(axis="x", color="#e5e7eb")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    if not axis.yaxis_inverted():
        axis.invert_yaxis()


def _rate(rate: Mapping[str, Any] | None) -> str:
    return f"{rate['rate']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]" if rate else "-"
