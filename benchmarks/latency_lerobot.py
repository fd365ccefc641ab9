"""lerobot's PI0 of given sizes, for benchmarks/latency.py: run by a Python that has `lerobot[pi]`, with SIZES as JSON.

Builds the model with random weights, says so, and for each line that it reads acts once on random observations, from
tensors to tensors, and says how many seconds that took.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lerobot.policies.pi0 import modeling_pi0


def main() -> None:
    sizes = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(sizes["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(sizes).to(device).eval()
    inputs = {key: _moved(value, device) for key, value in observation(sizes).items()}
    say(parameters=sum(parameter.numel() for parameter in model.parameters()))
    for _ in sys.stdin:
        began = time.perf_counter()
        with torch.inference_mode():
            model.sample_actions(**inputs, num_steps=sizes["steps"]).cpu()
        seconds = time.perf_counter() - began
        say(seconds=seconds, peak_mb=peak_mb())


def peak_mb() -> float:
    """The most memory that this process has had (as in latency_peak.py, which this Python may not be able to run)."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def say(**words: float) -> None:
    print(json.dumps(words), flush=True)


def build(sizes: dict[str, Any]) -> torch.nn.Module:
    """PI0 knows two sizes by name and one vision tower: here they are whatever is asked for."""
    modeling_pi0.get_gemma_config = lambda name: modeling_pi0.GemmaConfig(**sizes[name])
    vlm, expert = modeling_pi0.PaliGemmaForConditionalGenerationWithPiGemma, modeling_pi0.PiGemmaForCausalLM

    def sized_vlm(config: Any) -> torch.nn.Module:
        for key, value in sizes["vision"].items():
            setattr(config.vision_config, key, value)
        config.vision_config.projection_dim = config.projection_dim = sizes["text"]["width"]
        config.text_config.vocab_size = config.image_token_index = sizes["vocabulary"]
        return vlm(config=config)

    def sized_expert(config: Any) -> torch.nn.Module:
        config.vocab_size = 1  # it reads no words
        return expert(config=config)

    modeling_pi0.PaliGemmaForConditionalGenerationWithPiGemma = sized_vlm
    modeling_pi0.PiGemmaForCausalLM = sized_expert
    config = SimpleNamespace(
        paligemma_variant="text",
        action_expert_variant="expert",
        dtype="float32",
        image_resolution=(sizes["image_size"], sizes["image_size"]),
        max_state_dim=sizes["state"],
        max_action_dim=sizes["actions"],
        chunk_size=sizes["horizon"],
        num_inference_steps=sizes["steps"],
        freeze_vision_encoder=False,
        train_expert_only=False,
        compile_model=False,
        rtc_config=None,
        min_period=4e-3,
        max_period=4.0,
    )
    return modeling_pi0.PI0Pytorch(config)


def observation(sizes: dict[str, Any]) -> dict[str, Any]:
    side, cameras, words = sizes["image_size"], sizes["cameras"], sizes["words"]
    return {
        "images": [torch.rand(1, 3, side, side) * 2 - 1 for _ in range(cameras)],
        "img_masks": [torch.ones(1, dtype=torch.bool) for _ in range(cameras)],
        "lang_tokens": torch.randint(sizes["vocabulary"], (1, words)),
        "lang_masks": torch.ones(1, words, dtype=torch.bool),
        "state": torch.randn(1, sizes["state"]),
    }


def _moved(value: Any, device: str) -> Any:
    return [each.to(device) for each in value] if isinstance(value, list) else value.to(device)


if __name__ == "__main__":
    main()
