"""The smallest models of the real classes, with lively random weights, so that nothing that counts is near zero or one.

Sizes are chosen to catch mix-ups: grouped-query attention, heads x head size that is not the width, a query scale that
is not the head size, softcaps low enough to bite, and an expert of another width than the backbone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from aegis_policy import Camera, Feature, PolicyInfo
from aegis_policy.data.normalize import Moments, NormStats
from aegis_policy.model.backbone import new_vlm
from aegis_policy.model.checkpoint import Checkpoint
from aegis_policy.model.config import ExpertConfig
from aegis_policy.model.policy import AegisPolicy
from aegis_policy.model.processor import Processor, word_tokenizer

SIZE = 16
"""Pixels on a side; with patches of 8, four tokens an image."""
IMAGE_TOKENS = 4
CAMERAS = ("front", "wrist")
HORIZON = 3
TEXTS = (
    "pick up the red cube",
    "what colour is the cube",
    "what is left of the green ball",
    "cube",
    "is there a blue one",
    "back left",
    "yes no two three",
    "<loc0016><loc1008>",
)


def build_processor(image_size: int = SIZE) -> Processor:
    return Processor(word_tokenizer(TEXTS), image_size)


def lively(module: nn.Module, seed: int) -> None:
    """Random weights of size 0.3 everywhere: norms, biases and embeddings too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def vlm_config(processor: Processor, **text: object) -> PaliGemmaConfig:
    tokenizer = processor.tokenizer
    tokens = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": processor.image_size,
        "patch_size": processor.image_size // 2,
        "projection_dim": 32,
        "vision_use_head": False,
    }
    language = {
        "model_type": "gemma2",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 0.1,
        "max_position_embeddings": 128,
        **tokens,
        **text,
    }
    return PaliGemmaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=tokenizer.image_token_id,
        projection_dim=32,
        **tokens,
    )


def build_vlm(processor: Processor, seed: int = 0, **text: object) -> PaliGemmaForConditionalGeneration:
    vlm = new_vlm(vlm_config(processor, **text)).eval()
    lively(vlm, seed)
    with torch.no_grad():  # or the next word would always be the last one again
        vlm.get_input_embeddings().weight.mul_(0.05)
    return vlm


def build_policy(vlm: PaliGemmaForConditionalGeneration, seed: int = 1) -> AegisPolicy:
    config = ExpertConfig(width=20, mlp=28, state_dim=2, action_dim=3, horizon=HORIZON, denoising_steps=4)
    policy = AegisPolicy(vlm, config).eval()
    lively(policy.expert, seed)
    return policy


def policy_info() -> PolicyInfo:
    return PolicyInfo(
        model="small",
        cameras=tuple(Camera(name, SIZE, SIZE) for name in CAMERAS),
        state=(Feature("x", "m"), Feature("opening", "m")),
        actions=(Feature("dx", "m"), Feature("drx", "rad"), Feature("gripper", "1")),
        horizon=HORIZON,
        control_hz=10.0,
        instructions=("pick up the red cube",),
        checkpoint="",
    )


def norm_stats() -> NormStats:
    """Different in every dimension, and far from mean 0, deviation 1."""

    def moments(mean: list[float], std: list[float]) -> Moments:
        m, s = np.array(mean), np.array(std)
        return Moments(m, s, m - 2 * s, m + 2 * s)

    return NormStats(moments([0.4, 0.05], [0.1, 0.02]), moments([0.01, -0.2, 0.5], [0.02, 0.3, 0.4]))


def build_checkpoint(seed: int = 1, **text: object) -> Checkpoint:
    processor = build_processor()
    return Checkpoint(build_policy(build_vlm(processor, **text), seed), processor, policy_info(), norm_stats())


def pixels(batch: int, cameras: int = 2, seed: int = 0, size: int = SIZE) -> Tensor:
    """Images [B, K, 3, S, S] in [-1, 1]."""
    return torch.rand(batch, cameras, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
