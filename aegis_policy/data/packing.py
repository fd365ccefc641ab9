"""Several questions on one image in one row: the image is encoded once and each question sees only itself and it.

In PaliGemma's prefix-LM the image also reads the prompt, which can be true for one question of a row only: the first
one leads, the image reads it, and the others read the image as it leaves it. A row of one question is exactly
PaliGemma's own mask.

                 image  prompt 1 | answer 1   prompt 2 | answer 2
    image          x       x     |
    prompt 1       x       x     |
    answer 1       x       x     |  causal
    prompt 2       x             |               x     |
    answer 2       x             |               x     |  causal
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aegis_policy.data.vqa import Question
from aegis_policy.model.processor import Processor

IGNORE = -100


@dataclass(frozen=True)
class Packed:
    """Rows of packed questions, T text tokens after N image tokens.

    Attributes:
        ids: [B, T] tokens.
        labels: [B, T], the token that each token should predict, IGNORE where it predicts none.
        place: [B, N + T] positions.
        allowed: [B, N + T, N + T] bool, query may look at key.
        block: [B, T], index of the question a token belongs to, -1 for padding.
    """

    ids: Tensor
    labels: Tensor
    place: Tensor
    allowed: Tensor
    block: Tensor

    def to(self, device: torch.device) -> Packed:
        return Packed(*(tensor.to(device) for tensor in vars(self).values()))


def pack(rows: Sequence[Sequence[Question]], processor: Processor, image_tokens: int, length: int = 0) -> Packed:
    """Pack each row's questions and answers after `image_tokens` image tokens.

    Args:
        length: T is padded to at least this, so that a compiled model sees one shape; longer rows lose their last
            questions when it is given.
    """
    encoded = [
        [(processor.prompt_ids(question.text), processor.answer_ids(question.answer)) for question in row]
        for row in rows
    ]
    if length:
        encoded = [_fitting(row, length) for row in encoded]
    longest = max(sum(len(prompt) + len(answer) for prompt, answer in row) for row in encoded)
    b, t = len(rows), max(longest, length)
    ids = torch.full((b, t), processor.tokenizer.pad_token_id, dtype=torch.long)
    labels = torch.full((b, t), IGNORE, dtype=torch.long)
    block = torch.full((b, t), -1, dtype=torch.long)
    step = torch.zeros(b, t, dtype=torch.long)  # place within the question
    answer_step = torch.zeros(b, t, dtype=torch.long)  # 0 in a prompt, 1, 2, ... in an answer
    for i, row in enumerate(encoded):
        start = 0
        for j, (prompt, answer) in enumerate(row):
            end, cut = start + len(prompt) + len(answer), start + len(prompt)
            ids[i, start:end] = torch.tensor(prompt + answer)
            labels[i, cut - 1 : end - 1] = torch.tensor(answer)
            block[i, start:end] = j
            step[i, start:end] = torch.arange(end - start)
            answer_step[i, cut:end] = torch.arange(1, end - cut + 1)
            start = end
    return Packed(ids, labels, _place(step, image_tokens), _allowed(block, answer_step, image_tokens), block)


def _fitting(row: list[tuple[list[int], list[int]]], length: int) -> list[tuple[list[int], list[int]]]:
    kept: list[tuple[list[int], list[int]]] = []
    for prompt, answer in row:
        length -= len(prompt) + len(answer)
        if length < 0:
            break
        kept.append((prompt, answer))
    return kept


def _place(step: Tensor, image_tokens: int) -> Tensor:
    images = torch.arange(1, image_tokens + 1).expand(len(step), -1)
    return torch.cat([images, image_tokens + 1 + step], dim=1)


def _allowed(block: Tensor, answer_step: Tensor, image_tokens: int) -> Tensor:
    b, t = block.shape
    allowed = torch.zeros(b, image_tokens + t, image_tokens + t, dtype=torch.bool)
    allowed[:, :, :image_tokens] = True
    allowed[:, :image_tokens, image_tokens:] = ((block == 0) & (answer_step == 0))[:, None]
    same = (block[:, :, None] == block[:, None, :]) & (block[:, :, None] >= 0)
    allowed[:, image_tokens:, image_tokens:] = same & (answer_step[:, None, :] <= answer_step[:, :, None])
    return allowed
