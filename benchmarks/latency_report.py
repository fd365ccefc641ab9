"""The table and the plot of benchmarks/latency.py."""

from __future__ import annotations

from typing import Any

from pages import fill, table
from provenance import ROOT

PAGE, PLOT = ROOT / "docs" / "engine.md", ROOT / "docs" / "images" / "latency.png"
ROWS = {
    "act torch": "act, torch",
    "act onnx": "act, onnxruntime",
    "act re-encode": "act, torch, reading anew at every step",
    "act lerobot": "act, lerobot's PI0",
    "act products": "an act's matrix products alone",
    "act at the rate": "the same at the rate of a large product",
    "ask torch": "ask, torch",
    "ask onnx": "ask, onnxruntime",
    "ask generate": "ask, transformers' generate",
    "first torch": "first word of an answer, torch",
    "first onnx": "first word of an answer, onnxruntime",
}
RATIOS = {
    "act_vs_reencode": ("act, against reading anew", 0.5),
    "act_vs_lerobot": ("act, against lerobot's PI0", 0.5),
    "ask_vs_generate": ("ask, against generate", 0.7),
    "act_vs_gemm_floor": ("act, against its products at the machine's rate", 2.0),
    "act_vs_products": ("act, against its products as they are", None),
}
COLOURS = {"torch": "#2563eb", "onnx": "#059669"}


def write(measured: dict[str, Any]) -> None:
    found = measured["configurations"]
    head = ["ms, median (95%)", *found]
    rows = [[says, *(_ms(each["ms"].get(name)) for each in found.values())] for name, says in ROWS.items()]
    for backend in COLOURS:
        batched = (
            f"{each['acts_per_s'][backend]['1']:.3g}, {max(each['acts_per_s'][backend].values()):.3g}"
            for each in found.values()
        )
        rows.append([f"acts a second, one by one and at best up to 16 at once, {backend}", *batched])
    rows.append(["most memory, torch, onnxruntime, MB", *(_memory(each["peak_mb"]) for each in found.values())])
    backends = [(size, backend) for size in found for backend in COLOURS]
    ratio_rows = [
        [
            says,
            "-" if goal is None else f"{goal}",
            *(_ratio(found[size]["ratios_by_backend"][backend].get(name), goal) for size, backend in backends),
        ]
        for name, (says, goal) in RATIOS.items()
    ]
    ratio_head = ["ratio of medians", "goal, at most", *(f"{size}, {backend}" for size, backend in backends)]
    fill(PAGE, "latency", table(head, rows))
    fill(PAGE, "ratios", table(ratio_head, ratio_rows))
    draw(found)


def _ms(spread: dict[str, float] | None) -> str:
    return "-" if spread is None else f"{_figure(spread['p50'])} ({_figure(spread['p95'])})"


def _figure(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _memory(peak: dict[str, float]) -> str:
    return f"{peak['torch']:.0f}, {peak['onnx']:.0f}"


def _ratio(value: float | None, goal: float | None) -> str:
    if value is None:
        return "-"
    return f"**{value:.2f}**" if goal is not None and value <= goal else f"{value:.2f}"


def draw(found: dict[str, Any]) -> None:
    """How long each takes, a panel a size; and acts a second by how many are computed together."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2 * len(found), figsize=(5.6 * len(found), 3.6), layout="constrained")
    for number, (size, each) in enumerate(found.items()):
        bars, lines = panels[2 * number], panels[2 * number + 1]
        names = [name for name in reversed(ROWS) if name in each["ms"]]
        colours = [COLOURS.get(name.split()[1], "#9ca3af") for name in names]
        bars.barh(names, [each["ms"][name]["p50"] for name in names], color=colours)
        bars.set(title=f"{size}: one call", xlabel="ms, median")
        for backend, colour in COLOURS.items():
            rates = each["acts_per_s"][backend]
            lines.plot([int(batch) for batch in rates], list(rates.values()), marker="o", color=colour, label=backend)
        lines.set(title=f"{size}: together", xlabel="acts at once", ylabel="acts a second", ylim=(0, None))
        lines.legend(frameon=False)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(PLOT, dpi=110)
