"""A report that needs nothing else: one HTML file with the rates, the training curves and the films of the episodes.

Made from files alone (the JSON of `aegis eval`, the films beside it, the `metrics.jsonl` of a checkpoint), so it can
be made again without running anything. With two evaluations of the same seeds, each episode shows both side by side.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from aegis_sim.charts import line_chart
from aegis_sim.files import write_atomically
from aegis_sim.statistics import Rate, Spread

MAX_FILM_BYTES = 10_000_000  # base64 adds a third; with the rest the page stays below 15 MB
RATES = {
    "success": "Success: object lifted 4 cm",
    "right_object": "Right object taken or gone for",
    "vqa": "Questions answered right",
}
ROWS = {"success": "success", "right_object": "right object", "vqa": "VQA accuracy"}  # of the table in text
SPREADS = {"time_to_success": "time to success, s", "jerk": "jerk, m/s^3"}
# what a line of metrics.jsonl has under "vqa" for each question set -> (title, whether it is an accuracy)
VQA_CURVES = {"accuracy": ("Held-out answers right", True), "cross_entropy": ("Held-out answer loss", False)}
CSS = Path(__file__).parent / "assets" / "report.css"


def write_report(
    path: Path,
    title: str,
    evaluations: Mapping[str, Path],
    *,
    metrics: Path | None = None,
    intro: str = "",
    commands: Sequence[str] = (),
) -> None:
    """Write the report, whole or not at all.

    Args:
        path: the HTML file.
        title: its heading.
        evaluations: label ("before", "after") -> JSON file of `aegis eval`; the last one is the one that matters.
        metrics: `metrics.jsonl` of a training run: a JSON object a line, with "step" and either "loss" or "vqa".
        intro: a sentence or two under the heading.
        commands: the command lines that led here, shown at the end.

    Raises:
        FileNotFoundError: one of the files is missing.
    """
    loaded = {label: json.loads(file.read_text()) for label, file in evaluations.items()}
    films = _films(loaded, {label: file.parent for label, file in evaluations.items()})
    sections = [
        _header(title, intro, loaded),
        _headline(loaded),
        _curves(metrics) if metrics is not None else "",
        _families(loaded),
        _wall(loaded, films),
        _footer(loaded, commands),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS.read_text()}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )
    write_atomically(path, page.encode())


def text_table(loaded: Mapping[str, Mapping[str, Any]], *, families: bool = False) -> str:
    """The measures of one or more evaluations (label -> what `aegis eval` writes) as lines of text."""
    names = {name: [_written(data.get(key)) for data in loaded.values()] for key, name in ROWS.items()}
    if families:
        seen = sorted({family for data in loaded.values() for family in data["vqa_families"]})
        for family in seen:
            names[f"  {family}"] = [_written(data["vqa_families"].get(family)) for data in loaded.values()]
    for blind in dict.fromkeys(name for data in loaded.values() for name in data["baselines"]):
        names[f"blind: {blind}"] = [_written(data["baselines"].get(blind)) for data in loaded.values()]
    for key, name in SPREADS.items():
        spreads = [data.get(key) for data in loaded.values()]
        names[name] = [str(Spread(**one)) if one and one["n"] else "" for one in spreads]
    for call in ("act", "ask"):
        latencies = [data.get("latency_ms", {}).get(call) for data in loaded.values()]
        names[f"{call}, ms"] = [
            f"{one['p50']:.3g}, p95 {one['p95']:.3g}" if one and one["n"] else "" for one in latencies
        ]
    rows = [("", *loaded)]
    rows += [(name.replace("_", " "), *(cell or "-" for cell in cells)) for name, cells in names.items() if any(cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _written(rate: Mapping[str, Any] | None) -> str:
    return str(Rate(**rate)) if rate else ""


def _films(loaded: Mapping[str, Any], folders: Mapping[str, Path]) -> dict[str, str]:
    """Film's path as the JSON names it, with its evaluation's label before it -> data URI, as many as fit.

    The first episodes of all evaluations come before their second ones: where two are compared, both are there.
    """
    films: dict[str, str] = {}
    room = MAX_FILM_BYTES
    names = [
        (index, label, episode["video"])
        for label, data in loaded.items()
        for index, episode in enumerate(data["per_episode"])
        if episode.get("video")
    ]
    for _, label, name in sorted(names, key=lambda entry: entry[0]):
        film = (folders[label] / name).read_bytes()
        room -= len(film)
        if room < 0:
            break
        films[f"{label}/{name}"] = f"data:image/webp;base64,{base64.b64encode(film).decode()}"
    return films


def _header(title: str, intro: str, loaded: Mapping[str, Any]) -> str:
    data = _last(loaded)
    model, task = data["policy"]["model"], data["task"]
    facts = f"{model} · task {task} · {data['episodes']} unseen episodes · seed {data['seed']}"
    lead = f"<p>{escape(intro)}</p>" if intro else ""
    return f'<h1>{escape(title)}</h1><p class="soft">{escape(facts)}</p>{lead}'


def _headline(loaded: Mapping[str, Any]) -> str:
    cards = []
    for key, name in RATES.items():
        rows = [
            f'<div class="measured {_tone(label, loaded)}"><span>'
            f'<span class="value">{_percent(data[key]["rate"])}</span><span class="label">{escape(label)}</span></span>'
            f'<span class="detail">{_detail(data[key])}</span>'
            f"{_interval(data[key])}</div>"
            for label, data in loaded.items()
            if key in data
        ]
        if rows:
            cards.append(f'<section class="metric card"><h3>{escape(name)}</h3>{"".join(rows)}</section>')
    return f'<div class="headline">{"".join(cards)}</div>'


def _curves(metrics: Path) -> str:
    """The loss of every logged step, and the scores on each question set, which are measured now and then."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines() if line.strip()]
    loss = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    charts = [line_chart("Flow-matching loss", {"": loss})] if loss else []
    measured = [line for line in lines if line.get("vqa")]
    for key, (title, accuracy) in VQA_CURVES.items():
        series = {name: [(line["step"], line["vqa"][name][key]) for line in measured] for name in _sets(measured)}
        if series:
            charts.append(line_chart(title, series, unit_interval=accuracy, markers=True))
    return f'<h2>Training</h2><div class="charts">{"".join(charts)}</div>' if charts else ""


