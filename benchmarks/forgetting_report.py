"""What docs/forgetting.md shows of the runs of benchmarks/forgetting.py: forgetting.json, tables and plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from forgetting_measure import Measured
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from pages import fill, table
from provenance import ROOT, provenance
from scipy import stats

from aegis_sim.statistics import wilson

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "forgetting.json", ROOT / "docs" / "forgetting.md"
README = ROOT / "README.md"
COST = RESULTS.with_name("step_cost.json")
IMAGES = ROOT / "docs" / "images"
FRONTIER, CURVES, TUNING = (IMAGES / f"forgetting-{name}.png" for name in ("frontier", "curves", "tuning"))
PAPER = ("naive", "stop-gradient", "lora", "aegis")
"""The ways that the paper's own figure compares."""
SHOWN = ("seen", "moved-camera")
"""The splits of the frontier: the one that ranks, and the one that tells apart."""
LOWEST = 0.86
"""VQA accuracy where the plot of the tuning ends; lines to what is below leave it."""
WITHIN = 0.01
"""Of VQA accuracy, that the default may lose."""


@dataclass(frozen=True)
class Tuned:
    """What is tuned of a way, its runs in the order of the values, and the value that was chosen."""

    knob: str
    runs: Sequence[Measured]
    chosen: float


def vqa_accuracy(found: Measured) -> float:
    """Mean over the held-out sets."""
    return float(np.mean([each["accuracy"] for each in found["vqa"].values()]))


def success(found: Measured) -> float:
    """On the split that demonstrations show."""
    return float(found["splits"]["seen"]["success"]["rate"])


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean over training seeds with its 95% interval by Student's t; none from one seed."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def share(values: Sequence[float]) -> dict[str, float | None]:
    """As `spread`, of what lies in [0, 1]: so does its interval."""
    found = spread(values)
    return {name: None if figure is None else min(max(figure, 0.0), 1.0) for name, figure in found.items()}


