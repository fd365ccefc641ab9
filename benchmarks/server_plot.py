"""The plot of benchmarks/server.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(found: dict[str, Any], file: Path) -> None:
    """Latency and memory over the soak, and chunks a second with and without batching."""
    figure, (latency, memory, rate) = plt.subplots(
        1, 3, figsize=(13, 3.8), layout="constrained", width_ratios=(2, 1.5, 1)
    )
    rows = found["soak"]["quarters"]
    minutes = [15 / 60 * (index + 1) for index in range(len(rows))]
    for key, label, colour in (
        ("act_p50_s", "act, median", "#1d4ed8"),
        ("act_p99_s", "act, 99%", "#93c5fd"),
        ("answer_p99_s", "answer, 99%", "#d97706"),
    ):
        latency.plot(minutes, [row[key] for row in rows], label=label, color=colour)
    changes = [index for index in range(1, len(rows)) if rows[index]["clients"] != rows[index - 1]["clients"]]
    for index in [0, *changes]:
        latency.axvline(15 / 60 * index, color="#cbd5e1", lw=1)
        latency.annotate(
            f"{rows[index]['clients']} clients",
            (15 / 60 * index, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -12),
            textcoords="offset points",
            fontsize=8,
            color="#64748b",
        )
    latency.set(title="latency, s", xlabel="minute")
    latency.legend(frameon=False, fontsize=9, loc="center left")
    memory.plot(minutes, [row["rss_mb"] for row in rows], color="#0f766e")
    slope = found["soak"]["rss_slope_mb_per_h"]
    memory.set(title=f"memory of the server, MB ({slope:+.1f} an hour)", xlabel="minute", ylim=(0, None))
    rates = found["acts_per_s"]
    names = {"1": "1 client", "8, one at a time": "8, one\nat a time", "8": "8, together"}
    rate.bar([names[key] for key in names], [rates[key] for key in names], color=["#94a3b8", "#94a3b8", "#15803d"])
    rate.set(title="chunks a second")
    for axis in (latency, memory, rate):
        axis.grid(axis="y", color="#e5e7eb")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    plt.close(figure)
