"""Co-training: pictures with questions among the robot's samples."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from aegis_policy.data.packing import IGNORE
from aegis_policy.training import world
from aegis_policy.training.device import autocast
from aegis_policy.training.methods.base import Batch, Penalised


class CoTrain(Penalised):
    """L_more = cross-entropy of answers: `replay_share` of a batch are pictures with some (RT-2, arXiv 2307.15818)."""

    strength = 1.0

    def penalty(self, batch: Batch, valid: Tensor, recorded: list[Tensor]) -> Tensor:
        assert batch.asked is not None
        with autocast(self.device):
            logits = self.policy.answer_logits(batch.asked.images, batch.asked.packed)
        labels = batch.asked.packed.labels.flatten()
        losses = F.cross_entropy(logits.flatten(0, 1), labels, ignore_index=IGNORE, reduction="sum")
        return world.total(losses) / world.total((labels != IGNORE).sum())
