"""A report that needs nothing else: one HTML file with the rates, the curves and the films of the episodes.

Made from files alone (the JSON of `aegis eval`, the films beside it, the `metrics.jsonl` of a checkpoint), so it can
be made again without running anything. With two evaluations of the same seeds, each episode shows both side by side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from aegis_sim.files import write_atomically
from aegis_sim.report_plots import headline, measures, training_curves
from aegis_sim.report_wall import wall
from aegis_sim.statistics import Rate, Spread, three_digits

ROWS = {"success": "success", "right_object": "right object", "vqa": "VQA accuracy"}  # of the table in text
SPREADS = {"time_to_success": "time to success, s", "jerk": "jerk, m/s^3"}
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
    sections = [
        _header(title, intro, loaded),
        headline(loaded),
        measures(loaded),
        training_curves(metrics) if metrics is not None else "",
        wall(loaded, {label: file.parent for label, file in evaluations.items()}),
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
            f"{three_digits(one['p50'])}, p95 {three_digits(one['p95'])}" if one and one["n"] else ""
            for one in latencies
        ]
    rows = [("", *loaded)]
    rows += [(name.replace("_", " "), *(cell or "-" for cell in cells)) for name, cells in names.items() if any(cells)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _written(rate: Mapping[str, Any] | None) -> str:
    return str(Rate(**rate)) if rate else ""


def _header(title: str, intro: str, loaded: Mapping[str, Any]) -> str:
    data = _last(loaded)
    model, task = data["policy"]["model"], data["task"]
    split = f", {data['settings']['split']}" if "split" in data["settings"] else ""
    facts = f"{model} · task {task}{split} · {data['episodes']} unseen episodes · seed {data['seed']}"
    lead = f"<p>{escape(intro)}</p>" if intro else ""
    return f'<h1>{escape(title)}</h1><p class="soft">{escape(facts)}</p>{lead}'


def _footer(loaded: Mapping[str, Any], commands: Sequence[str]) -> str:
    data = _last(loaded)
    versions = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    lines = "".join(f"<p><code>{escape(command)}</code></p>" for command in commands)
    return (
        f'<footer class="soft small">{"<h2>How this was made</h2>" if lines else ""}{lines}'
        "<p>Intervals are 95% Wilson score intervals; n counts episodes, and for questions, questions. They take each "
        "question as independent in the families; in all, those about one scene count as what they are worth.</p>"
        f"<p>{escape(versions)} · checkpoint <code>{escape(data['policy']['checkpoint'][:16])}</code></p></footer>"
    )


def _last(loaded: Mapping[str, Any]) -> Any:
    return loaded[list(loaded)[-1]]
