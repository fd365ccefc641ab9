"""What a report shows of an evaluation's figures: cards, charts and a table, each an HTML fragment or nothing.

Evaluations come as `loaded`: label -> what `aegis eval` wrote. The last one is the one that matters.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from aegis_sim.charts import bar_chart, interval_chart, line_chart, marked, noisy, stairs
from aegis_sim.statistics import Spread, three_digits

Loaded = Mapping[str, Mapping[str, Any]]

RATES = {
    "success": "Success: the job is done",
    "right_object": "Right object taken or gone for",
    "vqa": "Questions answered right",
}
SPREADS = {"time_to_success": "time to success, s", "jerk": "jerk, m/s³"}
CALLS = {"act": "a call of act, ms", "ask": "a call of ask, ms"}
# what a line of metrics.jsonl has under "vqa" for each question set -> (title, whether it is an accuracy)
VQA_CURVES = {"accuracy": ("Held-out answers right", True), "cross_entropy": ("Held-out answer loss", False)}


def headline(loaded: Loaded) -> str:
    """A card for each rate, with each evaluation's interval."""
    cards = []
    for key, name in RATES.items():
        rows = [
            f'<div class="measured {tone}"><span>'
            f'<span class="value">{_percent(data[key]["rate"])}</span><span class="label">{escape(label)}</span></span>'
            f'<span class="detail">{_detail(data[key])}</span>'
            f"{_interval(data[key])}</div>"
            for tone, (label, data) in zip(tones(loaded), loaded.items(), strict=True)
            if key in data
        ]
        if rows:
            cards.append(f'<section class="metric card"><h3>{escape(name)}</h3>{"".join(rows)}</section>')
    return f'<div class="headline">{"".join(cards)}</div>'


def measures(loaded: Loaded) -> str:
    """How soon episodes succeeded, what went wrong in the others, answers by family; motion and time in figures."""
    charts = [_over_time(loaded), _failures(loaded), _families(loaded)]
    return f'<h2>Measured</h2><div class="charts">{"".join(charts)}</div>{_figures(loaded)}'


def training_curves(metrics: Path) -> str:
    """The loss of every logged step, and the scores on each question set, which are measured now and then."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines() if line.strip()]
    loss = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    charts = [line_chart("Flow-matching loss", {"": loss}, noisy)] if loss else []
    measured = [line for line in lines if line.get("vqa")]
    for key, (title, accuracy) in VQA_CURVES.items():
        series = {name: [(line["step"], line["vqa"][name][key]) for line in measured] for name in _sets(measured)}
        if series:
            charts.append(line_chart(title, series, marked, unit_interval=accuracy))
    return f'<h2>Training</h2><div class="charts">{"".join(charts)}</div>' if charts else ""


def tones(loaded: Loaded) -> list[str]:
    """The colour of each evaluation."""
    return [*(f"tone-{index % 2}" for index in range(len(loaded) - 1)), "tone-last"]


def success_over_time(data: Mapping[str, Any], end: float) -> list[tuple[float, float]]:
    """(t, share of all episodes that had succeeded by second t), a point for each success, from 0 to `end` seconds."""
    rate, episodes = data["policy"]["control_hz"], data["per_episode"]
    times = sorted(episode["steps"] / rate for episode in episodes if episode["success"])
    shares = [(time, count / len(episodes)) for count, time in enumerate(times, start=1)]
    return [(0.0, 0.0), *shares, (end, len(times) / len(episodes))]


def _over_time(loaded: Loaded) -> str:
    if not all("success" in data for data in loaded.values()):
        return ""
    end = max(one["steps"] / data["policy"]["control_hz"] for data in loaded.values() for one in data["per_episode"])
    curves = {label: success_over_time(data, end) for label, data in loaded.items()}
    title = "Succeeded within so many seconds"
    return line_chart(title, curves, stairs, tones=tones(loaded), against="seconds", unit_interval=True)


def _failures(loaded: Loaded) -> str:
    counts = [Counter(one["failure"] for one in data["per_episode"] if one.get("failure")) for data in loaded.values()]
    total = sum(counts, Counter[str]())
    if not total:
        return ""
    kinds = sorted(total, key=lambda kind: (-counts[-1][kind], -total[kind], kind))
    rows = {kind: [count[kind] for count in counts] for kind in kinds}
    names = {
        label: f"{count.total()} of {data['episodes']}"
        for count, (label, data) in zip(counts, loaded.items(), strict=True)
    }
    return bar_chart("What went wrong", rows, names, tones(loaded))


def _families(loaded: Loaded) -> str:
    """Answers right by family and, of tasks of questions alone, what answering without looking gets."""
    rows = {
        family.replace("_", " "): [data["vqa_families"].get(family) for data in loaded.values()]
        for family in sorted({family for data in loaded.values() for family in data["vqa_families"]})
    }
    for blind in dict.fromkeys(name for data in loaded.values() for name in data["baselines"]):
        rows[f"blind: {blind.replace('_', ' ')}"] = [data["baselines"].get(blind) for data in loaded.values()]
    names = {label: _percent(data["vqa"]["rate"]) for label, data in loaded.items()}
    return interval_chart("Answers right, by family", rows, names, tones(loaded)) if rows else ""


def _figures(loaded: Loaded) -> str:
    """Medians: of what episodes took and how smooth they were, and of how long the policy took."""
    rows, nothing = [], "-"
    for key, name in SPREADS.items():
        spreads = [data.get(key) for data in loaded.values()]
        rows.append((name, [str(Spread(**one)) if one and one["n"] else "" for one in spreads]))
    for call, name in CALLS.items():
        calls = [data["latency_ms"][call] for data in loaded.values()]
        rows.append((name, [_latency(one) if one["n"] else "" for one in calls]))
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell) or nothing}</td>' for cell in cells)}</tr>"
        for name, cells in rows
        if any(cells)
    )
    head = "".join(f"<th>{escape(label)}</th>" for label in loaded)
    if not body:
        return ""
    return (
        '<div class="table card"><table><thead><tr><th>median [quartiles]</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _latency(calls: Mapping[str, float]) -> str:
    return f"{three_digits(calls['p50'])}, 95% under {three_digits(calls['p95'])}"


def _sets(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """The question sets that a training run measured, always the same ones."""
    return list(measured[0]["vqa"]) if measured else []


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.0f}%"


def _detail(rate: Mapping[str, Any]) -> str:
    return f"{_percent(rate['low'])} to {_percent(rate['high'])}, n = {rate['n']}"


def _interval(rate: Mapping[str, Any]) -> str:
    """The interval as a bar on a scale from 0 to 1, the rate as a mark on it."""
    if rate["rate"] is None:
        return '<span class="interval"></span>'
    low, high, middle = (100 * rate[key] for key in ("low", "high", "rate"))
    return (
        f'<span class="interval"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<b style="left:{middle:.1f}%"></b></span>'
    )
