"""The model card of a fine-tuned policy: how it was made, what it expects, and what it still knows."""

from __future__ import annotations

import json

from aegis_policy.policy import Feature, PolicyInfo
from aegis_policy.training.config import TrainConfig


def model_card(info: PolicyInfo, config: TrainConfig, step: int, metrics: str) -> str:
    """Markdown.

    Args:
        step: optimizer steps done.
        metrics: metrics.jsonl so far.
    """
    rows = [json.loads(line) for line in metrics.splitlines()]
    cameras = ", ".join(f"{camera.name} ({camera.width}x{camera.height})" for camera in info.cameras)
    config = config.public()
    start = config.checkpoint or "the policy that ships with aegis-policy"
    loss = next((f"{row['loss']:.4f}" for row in reversed(rows) if "loss" in row), "not logged")
    return "\n".join(
        [
            "---",
            "library_name: aegis-policy",
            "pipeline_tag: robotics",
            "tags: [robotics, vision-language-action]",
            "---",
            f"# {info.model}",
            "",
            "A vision-language-action policy: PaliGemma 2 with a flow-matching action expert. It moves and it answers.",
            "",
            "## How it was made",
            f"`aegis train --method {config.method}{' --freeze-vision' if config.freeze_vision else ''}`: "
            f"step {step} of {config.steps}, {config.batch_size} samples a step, from {start}, on "
            f"{', '.join(config.dataset)}. Everything else is in `train_config.json`.",
            f"Flow-matching loss at the end: {loss}.",
            "",
            "## What it still knows",
            *_vqa_table(rows),
            "",
            "Closed-loop success is measured with `aegis eval`, which puts it on this card (`--card`).",
            "",
            "## What it expects",
            f"- cameras: {cameras}",
            f"- state: {_features(info.state)}",
            f"- actions: {info.horizon} at a time at {info.control_hz:g} Hz: {_features(info.actions)}",
            f"- instructions such as: {'; '.join(info.instructions[:: max(1, len(info.instructions) // 3)][:3])}",
            "",
        ]
    )


def _features(features: tuple[Feature, ...]) -> str:
    return ", ".join(f"{feature.name} [{feature.unit}]" for feature in features)


def _vqa_table(rows: list[dict]) -> list[str]:
    measured = [row for row in rows if "vqa" in row]
    if not measured:
        return ["Visual question answering was not measured during this training."]
    before, after = measured[0], measured[-1]
    lines = [
        "| question set | n | exact match before | after | cross-entropy before | after |",
        "|---|---|---|---|---|---|",
    ]
    for name, old in before["vqa"].items():
        new = after["vqa"][name]
        lines.append(
            f"| {name} | {new['n']} | {old['accuracy']:.1%} | {new['accuracy']:.1%} "
            f"| {old['cross_entropy']:.3f} | {new['cross_entropy']:.3f} |"
        )
    return [f"Held-out questions, at step {before['step']} and at step {after['step']}.", "", *lines]
