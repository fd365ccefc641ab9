"""Answers are those that transformers' own PaliGemma gives, token for token, with the same weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PaliGemmaForConditionalGeneration

from aegis_policy.data.vqa import VQASet
from aegis_policy.model.backbone import Backbone
from aegis_policy.model.checkpoint import asset, load_backbone
from aegis_policy.model.processor import Processor
from tests.model.builders import pixels

QUESTIONS = ("what is left of the green ball?", "cube", "is there a blue one?")
TOKENS = 8


def placeholders(vlm: PaliGemmaForConditionalGeneration, images: Tensor, prompt: Sequence[int]) -> dict[str, Tensor]:
    """One row as transformers wants it: an image token for every patch, then the prompt, all of it prefix."""
    count = len(images) * Backbone(vlm).image_tokens
    ids = torch.tensor([[vlm.config.image_token_id] * count + list(prompt)])
    return {
        "input_ids": ids,
        "pixel_values": images,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }


def reference(vlm, images, prompt, eos: int | None) -> list[int]:
    inputs = placeholders(vlm, images, prompt)
    options = {"do_sample": False, "max_new_tokens": TOKENS, "pad_token_id": 0}
    out = vlm.generate(**inputs, **options, eos_token_id=eos)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def answers(backbone: Backbone, processor: Processor, images: Tensor, questions: Sequence[str]) -> Tensor:
    with torch.no_grad():
        prefix = backbone.encode(images, *processor.prompt(questions))
    return torch.stack(list(backbone.decode(prefix, TOKENS)), dim=1)


@pytest.fixture
def end(vlm, monkeypatch):
    """Make a token the end of an answer, as random weights hardly ever end one."""

    def set_end(token: int | list[int]) -> None:
        monkeypatch.setattr(vlm.config.text_config, "eos_token_id", token)

    return set_end


@pytest.mark.parametrize("cameras", [1, 2])
@torch.no_grad()
def test_greedy_tokens_in_a_batch_are_those_of_generate_one_by_one(vlm, processor, end, cameras):
    images = pixels(len(QUESTIONS), cameras)
    prompts = [processor.prompt_ids(question) for question in QUESTIONS]
    assert len({len(prompt) for prompt in prompts}) > 1
    end(-1)
    free = answers(Backbone(vlm), processor, images, QUESTIONS)
    rows = [reference(vlm, *row, eos=None) for row in zip(images, prompts, strict=True)]
    assert free.tolist() == rows
    assert len({tuple(row) for row in rows}) == len(rows) and len(set(rows[0])) > 2  # answers worth comparing

    stop = next(token for token in rows[0] if token not in (rows[0][0], *rows[1]))  # midway in one, never in the other
    end(stop)
    ours = answers(Backbone(vlm), processor, images, QUESTIONS)
    for row, image, prompt in zip(ours.tolist(), images, prompts, strict=True):
        theirs = reference(vlm, image, prompt, eos=stop)
        assert row == theirs + [stop] * (len(row) - len(theirs))
    assert ours[0, -1] == stop and stop not in ours[1]
    end([stop, 1_000_000])  # the published PaliGemma 2 name the end of a chat's turn besides
    assert torch.equal(answers(Backbone(vlm), processor, images, QUESTIONS), ours)


@pytest.mark.parametrize("cameras", [1, 2])
@torch.no_grad()
def test_logits_of_the_first_token_are_those_of_forward(vlm, processor, cameras):
    backbone, images = Backbone(vlm), pixels(len(QUESTIONS), cameras)
    prefix = backbone.encode(images, *processor.prompt(QUESTIONS))
    for row, question in enumerate(QUESTIONS):
        theirs = vlm(**placeholders(vlm, images[row], processor.prompt_ids(question))).logits[0, -1]
        ours = backbone.logits(prefix.hidden[row][prefix.valid[row]][-1])
        assert theirs.std() > 0.03 and theirs.abs().max() > 0.06  # the softcap, 0.1, bites
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_decoding_stops_once_every_row_has_ended(vlm, processor, end):
    images = pixels(1)
    end(-1)
    row = answers(Backbone(vlm), processor, images, ["cube"])[0].tolist()
    assert len(row) == TOKENS
    end(row[1])
    assert answers(Backbone(vlm), processor, images, ["cube"])[0].tolist() == row[: row.index(row[1]) + 1]


@torch.no_grad()
def test_the_shipped_vlm_answers_as_in_transformers():
    backbone, processor = load_backbone(asset("aegis-tiny-vlm"))
    scenes = VQASet(asset("questions") / "scenes.hdf5")
    questions = ("what colour is the cube?", "how many objects are there?")
    for cameras in (["front"], ["front", "wrist"]):
        images = processor.images(scenes.stack(np.arange(len(questions)), cameras))
        ours = answers(backbone, processor, images, questions)
        eos = processor.tokenizer.eos_token_id
        for row, image, question in zip(ours.tolist(), images, questions, strict=True):
            theirs = reference(backbone.vlm, image, processor.prompt_ids(question), eos)
            assert row == theirs + [eos] * (len(row) - len(theirs))
            assert eos in theirs
