"""Images and prompts become what transformers' PaliGemmaProcessor makes of them."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

from aegis_policy.model.processor import IMAGE, Processor, pad_rows, word_tokenizer
from tests.model.builders import SIZE, TEXTS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemmaProcessor's


@pytest.fixture
def reference(processor) -> PaliGemmaProcessor:
    scaling = SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    scaling.image_seq_length = 4
    return PaliGemmaProcessor(scaling, word_tokenizer(TEXTS))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise as coarse as a photograph is, so that resizing has something to keep, and of a photograph's contrast.

    Where black meets white, PIL also cuts off bicubic overshoot between its two passes: up to 8 levels at such a pixel.
    """
    coarse = np.random.default_rng(seed).integers(48, 208, (5, 7, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("text", ["what colour is the cube", "Is there a blue one?", "point to it", "back left"])
def test_prompt_and_image_of_native_size_are_exactly_the_same(processor, reference, text):
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    theirs = reference(images=Image.fromarray(image), text=IMAGE + text, return_tensors="pt")
    ids, valid = processor.prompt([text])
    assert theirs["input_ids"][0].tolist() == [processor.tokenizer.image_token_id] * 4 + ids[0].tolist()
    assert valid.all()
    torch.testing.assert_close(processor.images(image[None]), theirs["pixel_values"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(40, 56), (9, 12)])
def test_resized_images_differ_by_rounding_only(processor, reference, size):
    image = picture(*size)
    theirs = reference(images=Image.fromarray(image), text=IMAGE + "cube", return_tensors="pt")["pixel_values"]
    levels = (processor.images(image[None]) - theirs).abs() * 127.5
    assert levels.max() < 2.01  # of 255; PIL rounds between its two passes, torch does not
    assert levels.mean() < 0.3


def test_images_keep_their_leading_dimensions(processor):
    batch = np.stack([[picture(20, 24, seed=2 * i + j) for j in range(2)] for i in range(3)])
    pixels = processor.images(batch)
    assert pixels.shape == (3, 2, 3, SIZE, SIZE) and pixels.dtype == torch.float32
    assert pixels.min() >= -1 and pixels.max() <= 1
    torch.testing.assert_close(pixels[2, 1], processor.images(batch[2, 1]))


@pytest.mark.parametrize("text", ["Pick up the RED cube!", "pick  up the red cube.", " pick up, the red cube\n"])
def test_case_punctuation_and_space_do_not_matter(processor, text):
    assert processor.prompt_ids(text) == processor.prompt_ids("pick up the red cube")


def test_punctuation_parts_words(processor):
    assert processor.prompt_ids("red,cube") == processor.prompt_ids("red cube")


def test_unknown_words_are_unknown_and_cost_nothing_else(processor):
    known, odd = processor.prompt_ids("the red cube"), processor.prompt_ids("the quokka cube")
    assert odd[2] == processor.tokenizer.unk_token_id
    assert odd[:2] + odd[3:] == known[:2] + known[3:]
    assert processor.tokenizer.unk_token_id not in known


@pytest.mark.parametrize("answer", ["back left", "yes", "<loc0016> <loc1008>"])
def test_answers_come_back(processor, answer):
    ids = processor.answer_ids(answer)
    assert ids[-1] == processor.tokenizer.eos_token_id and len(ids) == 1 + len(answer.split())
    assert processor.text(ids) == answer
    assert processor.answer_ids(processor.text(ids)) == ids
    assert processor.answer_ids(answer.replace("> <", "><")) == ids  # as PaliGemma writes locations


def test_rows_are_padded_on_the_right(processor):
    ids, valid = processor.prompt(["cube", "the red cube"])
    assert valid.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert (ids[0, 3:] == processor.tokenizer.pad_token_id).all()
    assert pad_rows([[5], [6, 7]], 9)[0].tolist() == [[5, 9], [6, 7]]


def test_saved_and_loaded_it_is_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = Processor.from_pretrained(tmp_path)
    assert loaded.image_size == processor.image_size
    for text in (*TEXTS, "What's a quokka?"):
        assert loaded.prompt_ids(text) == processor.prompt_ids(text)
        assert loaded.answer_ids(text) == processor.answer_ids(text)
        assert loaded.text(loaded.answer_ids(text)) == processor.text(processor.answer_ids(text))
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id", "image_token_id"):
        assert getattr(loaded.tokenizer, name) == getattr(processor.tokenizer, name)


def test_it_reads_what_transformers_processor_saves(processor, reference, tmp_path):
    reference.save_pretrained(tmp_path)
    loaded = Processor.from_pretrained(tmp_path)
    assert loaded.image_size == SIZE
    assert loaded.prompt_ids(TEXTS[0]) == processor.prompt_ids(TEXTS[0])


def test_other_image_scaling_is_refused(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    config = tmp_path / "preprocessor_config.json"
    config.write_text(config.read_text().replace("0.5", "0.4"))
    with pytest.raises(ValueError, match=r"mean and std of 0\.5"):
        Processor.from_pretrained(tmp_path)


def test_a_policys_folder_loads_without_a_word_of_warning(processor, tmp_path, caplog):
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "aegis", "vlm": {}}')
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        Processor.from_pretrained(tmp_path)
    assert not caplog.records
