"""Methods of fine-tuning: how a batch of demonstrations becomes gradients. One small class each, behind one interface.

naive           the flow loss flows wherever it likes                                     pi0, arXiv 2410.24164
stop-gradient   the expert learns, the backbone is left as it is             knowledge insulation, arXiv 2505.23705
aegis           as naive, minus what would undo the anchor's gradient, layer by layer             arXiv 2604.16067

The forward pass, the architecture and the flow loss are the same for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aegis_policy.model.policy import AegisPolicy, Prefix
from aegis_policy.training.anchor import Anchor, LayerRecorder, transformer_layers, w2_loss
from aegis_policy.training.config import MethodName
from aegis_policy.training.device import autocast
from aegis_policy.training.projection import project


@dataclass(frozen=True)
class Batch:
    """B samples, normalised, on the policy's device.

    Attributes:
        images: [B, K, 3, S, S] in [-1, 1]; ids, valid: [B, T], the instruction.
        state: [B, S]; actions: [B, H, A].
        noise: [B, M, H, A] and time: [B, M], M draws of the flow for each sample.
    """

    images: Tensor
    ids: Tensor
    valid: Tensor
    state: Tensor
    actions: Tensor
    noise: Tensor
    time: Tensor


class Method(ABC):
    """Decides which parameters of a policy train, and gives them their gradients.

    Args:
        policy: to be trained; parameters that do not train lose their `requires_grad`.
        freeze_vision: whether vision tower, projector and token embeddings stay as they are.
    """

    def __init__(self, policy: AegisPolicy, freeze_vision: bool = False):
        self.policy = policy
        self.device = next(policy.parameters()).device
        policy.requires_grad_(True)
        if freeze_vision:
            _freeze_vision(policy)

    @property
    def backbone(self) -> list[nn.Parameter]:
        """Backbone parameters that train."""
        return [p for p in self.policy.vlm.parameters() if p.requires_grad]

    @property
    def expert(self) -> list[nn.Parameter]:
        return [p for p in self.policy.expert.parameters() if p.requires_grad]

    @abstractmethod
    def backward(self, batch: Batch) -> dict[str, float]:
        """Leave the gradient of every trainable parameter in its `.grad`, and return what is worth logging."""

    def compile(self) -> None:
        """Compile both halves of the forward pass, the prefix and the flow; the first step then takes minutes."""
        self._encode = torch.compile(self._encode, dynamic=False)  # type: ignore[method-assign]
        self._flow_loss = torch.compile(self._flow_loss, dynamic=False)  # type: ignore[method-assign]

    def flow_loss(self, batch: Batch, *, detach: bool = False) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Mean flow-matching loss, which prefix tokens [B, P] are valid, and what `_encode` recorded.

        Args:
            detach: read the prefix without a graph.
        """
        with autocast(self.device):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
                prefix, recorded = self._encode(batch.images, batch.ids, batch.valid)
            loss = self._flow_loss(prefix, batch.state, batch.actions, batch.noise, batch.time)
        return loss, prefix.valid, recorded

    def _encode(self, images: Tensor, ids: Tensor, valid: Tensor) -> tuple[Prefix, list[Tensor]]:
        return self.policy.encode(images, ids, valid), []

    def _flow_loss(self, prefix: Prefix, state: Tensor, actions: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        return self.policy.flow_loss(prefix, state, actions, noise, time).mean()


class Naive(Method):
    """g = grad L_flow, through everything."""

    def backward(self, batch: Batch) -> dict[str, float]:
        self.policy.zero_grad()
        loss, *_ = self.flow_loss(batch)
        loss.backward()
        return {"loss": loss.item()}


class StopGradient(Method):
    """The expert reads keys and values that carry no gradient: the backbone is frozen, to the bit."""

    def __init__(self, policy: AegisPolicy, freeze_vision: bool = False):
        super().__init__(policy, freeze_vision)
        policy.vlm.requires_grad_(False)

    def backward(self, batch: Batch) -> dict[str, float]:
        self.policy.zero_grad()
        loss, *_ = self.flow_loss(batch, detach=True)
        loss.backward()
        return {"loss": loss.item()}


class Aegis(Method):
    """One forward pass, two backward passes, one projection for each layer of the language model.

        g_task = grad L_flow;  g_ot = grad L_ot (of the same hidden states);  g = project(g_task, g_ot) per layer

    The second pass stops at the language model's parameters: only they are projected, and below them it has no use.

    Args:
        anchor: of the backbone as it was before fine-tuning.
    """

    def __init__(self, policy: AegisPolicy, anchor: Anchor, freeze_vision: bool = False):
        super().__init__(policy, freeze_vision)
        anchor.check(policy)
        self.anchor = anchor.to(self.device)
        self.layers = [list(layer.parameters()) for layer in transformer_layers(policy)]
        self.recorder = LayerRecorder(transformer_layers(policy))

    def compile(self) -> None:
        """As `Method.compile`; the compiled graph keeps its buffers for the second backward pass."""
        import torch._functorch.config as functorch

        functorch.donated_buffer = False
        super().compile()

    def backward(self, batch: Batch) -> dict[str, float]:
        with self.recorder:
            loss, valid, recorded = self.flow_loss(batch)
        self.recorder.outputs.clear()
        drift = w2_loss(recorded, valid, self.anchor)
        trained = [*self.backbone, *self.expert]
        task = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(trained, task, strict=True):
            parameter.grad = gradient
        in_layers = [parameter for layer in self.layers for parameter in layer]
        restoring = iter(torch.autograd.grad(drift, in_layers, allow_unused=True))
        shed, projected = [], 0
        for layer in self.layers:
            result = project([p.grad for p in layer], [next(restoring) for _ in layer])
            for parameter, bent in zip(layer, result.gradients, strict=True):
                parameter.grad = bent
            shed.append(result.shed)
            projected += result.projected
        return {
            "loss": loss.item(),
            "anchor_loss": drift.item(),
            "shed_mean": sum(shed) / len(shed),
            "shed_max": max(shed),
            "layers_projected": projected / len(shed),
        }

    def _encode(self, images: Tensor, ids: Tensor, valid: Tensor) -> tuple[Prefix, list[Tensor]]:
        return self.policy.encode(images, ids, valid), list(self.recorder.outputs)


def make_method(name: MethodName, policy: AegisPolicy, anchor: Anchor | None, freeze_vision: bool) -> Method:
    """The method called `name`.

    Raises:
        ValueError: the method needs an anchor and there is none, or the anchor is of another backbone.
    """
    if name == "naive":
        return Naive(policy, freeze_vision)
    if name == "stop-gradient":
        return StopGradient(policy, freeze_vision)
    if anchor is None:
        raise ValueError(
            "the method aegis needs an anchor of the backbone before fine-tuning, and the start has no "
            "anchor.safetensors: make one with 'aegis anchor' and pass it with --anchor"
        )
    return Aegis(policy, anchor, freeze_vision)


def _freeze_vision(policy: AegisPolicy) -> None:
    model = policy.vlm.model
    for part in (model.vision_tower, model.multi_modal_projector):
        part.requires_grad_(False)
    policy.vlm.get_input_embeddings().weight.requires_grad_(False)  # lm_head is tied to it and stays too
