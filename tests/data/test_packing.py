"""A row of one question is PaliGemma's own; packed questions share the image and nothing else."""

from __future__ import annotations

import pytest
import torch

from aegis_policy.data.packing import IGNORE, Packed, pack
from aegis_policy.data.vqa import Question
from aegis_policy.model.backbone import Backbone
from tests.model.builders import IMAGE_TOKENS, build_processor, build_vlm, pixels

PROCESSOR = build_processor()
N = 2 * IMAGE_TOKENS
LEFT = Question("what is left of the green ball?", "the red cube", "what-left")
COLOUR = Question("what colour is the cube", "blue", "colour")
BLUE = Question("is there a blue one?", "yes", "exists")
POINT = Question("cube", "<loc0016> <loc1008>", "point")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(build_vlm(PROCESSOR))


def tokens(question: Question) -> tuple[list[int], list[int]]:
    return PROCESSOR.prompt_ids(question.text), PROCESSOR.answer_ids(question.answer)


def logits(backbone: Backbone, packed: Packed) -> torch.Tensor:
    with torch.no_grad():
        embeds = backbone.embed(pixels(len(packed.ids)), packed.ids)
        return backbone.logits(backbone.read(embeds, packed.allowed, packed.place)[:, N:])


def test_rows_of_one_question_have_paligemmas_mask_positions_and_logits(backbone):
    questions = [LEFT, COLOUR, POINT]
    packed = pack([[question] for question in questions], PROCESSOR, N)
    ours = logits(backbone, packed)
    seen = []
    hook = backbone.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    for row, question in enumerate(questions):
        prompt, answer = tokens(question)
        ids = torch.tensor([[PROCESSOR.tokenizer.image_token_id] * N + prompt + answer])
        kinds = torch.tensor([[0] * (N + len(prompt)) + [1] * len(answer)])
        with torch.no_grad():
            theirs = backbone.vlm(
                input_ids=ids,
                pixel_values=pixels(3)[row],
                attention_mask=torch.ones_like(ids),
                token_type_ids=kinds,
            ).logits[0, N:]
        length = ids.shape[1]
        for mask in seen[-1]["attention_mask"].values():
            assert torch.equal(packed.allowed[row, :length, :length], mask[0, 0] == 0)
        assert not packed.allowed[row, :length, length:].any()  # padding
        assert torch.equal(packed.place[row, :length], seen[-1]["position_ids"][0])
        torch.testing.assert_close(ours[row, : length - N], theirs, rtol=1e-4, atol=1e-5)
    hook.remove()


def test_labels_are_the_next_tokens_of_the_answers(backbone):
    rows = [[LEFT, COLOUR, POINT], [BLUE]]
    packed = pack(rows, PROCESSOR, N)
    for i, row in enumerate(rows):
        start = 0
        for j, question in enumerate(row):
            prompt, answer = tokens(question)
            end = start + len(prompt) + len(answer)
            assert packed.ids[i, start:end].tolist() == prompt + answer
            # the last prompt token predicts the first of the answer, the last but one predicts <eos>, <eos> nothing
            expected = [IGNORE] * (len(prompt) - 1) + answer + [IGNORE]
            assert packed.labels[i, start:end].tolist() == expected
            assert (packed.block[i, start:end] == j).all()
            assert packed.place[i, N + start : N + end].tolist() == list(range(N + 1, N + 1 + end - start))
            start = end
        assert (packed.labels[i, start:] == IGNORE).all() and (packed.block[i, start:] == -1).all()
        assert packed.place[i, :N].tolist() == list(range(1, N + 1))


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_questions_of_a_row_do_not_see_one_another(backbone, changed):
    row = [LEFT, COLOUR, BLUE]
    other = [*row]
    other[changed] = Question("pick up the three", "no two", "other") if changed else POINT
    one, two = pack([row], PROCESSOR, N), pack([other], PROCESSOR, N)
    a, b = logits(backbone, one)[0], logits(backbone, two)[0]
    for j in range(3):
        ours, theirs = a[one.block[0] == j], b[two.block[0] == j]
        if j == changed:
            assert ours.shape != theirs.shape or (ours - theirs).abs().max() > 1e-2
        elif changed == 0:  # the image reads the first question, and everyone the image
            assert (ours - theirs).abs().max() > 1e-4
        else:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_the_first_question_of_a_row_is_as_if_it_were_alone(backbone):
    together, alone = pack([[LEFT, COLOUR, BLUE]], PROCESSOR, N), pack([[LEFT]], PROCESSOR, N)
    ours = logits(backbone, together)[0][together.block[0] == 0]
    torch.testing.assert_close(ours, logits(backbone, alone)[0], rtol=1e-5, atol=1e-5)


def test_later_tokens_of_an_answer_are_not_seen(backbone):
    right = pack([[COLOUR, LEFT]], PROCESSOR, N)
    wrong = pack([[COLOUR, Question(LEFT.text, "the red ball", LEFT.family)]], PROCESSOR, N)
    (place,) = (right.ids != wrong.ids)[0].nonzero().flatten()
    a, b = logits(backbone, right)[0], logits(backbone, wrong)[0]
    torch.testing.assert_close(a[:place], b[:place], rtol=0, atol=1e-6)
    assert (a[place] - b[place]).abs().max() > 1e-3


def test_rows_of_other_lengths_change_nothing(backbone):
    short, both = pack([[BLUE]], PROCESSOR, N), pack([[BLUE], [LEFT, COLOUR, POINT]], PROCESSOR, N)
    length = short.ids.shape[1]
    ours = logits(backbone, both)[0, :length]
    torch.testing.assert_close(ours, logits(backbone, short)[0], rtol=1e-5, atol=1e-5)
    assert logits(backbone, both).isfinite().all()  # padding too: a row of nothing but hidden keys would be nan


def test_a_given_length_pads_and_drops_whole_questions():
    row = [LEFT, COLOUR, BLUE]
    sizes = [sum(map(len, tokens(question))) for question in row]
    assert pack([row], PROCESSOR, N, length=100).ids.shape == (1, 100)
    for length, kept in ((sum(sizes), 3), (sum(sizes) - 1, 2), (sizes[0] + sizes[1], 2), (sizes[0], 1)):
        packed = pack([row], PROCESSOR, N, length=length)
        assert packed.ids.shape == (1, length)
        assert packed.block.max() == kept - 1
        full = sum(sizes[:kept])
        assert torch.equal(packed.ids[:, :full], pack([row[:kept]], PROCESSOR, N).ids)
        assert (packed.block[:, full:] == -1).all()
