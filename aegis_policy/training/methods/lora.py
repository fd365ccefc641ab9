"""Low-rank adapters on the language model, by peft; what is saved has them merged."""

from __future__ import annotations

from collections.abc import Mapping

from peft import LoraConfig
from peft.tuners.lora import LoraModel
from torch import Tensor

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.methods.base import Given
from aegis_policy.training.methods.plain import Naive
from aegis_policy.training.shards import whole

ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BASE = ".base_layer.weight"
"""What peft calls the weight beside its adapters."""


class Lora(Naive):
    """W = W_before + alpha / rank * B A for every projection of the language model; all else of the backbone is frozen.

    LoRA, arXiv 2106.09685; rank 16 and alpha 32 on the language model's layers is the AEGIS paper's baseline.
    """

    needs_before = True

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        assert given.before is not None
        policy.vlm.load_state_dict(given.before.state_dict())  # a resumed run's checkpoint has its adapters merged in
        policy.vlm.requires_grad_(False)
        adapters = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=list(ADAPTED))
        LoraModel(policy.language_model, adapters, "default")
        self.scale = config.lora_alpha / config.lora_rank

    def finished(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = super().finished(trained)
        for name in [name for name in weights if name.endswith(BASE)]:
            stem = name.removesuffix(BASE)
            down, up = (weights.pop(f"{stem}.lora_{side}.default.weight") for side in "AB")
            weights[f"{stem}.weight"] = weights.pop(name) + self.scale * up @ down
        return weights

    def own_state(self) -> dict[str, Tensor]:
        return whole({name: p for name, p in self.policy.vlm.named_parameters() if p.requires_grad})

    def load_own_state(self, tensors: dict[str, Tensor]) -> None:
        self.policy.vlm.load_state_dict(tensors, strict=False)