def rated(rates: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """As `share`, of rates; no narrower than Wilson's interval of all their trials.

    Seeds that come to the same by chance have no spread, and say no more for that than their episodes can.
    """
    found = share([each["rate"] for each in rates])
    if found["low"] is not None and found["high"] is not None:
        whole = wilson(sum(round(each["rate"] * each["n"]) for each in rates), sum(each["n"] for each in rates))
        found |= {"low": min(found["low"], whole.low), "high": max(found["high"], whole.high)}
    return found


def write(
    before: Measured,
    runs: Sequence[Measured],
    settings: Mapping[str, Any],
    setup: Mapping[str, Any],
) -> None:
    """Everything that is shown.

    Args:
        before: the VLM's VQA by set.
        runs: of the same seeds for every one in `settings`.
        settings: by name, its way, what of that was tuned, and its value.
    """
    by_way = {
        name: [run for run in runs if (run["way"], run["value"]) == (of["way"], of["value"])]
        for name, of in settings.items()
    }
    methods = {
        name: of_way(found, by_way["naive"], before) | cost_of(settings[name]["way"]) | settings[name]
        for name, found in by_way.items()
    }
    found = {
        "methods": methods,
        "default": default(methods),
        "seeds": [run["seed"] for run in by_way["naive"]],
        "before": before,
        **setup,
        **provenance(),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    parts = (main_table(methods), families_table(methods, before), inside_table(methods))
    fill(PAGE, "figures", "\n\n".join(parts))
    fill(README, "forgetting", short_table(methods, found))
    draw_frontier(methods)
    draw_curves({way: by_way[way] for way in PAPER})


def of_way(found: Sequence[Measured], naive: Sequence[Measured], before: Measured) -> dict[str, Any]:
    """All figures of a way, each over its seeds; differences are between runs of the same seed."""

    def over(figure: Any, summed: Any = share) -> dict[str, float | None]:
        return summed([figure(run) for run in found])

    start = vqa_accuracy({"vqa": before})
    pairs = zip(found, naive, strict=True)
    measured = {
        "vqa_before": {"mean": start, "low": start, "high": start},
        "vqa_after": over(vqa_accuracy),
        "success": over(lambda run: run["splits"]["seen"]["success"], rated),
        "right_object": over(lambda run: run["splits"]["seen"]["right_object"], rated),
        "success_minus_naive": spread([success(run) - success(base) for run, base in pairs]),
        "flow_loss": over(lambda run: run["flow_loss"], spread),
        "drift": [spread(list(layer)) for layer in zip(*(run["drift"] for run in found), strict=True)],
        "splits": {
            split: {
                what: over(lambda run, split=split, what=what: run["splits"][split][what], rated)
                for what in ("success", "right_object")
            }
            for split in found[0]["splits"]
        },
        "sets": {
            name: {
                "accuracy": over(lambda run, name=name: run["vqa"][name]["accuracy"]),
                "cross_entropy": over(lambda run, name=name: run["vqa"][name]["cross_entropy"], spread),
                "families": {
                    family: over(lambda run, name=name, family=family: run["vqa"][name]["families"][family])
                    for family in before[name]["families"]
                },
            }
            for name in before
        },
    }
    projection = {
        key: over(lambda run, key=key: run[key])
        for key in ("shed_mean", "shed_max", "layers_projected")
        if key in found[0]
    }
    return measured | projection


def cost_of(way: str) -> dict[str, Any]:
    """A step's time and its growth in memory as ratios to naive's, where the way is one method from end to end."""
    trained = {"merge": "naive"}.get(way, way)  # merging takes a moment, once
    measured = json.loads(COST.read_text())["settings"]["tiny"]["methods"].get(trained)
    if measured is None:
        return {}
    (low, high), memory = measured["time"]["ci95"], measured["growth_ratio"]
    return {
        "step_time_ratio": {"mean": measured["time"]["ratio"], "low": low, "high": high},
        "peak_memory_ratio": {"mean": memory, "low": memory, "high": memory},
    }


def default(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """The way that moves best of those that keep VQA within a point; else the one with the best sum of both."""
    keep = [way for way, of in methods.items() if of["vqa_after"]["mean"] >= of["vqa_before"]["mean"] - WITHIN]
    return max(
        keep or methods,
        key=lambda way: methods[way]["success"]["mean"] + (0 if keep else methods[way]["vqa_after"]["mean"]),
    )


def main_table(methods: Mapping[str, Mapping[str, Any]]) -> str:
    sets = list(next(iter(methods.values()))["sets"])
    head = ["way", "setting", "success", "minus naive", "right object", *(f"VQA: {name}" for name in sets)]
    head += [f"success: {split}" for split in next(iter(methods.values()))["splits"] if split != "seen"]
    rows = []
    for way, of in ranked(methods):
        cells = [f"`{way}`", f"{of['knob']} {of['value']:g}"]
        cells += [shown(of["success"]), shown(of["success_minus_naive"], signed=True), shown(of["right_object"])]
        cells += [shown(of["sets"][name]["accuracy"]) for name in sets]
        cells += [shown(each["success"]) for split, each in of["splits"].items() if split != "seen"]
        rows.append(cells)
    return table(head, rows)


def short_table(methods: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any]) -> str:
    """Both abilities, for the README."""
    sets, splits = (list(next(iter(methods.values()))[what]) for what in ("sets", "splits"))
    before = [f"{found['before'][name]['accuracy']:.2f}" for name in sets]
    rows = [["before", *[""] * len(splits), *before]]
    for way, of in ranked(methods):
        cells = [shown(of["splits"][split]["success"]) for split in splits]
        rows.append([f"`{way}`", *cells, *(shown(of["sets"][name]["accuracy"]) for name in sets)])
    head = ["", *(f"success, {split}" for split in splits), *(f"VQA, {name}" for name in sets)]
    seeds = ", ".join(map(str, found["seeds"]))
    return table(head, rows) + f"\n\nTraining seeds: {seeds}."


def ranked(methods: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Those with the best sum of both abilities first."""
    return sorted(methods.items(), key=lambda item: -item[1]["success"]["mean"] - item[1]["vqa_after"]["mean"])


def families_table(methods: Mapping[str, Mapping[str, Any]], before: Measured) -> str:
    """Families of the robot's own scenes, and cross-entropies."""
    robot = next(iter(before))
    families = list(before[robot]["families"])
    head = ["way", *families, *(f"cross-entropy: {name}" for name in before)]
    first = [f"{before[robot]['families'][family]:.2f}" for family in families]
    rows = [["before", *first, *(f"{each['cross_entropy']:.2f}" for each in before.values())]]
    for way, of in methods.items():
        cells = [f"{of['sets'][robot]['families'][family]['mean']:.2f}" for family in families]
        rows.append([f"`{way}`", *cells, *(f"{of['sets'][name]['cross_entropy']['mean']:.2f}" for name in before)])
    return f"**By family of question**, `{robot}`, and cross-entropy of the true answers.\n\n" + table(head, rows)


def inside_table(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """What happened inside."""
    rows = []
    for way, of in methods.items():
        drift = ", ".join(f"{layer['mean']:.2g}" for layer in of["drift"])
        shed = f"{of['shed_mean']['mean']:.2%}, {of['shed_max']['mean']:.1%}" if "shed_mean" in of else "-"
        layers = f"{of['layers_projected']['mean']:.0%}" if "layers_projected" in of else "-"
        rows.append([f"`{way}`", f"{of['flow_loss']['mean']:.3f}", drift, shed, layers])
    head = ["way", "flow loss, held out", "drift by layer", "energy shed: mean, most", "layers projected"]
    return "**Inside.**\n\n" + table(head, rows)


def write_tuning(before: Measured, tuned: Mapping[str, Tuned]) -> None:
    """What tuning found, a row and a line for each way: one seed, fewer steps and episodes.

    Args:
        before: the VLM's VQA by set.
    """

    def merit(item: tuple[str, Tuned]) -> float:
        return max(success(run) + vqa_accuracy(run) for run in item[1].runs)

    rows = []
    for way, of in sorted(tuned.items(), key=merit, reverse=True):
        cells = [f"{run['value']:g}: {success(run):.2f}, {vqa_accuracy(run):.3f}" for run in of.runs]
        bold = [f"**{c}**" if run["value"] == of.chosen else c for c, run in zip(cells, of.runs, strict=True)]
        rows.append([f"`{way}`", of.knob, *bold])
    fill(PAGE, "tuning", table(["way", "tuned", "value: success, VQA"], rows))
    draw_tuning(before, tuned)


def shown(figure: Mapping[str, float | None], *, signed: bool = False, digits: int = 2) -> str:
    style = f"{'+' * signed}.{digits}f"
    mean = f"{figure['mean']:{style}}"
    return mean if figure["low"] is None else f"{mean} [{figure['low']:{style}}, {figure['high']:{style}}]"


def draw_frontier(methods: Mapping[str, Mapping[str, Any]]) -> None:
    """VQA retained against success, one point a way: where demonstrations were, and where the camera has moved."""
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(12, 5.2), layout="constrained", sharey=True)
    start = next(iter(methods.values()))["vqa_before"]["mean"]
    best = default(methods)
    for axis, split in zip(axes, SHOWN, strict=True):
        axis.axhline(start, color="#94a3b8", lw=1, ls="--")
        for way, of in methods.items():
            x, y = of["splits"][split]["success"], of["vqa_after"]
            errors = {} if x["low"] is None else {"xerr": _sides(x), "yerr": _sides(y)}
            colour = "#15803d" if way == best else "#1d4ed8" if way in PAPER else "#64748b"
            axis.errorbar(x["mean"], y["mean"], fmt="none", color=colour, lw=0.8, alpha=0.9, **errors)
            axis.plot(x["mean"], y["mean"], "o", color=colour, ms=6, zorder=4)  # no label hides one
            outdone = x["mean"] < methods[best]["splits"][split]["success"]["mean"]
            _label(axis, way, (x["mean"], y["mean"]), colour, left=outdone)
        _finish(
            axis,
            f"closed-loop success, split {split}",
            "VQA accuracy after, mean of the held-out sets" * (axis is axes[0]),
        )
        axis.set_xlim(right=min(1, axis.get_xlim()[1]))
    # What keeps nearly all lies close together: wide there, and narrow where much is lost.
    unit = 3 * WITHIN
    widened = (lambda y: np.arcsinh((y - start) / unit), lambda z: start + unit * np.sinh(z))
    axes[0].set_yscale("function", functions=widened)
    axes[0].set_yticks([0.6, 0.7, 0.8, 0.9, 0.95, 0.96, 0.97, 0.98])
    axes[0].annotate(
        "before", (0.01, start), xycoords=("axes fraction", "data"), va="bottom", color="#64748b", fontsize=9
    )
    figure.savefig(FRONTIER, dpi=110)
    plt.close(figure)


def draw_tuning(before: Measured, tuned: Mapping[str, Tuned]) -> None:
    """VQA retained against success, a line a way through the values of what is tuned."""
    figure, axis = plt.subplots(figsize=(9, 6), layout="constrained")
    axis.axhline(vqa_accuracy({"vqa": before}), color="#94a3b8", lw=1, ls="--")
    for way, of in tuned.items():
        colour = "#1d4ed8" if way in PAPER else "#64748b"
        points = np.array([(success(run), vqa_accuracy(run)) for run in of.runs])
        axis.plot(*points.T, "-o", color=colour, lw=1, ms=3, alpha=0.5)
        best = points[[run["value"] == of.chosen for run in of.runs]][0]
        axis.plot(*best, "o", color=colour, ms=6)
        _label(axis, way, best, colour)
    axis.margins(x=0.08)
    axis.set_ylim(bottom=LOWEST)
    _finish(axis, "closed-loop success of 50 episodes", "VQA accuracy after, mean of the held-out sets")
    figure.savefig(TUNING, dpi=110)
    plt.close(figure)


def draw_curves(by_way: Mapping[str, Sequence[Measured]]) -> None:
    """The paper's own figure: cross-entropy on 100 fixed samples of each set while training."""
    sets = list(next(iter(by_way.values()))[0]["vqa"])
    figure, axes = plt.subplots(1, len(sets), figsize=(10, 3.6), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        for way, runs in by_way.items():
            steps = [row["step"] for row in runs[0]["curve"]]
            values = np.array([[row[f"{name}_held"]["cross_entropy"] for row in run["curve"]] for run in runs])
            (line,) = axis.plot(steps, values.mean(axis=0), label=way, lw=1.6)
            axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.15, lw=0)
        axis.set_title(name, fontsize=11)
        _finish(axis, "step", "cross-entropy of 100 answers")
    axes[0][0].legend(frameon=False, fontsize=9)
    figure.savefig(CURVES, dpi=110)
    plt.close(figure)


def _label(axis: Axes, text: str, place: Sequence[float], colour: str, *, left: bool = False) -> None:
    """Beside a point, legible where lines cross."""
    halo = [withStroke(linewidth=3, foreground="white")]
    style = {"fontsize": 8, "color": colour, "path_effects": halo, "ha": "right" if left else "left"}
    axis.annotate(text, place, xytext=(-6 if left else 6, 4), textcoords="offset points", **style)


def _finish(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(color="#e5e7eb")
    axis.spines[["top", "right"]].set_visible(False)


def _sides(figure: Mapping[str, float]) -> list[list[float]]:
    return [[figure["mean"] - figure["low"]], [figure["high"] - figure["mean"]]]
