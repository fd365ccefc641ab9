"""Tables in the documentation that scripts write, between `<!-- NAME: begin ... -->` and `<!-- NAME: end -->`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; a row may be shorter than another."""
    width = max(len(cells) for cells in (head, *rows))
    lines = [[*cells, *[""] * (width - len(cells))] for cells in (head, ["---"] * width, *rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def fill(page: Path, name: str, text: str) -> None:
    """Put `text` between the marks of that name."""
    marks = re.compile(rf"(<!-- {name}: begin[^>]*-->\n).*?(\n?<!-- {name}: end -->)", re.DOTALL)
    written, found = marks.subn(lambda match: f"{match[1]}{text}\n{match[2].lstrip()}", page.read_text())
    if found != 1:
        raise ValueError(f"{page}: expected the marks '{name}: begin' and '{name}: end' once, found {found} pairs")
    page.write_text(written)
