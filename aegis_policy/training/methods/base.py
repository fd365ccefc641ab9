"""What every method of fine-tuning shares: the forward pass, the architecture and the flow loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PaliGemmaForConditionalGeneration

from aegis_policy.data.packing import Packed
from aegis_policy.model.checkpoint import stored_weights
from aegis_policy.model.policy import AegisPolicy, Begun, Prefix
from aegis_policy.training import world
from aegis_policy.training.anchor import Anchor, LayerRecorder, transformer_layers
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.device import autocast
from aegis_policy.training.shards import whole


@dataclass(frozen=True)
class Asked:
    """Q images [Q, K, 3, S, S] in [-1, 1], and the questions about each with their true answers."""

    images: Tensor
    packed: Packed

    def to(self, device: torch.device) -> Asked:
        return Asked(self.images.to(device), self.packed.to(device))


@dataclass(frozen=True)
class Batch:
    """B samples, normalised, on the policy's device.

    Attributes:
        images: [B, K, 3, S, S] in [-1, 1]; ids, valid: [B, T], the instruction.
        state: [B, S]; actions: [B, H, A].
        noise: [B, M, H, A] and time: [B, M], M draws of the flow for each sample.
        begun: what each of them is given, where the policy is trained to be.
        asked: questions and answers of other images, where the method trains on some.
        held: how many samples, the first ones, are held to what was before, where the method does that.
    """

    images: Tensor
    ids: Tensor
    valid: Tensor
    state: Tensor
    actions: Tensor
    noise: Tensor
    time: Tensor
    begun: Begun | None = None
    asked: Asked | None = None
    held: int = 0

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {
            name: part.to(device) for name, part in vars(self).items() if isinstance(part, Tensor | Asked)
        }
        if self.begun:
            moved["begun"] = Begun(*(part.to(device) for part in self.begun))
        return replace(self, **moved)


@dataclass(frozen=True)
class Given:
    """What a method may need besides the policy.

    Attributes:
        anchor: of the backbone as it was before fine-tuning.
        before: that backbone itself, on the policy's device, to be done with as the method likes.
    """

    anchor: Anchor | None = None
    before: PaliGemmaForConditionalGeneration | None = None


class Method(ABC):
    """Decides which parameters of a policy train, and gives them their gradients.

    It is made before the policy is sharded, which gives it other parameters: they are looked up when they are needed.

    Args:
        policy: to be trained; parameters that do not train lose their `requires_grad`.
        config: its `freeze_vision` and what is said to be of this method.
        given: what `needs_before` and `needs_anchor` ask for must be there.
    """

    needs_anchor: ClassVar[bool] = False
    needs_before: ClassVar[bool] = False
    records: ClassVar[bool] = False
    """Whether the outputs of the language model's layers are wanted."""
    strength: ClassVar[float] = 0.0
    """Weight of what is added to the flow loss, where the recipe says nothing."""

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        self.policy = policy
        self.device = next(policy.parameters()).device
        self.weight = self.strength if config.strength is None else config.strength
        self.recorder = LayerRecorder(transformer_layers(policy)) if self.records else None
        policy.requires_grad_(True)
        if config.freeze_vision:
            _freeze_vision(policy)

    @property
    def backbone(self) -> list[nn.Parameter]:
        """Backbone parameters that train."""
        return [p for p in self.policy.vlm.parameters() if p.requires_grad]

    @property
    def expert(self) -> list[nn.Parameter]:
        return [p for p in self.policy.expert.parameters() if p.requires_grad]

    def backward(self, *parts: Batch) -> dict[str, float]:
        """Leave the gradient of a step in the `.grad` of every trainable parameter, and return what is worth logging.

        Args:
            parts: this process's part of each micro-batch; the gradient is the mean over them and over the processes.
        """
        self.policy.zero_grad()
        rows = [self.add_gradient(part, 1 / len(parts)) for part in parts]
        world.average(p.grad for p in (*self.backbone, *self.expert) if p.grad is not None)
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        return world.mean(means) | self.finish()

    @abstractmethod
    def add_gradient(self, batch: Batch, share: float) -> dict[str, float]:
        """Add to `.grad` the gradient of a micro-batch, times its share of the step; return what is worth logging."""

    def finish(self) -> dict[str, float]:
        """What is done to a step's gradient once it is the mean over micro-batches and processes."""
        return {}

    def finished(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the policy in its plain architecture, to be saved, for the first process; every process must ask.

        Args:
            trained: values of parameters, by name, in place of the policy's own.
        """
        return whole({**stored_weights(self.policy), **trained})

    def own_state(self) -> dict[str, Tensor]:
        """What the finished policy does not hold and a resumed run needs."""
        return {}

    def load_own_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `own_state` gave."""
        assert not tensors, f"{type(self).__name__} keeps nothing"

    def compile(self) -> None:
        """Compile both halves of the forward pass, the prefix and the flow; the first step then takes minutes."""
        self._encode = torch.compile(self._encode, dynamic=False)  # type: ignore[method-assign]
        self._flow_loss = torch.compile(self._flow_loss, dynamic=False)  # type: ignore[method-assign]

    def flow_loss(self, batch: Batch, *, detach: bool = False) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Mean flow-matching loss, which prefix tokens [B, P] are valid, and outputs [B, P, W] of the L layers.

        Args:
            detach: read the prefix without a graph.
        """
        prefix, recorded = self.read(batch, detach=detach)
        return self.flow(prefix, batch), prefix.valid, recorded

    def read(self, batch: Batch, *, detach: bool = False) -> tuple[Prefix, list[Tensor]]:
        """The prefix, and the outputs [B, P, W] of the L layers if this method `records` them."""
        graph = torch.is_grad_enabled() and not detach
        with autocast(self.device), torch.set_grad_enabled(graph), self.recorder or nullcontext():
            prefix, recorded = self._encode(batch.images, batch.ids, batch.valid)
        if self.recorder is not None:
            self.recorder.outputs.clear()
        return prefix, recorded

    def flow(self, prefix: Prefix, batch: Batch) -> Tensor:
        """Mean flow-matching loss, given what the backbone has read."""
        with autocast(self.device):
            return self._flow_loss(prefix, batch.state, batch.actions, batch.noise, batch.time, batch.begun)

    def _encode(self, images: Tensor, ids: Tensor, valid: Tensor) -> tuple[Prefix, list[Tensor]]:
        prefix = self.policy.encode(images, ids, valid)
        return prefix, [] if self.recorder is None else list(self.recorder.outputs)

    def _flow_loss(
        self, prefix: Prefix, state: Tensor, actions: Tensor, noise: Tensor, time: Tensor, begun: Begun | None
    ) -> Tensor:
        # The expert does not read the last hidden states: in shards, zeros would come back through them all the same.
        prefix = replace(prefix, hidden=prefix.hidden.detach())
        return self.policy.flow_loss(prefix, state, actions, noise, time, begun).mean()


class Penalised(Method):
    """L = L_flow + strength * L_more, in one backward pass."""

    def add_gradient(self, batch: Batch, share: float) -> dict[str, float]:
        loss, valid, recorded = self.flow_loss(batch)
        more = self.penalty(batch, valid, recorded)
        (share * (loss + self.weight * more)).backward()
        return {"loss": loss.item(), "penalty": more.item()}

    @abstractmethod
    def penalty(self, batch: Batch, valid: Tensor, recorded: list[Tensor]) -> Tensor:
        """L_more of a batch, given which prefix tokens [B, P] are valid and the layers' outputs, [B, P, W] each."""


def _freeze_vision(policy: AegisPolicy) -> None:
    model = policy.vlm.model
    for part in (model.vision_tower, model.multi_modal_projector):
        part.requires_grad_(False)
    policy.vlm.get_input_embeddings().weight.requires_grad_(False)  # lm_head is tied to it and stays too
