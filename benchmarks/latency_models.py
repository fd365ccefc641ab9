"""The two policies that benchmarks/latency.py times, as folders, and what another library needs to build their like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipe import aegis
from step_cost import halved_paligemma2

from aegis_policy import Camera, Observation, PolicyInfo
from aegis_policy.model.backbone import new_vlm
from aegis_policy.model.checkpoint import asset, load, save
from aegis_policy.model.config import expert_for
from aegis_policy.model.policy import AegisPolicy
from aegis_policy.model.processor import Processor

SIZES = ("tiny", "300M")
QUESTION = "what is left of the red cube?"


def torch_folder(size: str, work: Path) -> Path:
    """The policy that ships, or one of a 300M-class configuration with random weights, which answers at full length."""
    folder = work / size
    if size == "tiny":
        return asset("aegis-tiny")
    if not folder.exists():
        torch.manual_seed(0)
        shipped, vlm = load(None), new_vlm(halved_paligemma2())
        text, vision = vlm.config.text_config, vlm.config.vision_config
        tokenizer = shipped.processor.tokenizer
        tokenizer.add_tokens([f"word{number}" for number in range(text.vocab_size - len(tokenizer))])
        info, side = shipped.info, vision.image_size
        cameras = tuple(Camera(camera.name, side, side) for camera in info.cameras)
        expert = expert_for(vlm.config, len(info.state), len(info.actions), info.horizon)
        policy = AegisPolicy(vlm, expert)
        info = replace(info, model="300M", cameras=cameras, instructions=info.instructions[:1])
        partial = folder.with_suffix(".partial")
        save(replace(shipped, policy=policy, processor=Processor(tokenizer, side), info=info), partial)
        partial.rename(folder)
    return folder


def onnx_folder(size: str, work: Path) -> Path:
    folder = work / f"{size}-onnx"
    aegis(folder, "export", "--checkpoint", torch_folder(size, work), "--output", folder)
    return folder


def scenes(info: PolicyInfo, count: int) -> list[Observation]:
    """Noise for images: it takes as long as any others."""
    rng = np.random.default_rng(0)
    return [
        Observation(
            {each.name: rng.integers(0, 256, (each.height, each.width, 3), np.uint8) for each in info.cameras},
            rng.normal(size=len(info.state)).astype(np.float32),
            info.instructions[0],
        )
        for _ in range(count)
    ]


def sizes(policy: AegisPolicy, cameras: int, words: int) -> dict[str, Any]:
    """Of a policy, and of what it reads."""
    vision, text, expert = policy.vlm.config.vision_config, policy.vlm.config.text_config, policy.expert.config
    heads = {"num_heads": text.num_attention_heads, "num_kv_heads": text.num_key_value_heads, "head_dim": text.head_dim}
    shared = heads | {"depth": text.num_hidden_layers}
    return {
        "vision": {
            key: getattr(vision, key)
            for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size")
        },
        "image_size": vision.image_size,
        "text": shared | {"width": text.hidden_size, "mlp_dim": text.intermediate_size},
        "vocabulary": text.vocab_size,
        "expert": shared | {"width": expert.width, "mlp_dim": expert.mlp},
        "state": expert.state_dim,
        "actions": expert.action_dim,
        "horizon": expert.horizon,
        "steps": expert.denoising_steps,
        "cameras": cameras,
        "words": words,
    }
