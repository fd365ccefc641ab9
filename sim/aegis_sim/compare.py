"""Two policies on the same episodes: which did better, counted in pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aegis_sim.statistics import mcnemar


@dataclass(frozen=True)
class Pairs:
    """Episodes that two policies ran, by who succeeded."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def p_value(self) -> float:
        """Exact, two-sided; see `statistics.mcnemar`."""
        return mcnemar(self.only_first, self.only_second)

    def __str__(self) -> str:
        n = self.both + self.only_first + self.only_second + self.neither
        return "\n".join(
            [
                f"{n} pairs: both succeed in {self.both}, neither in {self.neither}",
                f"discordant: only the first in {self.only_first}, only the second in {self.only_second}",
                f"exact McNemar test, two-sided: p = {self.p_value:.3g}",
            ]
        )


def compare_files(first: Path, second: Path) -> Pairs:
    """Pair the episodes of two JSON files of `aegis eval` by their seeds.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one is not such a file, or has no robot to move, or they are not of the same episodes; says why.
    """
    one, other = _success(first), _success(second)
    for what, ours, theirs in zip(("task", "split"), one[:2], other[:2], strict=True):
        if ours != theirs:
            raise ValueError(f"{first} is of {what} '{ours}', {second} of '{theirs}': expected the same episodes")
    wins, others = one[2], other[2]
    if wins.keys() != others.keys():
        raise ValueError(
            f"{first} and {second} share {len(wins.keys() & others.keys())} of {len(wins)} and {len(others)} episodes: "
            "evaluate both with the same --seed and --episodes, and without --until-width"
        )
    outcomes = [(wins[seed], others[seed]) for seed in wins]
    return Pairs(*(outcomes.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))


def _success(path: Path) -> tuple[str, str, dict[int, bool]]:
    """Task, split, and whether each seed's episode succeeded."""
    try:
        data: Mapping[str, Any] = json.loads(path.read_text())
        task, split = data["task"], data["settings"].get("split", "")
        won = {episode["seed"]: episode["success"] for episode in data["per_episode"] if "success" in episode}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a file of `aegis eval --json` ({error!r})") from error
    if not won:
        raise ValueError(f"{path}: task '{task}' has no robot to move, so no episodes to pair")
    return task, split, won
