"""What benchmarks/forgetting.py measures of a checkpoint, besides what `aegis eval` does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.data.vqa import VQASet
from aegis_policy.model import checkpoint
from aegis_policy.model.backbone import Backbone
from aegis_policy.model.processor import Processor
from aegis_policy.training.anchor import compute_anchor
from aegis_policy.training.batches import Batches
from aegis_policy.training.methods import Batch
from aegis_policy.training.vqa_eval import score

QUESTIONS = 1_200
"""Of each held-out set."""
BATCHES, BATCH_SIZE, NOISE_SAMPLES = 12, 32, 4
"""Of held-out demonstrations."""
Measured = dict[str, Any]


def answers(backbone: Backbone, processor: Processor, sets: list[Path]) -> Measured:
    """VQA on held-out sets: exact match, all and by family, and teacher-forced cross-entropy."""
    return {
        path.stem.removesuffix("_held"): asdict(score(backbone, processor, VQASet(path).samples(QUESTIONS)))
        for path in sets
    }


@torch.no_grad()
def of_checkpoint(made: Path, start: Path, demonstrations: Path, sets: list[Path]) -> Measured:
    """Answers; flow-matching loss on held-out demonstrations; and how far each layer has moved from `start` on them.

    Drift of a layer is the squared Wasserstein-2 distance of the diagonal Gaussians of its hidden states.
    """
    torch.set_num_threads(1)
    tuned = checkpoint.load(made)
    policy = tuned.policy
    dataset = Demonstrations([demonstrations], tuned.info.horizon)
    source = Batches(
        dataset,
        tuned.processor,
        tuned.norm_stats,
        batch_size=BATCH_SIZE,
        noise_samples=NOISE_SAMPLES,
        seed=0,
        augment=False,
    )
    batches = [source.batch(step) for step in range(BATCHES)]
    losses = [
        policy.flow_loss(policy.encode(b.images, b.ids, b.valid), b.state, b.actions, b.noise, b.time).mean()
        for b in batches
    ]
    before = compute_anchor(checkpoint.load_backbone(start)[0], _prefixes(batches))
    after = compute_anchor(policy, _prefixes(batches))
    drift = (after.mean - before.mean).square().sum(dim=1) + (after.std - before.std).square().sum(dim=1)
    return {
        "vqa": answers(policy, tuned.processor, sets),
        "flow_loss": torch.stack(losses).mean().item(),
        "drift": drift.tolist(),
    }


def _prefixes(batches: list[Batch]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    return ((batch.images, batch.ids, batch.valid) for batch in batches)


def of_training(stages: list[list[Measured]]) -> Measured:
    """The curve of VQA over all stages, and what a projection did, from their metrics.jsonl."""
    curve: list[Measured] = []
    offset = 0
    for rows in stages:
        for row in rows:
            if "vqa" in row and not (offset and row["step"] == 0):
                kept = {name: {k: each[k] for k in ("accuracy", "cross_entropy")} for name, each in row["vqa"].items()}
                curve.append({"step": offset + row["step"], **kept})
        offset += rows[-1]["step"]
    steps = [row for row in stages[-1] if "shed_mean" in row]
    mean = {name: sum(row[name] for row in steps) / len(steps) for name in ("shed_mean", "layers_projected") if steps}
    return {"curve": curve, **mean, **({"shed_max": max(row["shed_max"] for row in steps)} if steps else {})}
