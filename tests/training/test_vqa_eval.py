"""The score in one pass is what greedy decoding would score."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from aegis_policy.data.vqa import Question, Sample
from aegis_policy.model.backbone import Backbone
from aegis_policy.training.vqa_eval import score
from tests.model.builders import SIZE, build_processor, build_vlm

PROMPTS = ("what colour is the cube", "cube", "is there a blue one?", "pick up the red cube")
LONGEST = 6


def decoded(backbone: Backbone, processor, pictures: np.ndarray, texts: list[str]) -> list[list[int]]:
    """Greedy answers, each up to its end."""
    with torch.no_grad():
        prefix = backbone.encode(processor.images(pictures[:, None]), *processor.prompt(texts))
    rows = torch.stack(list(backbone.decode(prefix, LONGEST)), dim=1).tolist()
    end = backbone.vlm.config.text_config.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


@pytest.fixture(scope="module")
def asked():
    """A model, and questions of which about half have the answer that it gives itself."""
    processor = build_processor()
    backbone = Backbone(build_vlm(processor, seed=5))
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (40, SIZE, SIZE, 3), np.uint8)
    texts = [PROMPTS[i % len(PROMPTS)] for i in range(len(pictures))]

    # Random weights hardly ever end an answer: let the token most often said after the first be the end.
    backbone.vlm.config.text_config.eos_token_id = -1
    free = decoded(backbone, processor, pictures, texts)
    specials = set(processor.tokenizer.all_special_ids)
    later = Counter(token for row in free for token in set(row[1:]) - {row[0]} - specials)
    end = later.most_common(1)[0][0]
    backbone.vlm.config.text_config.eos_token_id = end
    processor.tokenizer.eos_token = processor.tokenizer.convert_ids_to_tokens(end)

    samples = []
    said = decoded(backbone, processor, pictures, texts)
    for i, (picture, text, ids) in enumerate(zip(pictures, texts, said, strict=True)):
        answer = processor.text(ids[:-1] if ids[-1] == end else ids)
        if i % 2:
            answer = ("back " + answer, answer + " back", "red")[i % 3]
        samples.append(Sample(picture[None], Question(text, answer, f"family {i % 3}")))
    return backbone, processor, samples


def test_exact_match_is_that_of_greedy_decoding(asked):
    backbone, processor, samples = asked
    right: dict[str, list[bool]] = {}
    pictures = np.concatenate([sample.images for sample in samples])
    said = decoded(backbone, processor, pictures, [sample.question.text for sample in samples])
    for sample, ids in zip(samples, said, strict=True):
        right.setdefault(sample.question.family, []).append(ids == processor.answer_ids(sample.question.answer))
    hits = [hit for family in right.values() for hit in family]
    assert 0.15 < np.mean(hits) < 0.85  # some right, some wrong
    result = score(backbone, processor, samples, batch_size=16)
    assert result.n == len(samples)
    assert result.accuracy == pytest.approx(np.mean(hits))
    assert result.families == pytest.approx({family: np.mean(values) for family, values in right.items()})


def test_the_score_does_not_depend_on_batches_and_leaves_the_mode_alone(asked):
    backbone, processor, samples = asked
    backbone.train()
    one, other = score(backbone, processor, samples, batch_size=1), score(backbone, processor, samples)
    assert backbone.training
    assert one.families == other.families
    assert one.cross_entropy == pytest.approx(other.cross_entropy, rel=1e-4)


def test_cross_entropy_is_per_answer_token(asked):
    backbone, processor, samples = asked
    total, count = 0.0, 0
    for sample in samples[:6]:
        answer = processor.answer_ids(sample.question.answer)
        prompt = processor.prompt_ids(sample.question.text)
        ids = torch.tensor([[processor.tokenizer.image_token_id] * backbone.image_tokens + prompt + answer])
        kinds = torch.tensor([[0] * (ids.shape[1] - len(answer)) + [1] * len(answer)])
        with torch.no_grad():
            logits = backbone.vlm(
                input_ids=ids,
                pixel_values=processor.images(sample.images),
                attention_mask=torch.ones_like(ids),
                token_type_ids=kinds,
            ).logits[0]
        likely = logits.log_softmax(-1)[-len(answer) - 1 : -1]
        total -= likely[torch.arange(len(answer)), torch.tensor(answer)].sum().item()
        count += len(answer)
    assert score(backbone, processor, samples[:6]).cross_entropy == pytest.approx(total / count, rel=1e-4)
