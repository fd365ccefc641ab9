from __future__ import annotations

import pytest
from transformers import PaliGemmaForConditionalGeneration

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.model.processor import Processor
from tests.model.builders import build_policy, build_processor, build_vlm


@pytest.fixture(scope="session")
def processor() -> Processor:
    return build_processor()


@pytest.fixture(scope="session")
def vlm(processor: Processor) -> PaliGemmaForConditionalGeneration:
    return build_vlm(processor)


@pytest.fixture(scope="session")
def policy(vlm: PaliGemmaForConditionalGeneration) -> AegisPolicy:
    return build_policy(vlm)
