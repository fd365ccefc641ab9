"""However few characters a prompt has, no backend reads more of its tokens than it can afford, or keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aegis_policy import ObservationError
from aegis_policy.inference.onnx_policy import OnnxPolicy
from aegis_policy.model.processor import Processor
from tests.inference.exported import export_small
from tests.model.builders import build_processor

MOST = 256 - 2  # besides <bos> and the newline


@pytest.fixture(scope="module")
def processor() -> Processor:
    return build_processor()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_small(tmp_path_factory.mktemp("exported")).folder


def check(read: Callable[[list[str]], object]) -> None:
    read(["cube", "(" * MOST])
    with pytest.raises(ObservationError, match=r"prompt '\({40}\.\.\.': 257 tokens, at most 256"):
        read(["cube", " " + "(" * (MOST + 1)])


def test_torch_refuses_a_prompt_of_too_many_tokens(processor: Processor) -> None:
    check(processor.prompt)


def test_onnx_refuses_a_prompt_of_too_many_tokens(exported: Path) -> None:
    check(OnnxPolicy(exported, "cpu")._prompt)


def test_what_is_refused_is_not_kept(processor: Processor) -> None:
    before = processor._prompt_ids.cache_info().currsize
    with pytest.raises(ObservationError):
        processor.prompt_ids("cube " * 10_000)
    assert processor._prompt_ids.cache_info().currsize == before


def test_an_answer_to_train_on_may_be_as_long_as_it_is(processor: Processor) -> None:
    assert len(processor.answer_ids("(" * 1000)) == 1001
