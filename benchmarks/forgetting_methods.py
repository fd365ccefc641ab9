"""What benchmarks/forgetting.py compares: each way to fine-tune, and the one setting of it that is tuned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from aegis_policy.training.config import MethodName, TrainConfig

BASE = TrainConfig(batch_size=16, vqa_questions=100, log_every=20, keep=1)
"""What all have in common. A hundred fixed questions of each set are followed, as in the paper's own figure."""
PART = 1 / 3
"""Share of the steps that a first or a last stage has, where there are two."""


@dataclass(frozen=True)
class Train:
    """`aegis train` by this recipe from what the stage before made."""

    recipe: TrainConfig

    @property
    def name(self) -> str:
        """Tells it from any other; what is read lies in WORK and is the same for all."""
        changed = {key: value for key, value in vars(self.recipe).items() if value != getattr(BASE, key)}
        named = {"method": self.recipe.method, **changed}
        return ",".join(f"{key}={value}" for key, value in named.items() if key != "replay")


@dataclass(frozen=True)
class Merge:
    """`aegis merge` with the VLM where all began."""

    weight: float

    @property
    def name(self) -> str:
        return f"merge={self.weight:g}"


Stage = Train | Merge


@dataclass(frozen=True)
class Way:
    """A way to fine-tune.

    Attributes:
        knob: what of it is tuned, in words, and among which values.
        beyond: tried besides, the one where the first of the values is the best, the other where the last is.
        stages: of a value and a number of steps, the stages that it consists of.
        between: a value that was added once FINAL's runs were known, and is run on its seeds whatever tuning says.
    """

    name: str
    knob: str
    values: tuple[float, float, float]
    beyond: tuple[float, float]
    stages: Callable[[float, int], tuple[Stage, ...]]
    between: float | None = None


def ways(work: Path) -> tuple[Way, ...]:
    """All of them; what they read besides demonstrations lies in `work`."""
    replay = tuple(str(work / f"{name}.hdf5") for name in ("questions", "drawn"))
    return (
        alone("naive", "learning_rate", RATES, FURTHER),
        alone("stop-gradient", "expert_learning_rate", (5e-4, 1e-3, 2e-3), (2.5e-4, 4e-3)),
        alone("lora", "learning_rate", (4e-4, 1e-3, 2.5e-3), (1.6e-4, 6e-3)),
        alone("co-train", "learning_rate", (5e-5, 1e-4, 2e-4), (2.5e-5, 4e-4), replay=replay, replay_share=0.25),
        alone("aegis", "learning_rate", RATES, FURTHER),
        replace(alone("naive", "learning_rate", RATES, FURTHER, freeze_vision=True), name="naive, vision frozen"),
        replace(alone("distil-features", "strength", *HOLDING), between=BETWEEN),
        Way("merge", "weight", *WEIGHTS, lambda v, n: (train("naive", n), Merge(v))),
        Way(
            "merge, expert re-fitted",
            "weight",
            *WEIGHTS,
            lambda v, n: (train("naive", n - part(n)), Merge(v), still(part(n))),
        ),
        Way(
            "expert first",
            "backbone rate",
            RATES,
            FURTHER,
            lambda v, n: (still(part(n)), train("naive", n - part(n), learning_rate=v)),
        ),
        Way(
            "expert first, features held",
            "strength",
            *HOLDING,
            lambda v, n: (still(part(n)), train("distil-features", n - part(n), strength=v)),
        ),
    )


RATES, FURTHER = (1e-4, 2e-4, 4e-4), (5e-5, 8e-4)
HOLDING = (1.0, 4.0, 16.0), (0.25, 64.0)
BETWEEN = 32.0
"""A strength between 64, at which a VLM that never saw its robot moved less well than by naive fine-tuning, and 16, at
which the one that ships lost more than a point."""
WEIGHTS = (0.3, 0.5, 0.7), (0.1, 0.9)
TAKEN_OUT = {"anchor-penalty": "strength", "l2-sp": "strength", "distil-answers": "strength"}
"""Methods that aegis train had when they were tuned, and what of them was. Others beat them, so they were removed."""
KNOBS = {"learning_rate": "backbone rate", "expert_learning_rate": "expert rate", "strength": "strength"}


def alone(
    method: MethodName,
    setting: str,
    values: tuple[float, float, float],
    beyond: tuple[float, float],
    **fixed: object,
) -> Way:
    """A method from end to end, whose `setting` is tuned."""
    knob = "adapters' rate" if method == "lora" else KNOBS[setting]
    return Way(method, knob, values, beyond, lambda v, n: (train(method, n, **{setting: v}, **fixed),))


def train(method: MethodName, steps: int, **changes: object) -> Train:
    return Train(replace(BASE, method=method, steps=steps, **changes))


def still(steps: int, **changes: object) -> Train:
    """The expert alone learns."""
    return train("stop-gradient", steps, **changes)


def part(steps: int) -> int:
    return round(PART * steps)
