"""Sizes of the model. One set of classes carries `aegis-tiny` and PaliGemma 2 with a 300M action expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PaliGemmaConfig

IMAGE_SIZE = 96
"""Pixels on a side of the images that aegis-tiny reads."""
PATCH_SIZE = 12


@dataclass(frozen=True)
class ExpertConfig:
    """The action expert: a Gemma 2 stack of its own, as deep as the backbone and with the backbone's heads.

    Attributes:
        width, mlp: hidden and intermediate size.
        state_dim, action_dim: S and A, the real dimensions (no padding).
        horizon: H, actions in a chunk.
        denoising_steps: Euler steps from noise to actions.
        temperature: standard deviation of the noise that these start from; 0 for the same chunk whatever the seed.
            Training knows 1 alone; less gives up variety for precision (docs/method.md).
        max_delay: the most actions of a chunk that it was trained to be given (`aegis train --max-delay`); 0 if it was
            not, and is to be guided to them.
    """

    width: int
    mlp: int
    state_dim: int
    action_dim: int
    horizon: int
    denoising_steps: int = 10
    temperature: float = 1.0
    max_delay: int = 0

    @property
    def most_delay(self) -> int:
        """The most actions that a chunk can begin with: as many as in training, or, guided, all but the last."""
        return self.max_delay or self.horizon - 1


def tiny_vlm(vocab_size: int, image_token: int, pad: int = 0, bos: int = 2, eos: int = 1) -> PaliGemmaConfig:
    """PaliGemma 2 small enough for two CPU cores: 96 px images of 64 tokens, six language layers of width 128."""
    width = 128
    tokens = {"pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}
    vision: dict[str, Any] = {
        "model_type": "siglip_vision_model",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "projection_dim": width,
        "vision_use_head": False,
    }
    text: dict[str, Any] = {
        "model_type": "gemma2",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "max_position_embeddings": 512,
        **tokens,
    }
    return PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_index=image_token, projection_dim=width, **tokens
    )


def paligemma2_3b() -> PaliGemmaConfig:
    """The architecture published as google/paligemma2-3b-mix-224."""
    vision: dict[str, Any] = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 2304,
        "vision_use_head": False,
    }
    text: dict[str, Any] = {
        "model_type": "gemma2",
        "vocab_size": 257216,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
    }
    return PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_index=257152, projection_dim=2304, bos_token_id=2
    )


def expert_for(vlm: PaliGemmaConfig, state_dim: int, action_dim: int, horizon: int) -> ExpertConfig:
    """The expert's usual size beside a backbone: about half its width (300M parameters beside PaliGemma 2 3B)."""
    width = vlm.text_config.hidden_size
    width, mlp = (1024, 2048) if width > 1024 else (width, vlm.text_config.intermediate_size)
    return ExpertConfig(width=width, mlp=mlp, state_dim=state_dim, action_dim=action_dim, horizon=horizon)
