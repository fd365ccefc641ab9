"""What was measured of a checkpoint, on its model card: both abilities, before fine-tuning and after.

`measured.json` beside the card keeps the figures: {"before": {...}, "after": {...}}, each "TASK, SPLIT" -> rates. What
was "after" of a checkpoint is "before" of those that training makes from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aegis_sim.files import write_atomically
from aegis_sim.results import Evaluation

FILE, CARD = "measured.json", "README.md"
HEADING = "\n## What was measured\n"
RATES = ("success", "right_object", "vqa")
Measured = Mapping[str, Mapping[str, Any]]


def add_to_card(folder: Path, evaluation: Evaluation) -> None:
    """Put an evaluation of the checkpoint in `folder` on its card; an earlier one of that task and split goes."""
    file, card = folder / FILE, folder / CARD
    known = json.loads(file.read_text()) if file.exists() else {"before": {}, "after": {}}
    found = evaluation.to_dict()
    kept = {key: found[key] for key in (*RATES, "vqa_families", "settings") if found.get(key)}
    known["after"][", ".join([evaluation.task, *filter(None, [evaluation.settings.get("split")])])] = kept
    write_atomically(file, (json.dumps(known, indent=1) + "\n").encode())
    text, _, old = (card.read_text() if card.exists() else "").partition(HEADING)
    own = old[place:] if (place := old.find("\n## ")) >= 0 else ""  # what somebody has written after it
    write_atomically(card, (text + HEADING + measured_table(known["after"], known["before"]) + own).encode())


def measured_table(after: Measured, before: Measured | None = None) -> str:
    """Markdown: every rate with its interval, beside that of before where there are any, and answers by family."""
    head = ["task, split", "what", *(["before"] if before else []), "rate", "n"]
    lines = ["", "Unseen seeds, rates with 95% Wilson intervals, by `aegis eval`.", ""]
    lines += [_row(head), _row(["---"] * len(head))]
    for name, measured in after.items():
        then = _rates((before or {}).get(name, {}))
        for what, rate in _rates(measured).items():
            cells = [_written(then.get(what))] if before else []
            lines.append(_row([name, what, *cells, _written(rate), str(rate["n"])]))
    return "\n".join([*lines, ""])


def _rates(measured: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    rates = {kind: measured[kind] for kind in RATES if kind in measured and measured[kind]["n"]}
    return rates | {f"vqa: {family}": rate for family, rate in measured.get("vqa_families", {}).items()}


def _written(rate: Mapping[str, Any] | None) -> str:
    return f"{rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]" if rate else "-"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
