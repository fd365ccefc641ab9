"""The smallest real model, demonstrations and questions: what a training test needs and nothing that takes time."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import torch
from transformers import PaliGemmaConfig

from aegis_policy.model.backbone import new_vlm
from aegis_policy.model.processor import Processor, word_tokenizer

SIZE = 16
COLOURS = ("red", "green", "blue")
STATE = [["x", "m"], ["y", "m"], ["opening", "m"]]
ACTIONS = [["dx", "m"], ["dy", "m"], ["gripper", "1"]]


def write_vlm(folder: Path) -> Path:
    """A VLM with random weights in PaliGemma's layout: two layers of width 32, 16 px images, four tokens each."""
    texts = [text for colour in COLOURS for text in (f"pick up the {colour} cube", colour, "what colour is the cube")]
    tokenizer = word_tokenizer(texts)
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    vision = {
        **{"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "image_size": SIZE, "patch_size": 8, "projection_dim": 32},
        "vision_use_head": False,
    }
    text = {
        **{"model_type": "gemma2", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
        **{"query_pre_attn_scalar": 16, "max_position_embeddings": 128, **tokens},
    }
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.image_token_id,
        projection_dim=32,
        **tokens,
    )
    torch.manual_seed(0)
    vlm = new_vlm(config)
    for parameter in vlm.parameters():  # livelier than the default, so that gradients are not near zero
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    vlm.save_pretrained(folder)
    Processor(tokenizer, SIZE).save_pretrained(folder)
    return folder


def write_demonstrations(path: Path, episodes: int = 6, seed: int = 0) -> Path:
    """Random demonstrations in our layout, 5 to 9 steps each."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["control_hz"] = 10
        data.attrs["state_features"], data.attrs["action_features"] = json.dumps(STATE), json.dumps(ACTIONS)
        for number in range(episodes):
            steps = int(rng.integers(5, 10))
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = steps
            demo.attrs["instruction"] = f"pick up the {COLOURS[number % 3]} cube"
            demo["actions"] = rng.normal(size=(steps, 3)).astype(np.float32)
            demo["obs/state"] = rng.normal(size=(steps, 3)).astype(np.float32)
            for camera in ("front", "wrist"):
                demo[f"obs/{camera}_image"] = rng.integers(0, 256, (steps, SIZE, SIZE, 3), np.uint8)
    return path


def write_questions(path: Path, images: int = 12, seed: int = 0) -> Path:
    """Pictures of one colour each, and the question which."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(3, size=images)
    pictures = np.zeros((images, SIZE, SIZE, 3), np.uint8)
    pictures[np.arange(images), :, :, colours] = 200
    questions = [json.dumps([["what colour is the cube", COLOURS[colour], "colour"]]) for colour in colours]
    with h5py.File(path, "w") as file:
        file["images/front"] = pictures
        file.create_dataset("questions", data=questions, dtype=h5py.string_dtype())
        file.attrs["source"] = "drawn"
    return path


def gradients(policy: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every gradient there is, by name."""
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
