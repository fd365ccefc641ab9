"""Which GPU fine-tuning PaliGemma 2 3B needs, by method and batch size: `python benchmarks/gpu_memory.py`.

Counted, on a training step without data, and not measured: no GPU is needed, and none was there. That the count is
right for small models on a processor is what tests/training/test_cost.py and benchmarks/step_cost.py hold. Some minutes
on one core. Writes benchmarks/results/gpu_memory.json and a table in docs/method.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import torch
from pages import fill, table
from provenance import ROOT, provenance
from tqdm import tqdm

from aegis_policy.model.config import expert_for, paligemma2_3b
from aegis_policy.training.config import MethodName, TrainConfig
from aegis_policy.training.cost import count_step

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "gpu_memory.json", ROOT / "docs" / "method.md"
WAYS: dict[str, tuple[MethodName, bool]] = {
    "`naive`": ("naive", False),
    "`naive --freeze-vision`": ("naive", True),
    "`aegis`": ("aegis", False),
    "`aegis --freeze-vision`": ("aegis", True),
    "`co-train`": ("co-train", False),
    "`distil-features`": ("distil-features", False),
    "`stop-gradient`": ("stop-gradient", False),
}
BATCHES = (4, 8, 24)
CAMERAS, PROMPT, STATE, ACTIONS, HORIZON = 2, 16, 7, 7, 10
GPUS_GB = (24, 40, 48, 80, 141)
USABLE = 0.9
"""Of a GPU's memory; the rest is left to its driver, to the allocator's waste and to what kernels need inside."""


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    vlm = paligemma2_3b()
    expert = expert_for(vlm, STATE, ACTIONS, HORIZON)
    costs: dict[str, dict[str, Any]] = {way: {} for way in WAYS}
    for way, size in tqdm([(way, size) for way in WAYS for size in BATCHES], unit="count"):
        method, freeze = WAYS[way]
        config = TrainConfig(method=method, freeze_vision=freeze, batch_size=size)
        cost = count_step(config, vlm, expert, cameras=CAMERAS, prompt=PROMPT)
        costs[way][str(size)] = {**asdict(cost), "gpu_gb": gpu(cost.peak)}
    shapes = {"cameras": CAMERAS, "prompt_tokens": PROMPT, "noise_samples": TrainConfig().noise_samples}
    settings = {**shapes, "horizon": HORIZON, "usable": USABLE, "torch": torch.__version__}
    RESULTS.write_text(json.dumps({"bytes": costs, **settings, **provenance()}, indent=1) + "\n")
    write_table(costs)


def gpu(peak: int) -> int | None:
    """The smallest that suffices, GB."""
    return next((size for size in GPUS_GB if peak <= USABLE * size * 1e9), None)


def write_table(costs: dict[str, dict[str, Any]]) -> None:
    """Put the figures into the page, in GB."""
    head = ["method", "weights", "gradients", "moments", *(f"peak, B = {size}" for size in BATCHES)]
    rows = []
    for way, by_size in costs.items():
        any_size = by_size[str(BATCHES[0])]
        fixed = [f"{any_size[part] / 1e9:.1f}" for part in ("weights", "gradients", "moments")]
        peaks = [f"{cost['peak'] / 1e9:.0f}: {cost['gpu_gb'] or 'none'}" for cost in by_size.values()]
        rows.append([way, *fixed, *peaks])
    fill(PAGE, "gpu memory", table(head, rows))


if __name__ == "__main__":
    main()
