"""Holding the backbone to what its frozen copy makes of the robot's own images: no question set is needed."""

from __future__ import annotations

from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from aegis_policy.data.packing import IGNORE, pack
from aegis_policy.data.vqa import Question
from aegis_policy.model.backbone import Backbone
from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training import world
from aegis_policy.training.anchor import LayerRecorder, transformer_layers
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.device import autocast
from aegis_policy.training.methods.base import Batch, Given, Penalised

ANSWER_TOKENS = 8
"""Longest answer that is held."""


class Distillation(Penalised):
    """The frozen backbone as it was before, beside the one that trains."""

    needs_before = True

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        assert given.before is not None
        self.teacher = Backbone(given.before).to(self.device).requires_grad_(False).eval()


class DistilFeatures(Distillation):
    """L_more = mean over layers and tokens of ||h - h_before||^2, in units of the layer's mean ||h_before||^2.

    Token by token, on the robot's samples that are held; compare "Don't blind your VLA" (arXiv 2510.25616), which holds
    visual features.
    """

    records = True
    strength = 16.0

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        self.taught = LayerRecorder(transformer_layers(self.teacher))

    def penalty(self, batch: Batch, valid: Tensor, recorded: list[Tensor]) -> Tensor:
        with torch.no_grad(), autocast(self.device), self.taught as outputs:
            self.teacher.encode(*(part[: batch.held] for part in (batch.images, batch.ids, batch.valid)))
            before = list(outputs)
            outputs.clear()
        valid, distances, sizes = valid[: batch.held], [], []
        for now, then in zip(recorded, before, strict=True):
            then = then[valid].float()  # (tokens, W)
            distances.append((now[: batch.held][valid].float() - then).square().sum())
            sizes.append(then.square().sum())
        return (world.total(torch.stack(distances)) / world.total(torch.stack(sizes))).mean()


class DistilAnswers(Distillation):
    """L_more = KL(p_before || p) per answer token: questions about the robot's images, answered by the frozen backbone.

    It answers greedily, about one picture as whoever asks later; both then give their distributions over each token of
    that answer. Learning without forgetting (arXiv 1606.09282), where the old task is questions.
    """

    strength = 1.0

    def penalty(self, batch: Batch, valid: Tensor, recorded: list[Tensor]) -> Tensor:
        images, processor = batch.images[: batch.held, :1], self.given.processor
        with autocast(self.device):
            with torch.no_grad():
                answers = iter(self._answers(images, batch.questions))
                rows = [[Question(text, next(answers), "") for text in about] for about in batch.questions]
                packed = pack(rows, processor, self.policy.image_tokens).to(self.device)
                before = self.teacher.answer_logits(images, packed)
            now = self.policy.answer_logits(images, packed)
        held = packed.labels != IGNORE
        divergence = F.kl_div(
            now[held].log_softmax(dim=-1), before[held].log_softmax(dim=-1), log_target=True, reduction="sum"
        )
        return world.total(divergence) / world.total(held.sum())

    def _answers(self, images: Tensor, questions: tuple[tuple[str, ...], ...]) -> list[str]:
        """What the frozen backbone says, of one image after the other."""
        ids, there = (tensor.to(self.device) for tensor in self.given.processor.prompt(list(chain(*questions))))
        seen = self.teacher.see(images).repeat_interleave(len(ids) // len(images), dim=0)
        tokens = list(self.teacher.decode(self.teacher.encode_seen(seen, ids, there), ANSWER_TOKENS))
        return list(map(self.given.processor.text, torch.stack(tokens, dim=1).tolist()))
