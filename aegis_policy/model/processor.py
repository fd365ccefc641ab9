"""Pictures and words in, tensors out: the image scaling and prompt format of PaliGemma, for its tokenizer and for ours.

The same as transformers' PaliGemmaProcessor for one image and one prompt (a test holds them together), without its
detour through PIL, and for any number of cameras.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    AutoTokenizer,
    ImageProcessingMixin,
    PaliGemmaConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from aegis_policy.data.pixels import scale
from aegis_policy.inference.text import check_prompt

PAD, EOS, BOS, UNKNOWN, IMAGE, END = "<pad>", "<eos>", "<bos>", "<unk>", "<image>", "\n"
IMAGE_CONFIG, TOKENIZERS = "preprocessor_config.json", ("tokenizer.json", "tokenizer.model")


class Processor:
    """Tokenizer and image scaling of one VLM.

    Args:
        tokenizer: of the VLM; must know <bos>, <eos>, padding and the newline that ends a prompt.
        image_size: pixels on a side of the images the vision tower reads.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_size: int):
        self.tokenizer = tokenizer
        self.image_size = image_size
        # Training asks the same few thousand questions again. What is refused raises, and so is not kept.
        self._prompt_ids = lru_cache(maxsize=8192)(self._tokenize_prompt)
        self._ids = lru_cache(maxsize=8192)(self._tokenize)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Processor:
        """From a local folder, or a hub name, that holds a tokenizer and preprocessor_config.json."""
        if Path(source).is_dir() and not any(Path(source, name).is_file() for name in TOKENIZERS):
            raise FileNotFoundError(f"{source}: no {' or '.join(TOKENIZERS)} here, which a tokenizer is read from")
        try:
            # The configuration tells whose tokenizer it is: a policy's own config.json is not transformers' to read.
            tokenizer = AutoTokenizer.from_pretrained(source, config=PaliGemmaConfig())
        except ValueError as error:
            raise ValueError(f"{source}: its tokenizer cannot be read: {error}") from error
        config = ImageProcessingMixin.get_image_processor_dict(source)[0]
        spread = [config.get(name) for name in ("image_mean", "image_std")]
        if spread != [[0.5] * 3] * 2 or "height" not in (config.get("size") or {}):
            raise ValueError(f"{source}: expected SigLIP's image size, and mean and std of 0.5, got {config}")
        return cls(tokenizer, config["size"]["height"])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer and image settings in the layout PaliGemma is published in."""
        size = {"height": self.image_size, "width": self.image_size}
        self.tokenizer.save_pretrained(folder)
        config = {
            "image_processor_type": "SiglipImageProcessor",
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": size,
        }
        Path(folder, IMAGE_CONFIG).write_text(json.dumps(config, indent=2) + "\n")

    def vocabulary(self) -> str:
        """SHA-256 of which token has which number."""
        return hashlib.sha256(json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()

    def images(self, images: np.ndarray) -> Tensor:
        """uint8 [..., H, W, 3] -> float32 [..., 3, S, S] in [-1, 1], resized where H or W is not S."""
        return torch.from_numpy(scale(images, self.image_size))

    def prompt(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Questions or instructions -> ids [B, T] and valid [B, T], right-padded rows of `prompt_ids`."""
        return pad_rows([self.prompt_ids(text) for text in texts], self.tokenizer.pad_token_id)

    def prompt_ids(self, text: str) -> list[int]:
        """The tokens of "<bos>text<newline>". Raises ObservationError for more than MAX_PROMPT_TOKENS of them."""
        return list(self._prompt_ids(text.strip()))

    def answer_ids(self, text: str) -> list[int]:
        """The tokens of an answer, <eos> last."""
        return [*self._ids(text), self.tokenizer.eos_token_id]

    def _tokenize_prompt(self, text: str) -> tuple[int, ...]:
        ids = (self.tokenizer.bos_token_id, *self._tokenize(text + END))
        check_prompt(text, len(ids))
        return ids

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Iterable[int]) -> str:
        """Tokens of an answer -> text, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def pad_rows(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Rows of ids of different lengths -> [B, T] right-padded with `fill`, and bool [B, T] of what is not padding."""
    ids = torch.full((len(rows), max(map(len, rows))), fill, dtype=torch.long)
    valid = torch.zeros(ids.shape, dtype=torch.bool)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        valid[row, : len(tokens)] = True
    return ids, valid


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of every word and location token in `texts`: case and punctuation are ignored."""
    special = [PAD, EOS, BOS, UNKNOWN, IMAGE, END]
    words = sorted({word for text in texts for word in re.findall(r"<loc\d{4}>|\w+(?:-\w+)*", text.lower())})
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(special + words)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(r"[?!.,;:]"), " ")])
    split = Regex(r"<loc\d{4}>|\w+(?:-\w+)*|\n|[^\s\w]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(split, behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
