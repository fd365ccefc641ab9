"""Low-rank adapters on the language model, by peft; what is saved has them merged."""

from __future__ import annotations

from copy import deepcopy

from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.methods.base import Given
from aegis_policy.training.methods.plain import Naive

ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


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

    def finished(self) -> AegisPolicy:
        plain = deepcopy(self.policy)
        for name, module in list(plain.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge()
                plain.set_submodule(name, module.get_base_layer())
        return plain

    def own_state(self) -> dict[str, Tensor]:
        return {name: p.detach().cpu() for name, p in self.policy.vlm.named_parameters() if p.requires_grad}

    def load_own_state(self, tensors: dict[str, Tensor]) -> None:
        self.policy.vlm.load_state_dict(tensors, strict=False)
