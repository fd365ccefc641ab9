"""How well a backbone still answers: exact match and cross-entropy on a fixed set of questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from aegis_policy.data.packing import IGNORE, pack
from aegis_policy.data.vqa import UNSCORED, Sample, VQASet, open_sets
from aegis_policy.model.backbone import Backbone
from aegis_policy.model.processor import Processor


@dataclass(frozen=True)
class VQAScore:
    """Exact match over all questions and per family, and mean cross-entropy per answer token."""

    accuracy: float
    cross_entropy: float
    families: dict[str, float]
    n: int


def held_out(paths: Sequence[str | Path], processor: Processor, count: int) -> dict[str, list[Sample]]:
    """`count` questions of each set, the same ones every time, by the name of its file.

    Raises:
        ValueError: what `open_sets`, `VQASet.samples` and `check_answers` refuse.
    """
    sets = open_sets(paths)
    check_answers(sets.values(), processor)
    return {name: each.samples(count) for name, each in sets.items()}


def check_answers(sets: Iterable[VQASet], processor: Processor) -> None:
    """Refuse answers that the tokenizer has no words for: all of them would be one and the same.

    Raises:
        ValueError: says which set, and one of the answers.
    """
    unknown = processor.tokenizer.unk_token_id
    for each in sets:
        answers = {question.answer for row in each.questions for question in row if question.family != UNSCORED}
        if unread := sorted(answer for answer in answers if unknown in processor.answer_ids(answer)):
            raise ValueError(
                f"{each.path}: the tokenizer has no word for '{unread[0]}', one of {len(unread)} answers: take a VLM "
                f"that has, or questions that it can answer"
            )


@torch.no_grad()
def score(backbone: Backbone, processor: Processor, samples: Sequence[Sample], batch_size: int = 64) -> VQAScore:
    """Teacher-forced: an answer is right when each of its tokens, <eos> included, is the most likely one.

    That is exactly when greedy decoding would give the answer, at the cost of one forward pass.

    Args:
        samples: all with the same number of images.
    """
    was_training = backbone.training
    backbone.eval()
    device = next(backbone.parameters()).device
    right: dict[str, list[bool]] = defaultdict(list)
    total, tokens = 0.0, 0
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        images = processor.images(np.stack([sample.images for sample in batch])).to(device)
        n = images.shape[1] * backbone.image_tokens
        packed = pack([[sample.question] for sample in batch], processor, n).to(device)
        logits, labels = backbone.answer_logits(images, packed), packed.labels
        correct = ((logits.argmax(dim=-1) == labels) | (labels == IGNORE)).all(dim=1)
        for sample, is_right in zip(batch, correct.tolist(), strict=True):
            right[sample.question.family].append(is_right)
        total += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum").item()
        tokens += int((labels != IGNORE).sum())
    backbone.train(was_training)
    families = {family: float(np.mean(hits)) for family, hits in sorted(right.items())}
    everything = [hit for hits in right.values() for hit in hits]
    return VQAScore(float(np.mean(everything)), total / tokens, families, len(everything))
