"""What a run tells while it goes: metrics.jsonl, TensorBoard, and what VQA was before and is now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from aegis_policy.training import state, world
from aegis_policy.training.vqa_eval import VQAScore


class Metrics:
    """The metrics of a training folder; the first process writes them, all know them.

    Args:
        text: metrics.jsonl up to the checkpoint that a resumed run goes on from.
    """

    def __init__(self, output: Path, text: str):
        self.output, self.text = output, text
        measured = [row["vqa"] for row in map(json.loads, text.splitlines()) if "vqa" in row]
        self.accuracy: dict[str, tuple[float, float]] = {
            name: (first["accuracy"], measured[-1][name]["accuracy"])
            for name, first in (measured[0] if measured else {}).items()
        }
        """Of each question set, at step 0 and now."""

    def open(self, done: int) -> None:
        """Begin to write after so many steps, without what came after the checkpoint."""
        self._board: SummaryWriter | None = None
        if world.is_first():
            state.write_text(self.output / state.METRICS, self.text)
            self._board = SummaryWriter(str(self.output / "tensorboard"), purge_step=done + 1)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def step(self, step: int, row: Mapping[str, float]) -> None:
        """Add what a training step tells."""
        self._write({"step": step, **row}, {f"train/{name}": value for name, value in row.items()})

    def vqa(self, step: int, scores: Mapping[str, VQAScore]) -> None:
        """Add how well the question sets are answered."""
        figures = {}
        for name, result in scores.items():
            figures[f"vqa/{name}/accuracy"] = result.accuracy
            figures[f"vqa/{name}/cross_entropy"] = result.cross_entropy
            before, _ = self.accuracy.get(name, (result.accuracy, 0.0))
            self.accuracy[name] = before, result.accuracy
        self._write({"step": step, "vqa": {name: asdict(result) for name, result in scores.items()}}, figures)

    def _write(self, row: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        if self._board is None:
            return
        line = json.dumps(row) + "\n"
        self.text += line
        with (self.output / state.METRICS).open("a") as file:
            file.write(line)
        for name, value in figures.items():
            self._board.add_scalar(name, value, row["step"])