def _sets(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """The question sets that a training run measured, always the same ones."""
    return list(measured[0]["vqa"]) if measured else []


def _families(loaded: Mapping[str, Any]) -> str:
    families = sorted({family for data in loaded.values() for family in data["vqa_families"]})
    nothing = Rate(None, 0, 0.0, 1.0).to_dict()
    head = "".join(f"<th>{escape(label)}</th>" for label in loaded)
    rows = []
    for family in families:
        cells = [data["vqa_families"].get(family, nothing) for data in loaded.values()]
        rows.append((family, cells))
    for name in _last(loaded)["baselines"]:
        label = f"without looking: {name.replace('_', ' ')}"
        rows.append((label, [data["baselines"].get(name, nothing) for data in loaded.values()]))
    body = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(
            f'<td class="{_tone(label, loaded)}"><span class="share">{_percent(rate["rate"])} '
            f'<span class="soft small">n = {rate["n"]}</span></span>{_interval(rate)}</td>'
            for label, rate in zip(loaded, cells, strict=True)
        )
        + "</tr>"
        for name, cells in rows
    )
    return (
        '<h2>Questions, by family</h2><div class="table card"><table>'
        f"<thead><tr><th>family</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _wall(loaded: Mapping[str, Any], films: Mapping[str, str]) -> str:
    """One card a seed, with a film (where there is one) and the questions of each evaluation that ran it."""
    takes: dict[int, list[tuple[str, dict[str, Any]]]] = {}
    for label, data in loaded.items():
        for episode in data["per_episode"]:
            if f"{label}/{episode.get('video')}" in films:
                takes.setdefault(episode["seed"], []).append((label, episode))
    if not takes:
        return ""
    cards = "".join(_episode(number, runs, films) for number, runs in enumerate(takes.values(), start=1))
    return (
        "<h2>Episodes</h2>"
        '<p class="soft">At real speed. Large: a view for people; small: the images the policy gets. The answers are '
        "checked against the simulator at the instant of the question.</p>"
        f'<div class="wall{" single" if len(loaded) == 1 else ""}">{cards}</div>'
    )


def _episode(number: int, runs: list[tuple[str, dict[str, Any]]], films: Mapping[str, str]) -> str:
    instruction, seed = runs[0][1]["instruction"], runs[0][1]["seed"]
    parts = []
    for label, episode in runs:
        outcome = "success" if episode["success"] else episode["failure"]
        film = films[f"{label}/{episode['video']}"]
        parts.append(
            f'<div class="take"><header><span>{escape(label)}</span>'
            f'<span class="chip {"good" if episode["success"] else "bad"}">{escape(outcome)}</span></header>'
            f'<img alt="film of the episode" loading="lazy" src="{film}">'
            f"{_asked(episode)}</div>"
        )
    return (
        f'<article class="episode card"><h3>{escape(instruction)}'
        f'<span class="soft small" title="seed {seed}">episode {number}</span></h3>'
        f'<div class="takes">{"".join(parts)}</div></article>'
    )


def _asked(episode: Mapping[str, Any]) -> str:
    instants = {0: "at the start", episode["steps"]: "at the end"}
    items = []
    for step, group in groupby(episode["asked"], key=lambda one: one["step"]):
        items.append(f'<li class="instant">{instants.get(step, "on the way")}, step {step}</li>')
        for one in group:
            correction = "" if one["right"] else f' <span class="soft">(truth: {escape(one["truth"])})</span>'
            mark, kind = ("✓", "yes") if one["right"] else ("✗", "no")
            items.append(
                f'<li><span class="{kind}">{mark}</span><span>{escape(one["question"])}? '
                f"<b>{escape(one['answer']) or '(nothing)'}</b>{correction}</span></li>"
            )
    return f'<ul class="asked">{"".join(items)}</ul>'


def _footer(loaded: Mapping[str, Any], commands: Sequence[str]) -> str:
    data = _last(loaded)
    versions = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    lines = "".join(f"<p><code>{escape(command)}</code></p>" for command in commands)
    return (
        f'<footer class="soft small">{"<h2>How this was made</h2>" if lines else ""}{lines}'
        "<p>Intervals are 95% Wilson score intervals; n counts episodes, and for questions, questions. They take each "
        "question as independent: where several are asked about one scene, the true interval is somewhat wider.</p>"
        f"<p>{escape(versions)} · checkpoint <code>{escape(data['policy']['checkpoint'][:16])}</code></p></footer>"
    )


def _last(loaded: Mapping[str, Any]) -> Any:
    return loaded[list(loaded)[-1]]


def _tone(label: str, loaded: Mapping[str, Any]) -> str:
    return "tone-last" if label == list(loaded)[-1] else "tone-0"


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
