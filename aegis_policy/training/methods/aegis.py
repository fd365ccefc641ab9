"""AEGIS as published: one projection for each layer (arXiv 2604.16067)."""

from __future__ import annotations

import torch

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training.anchor import transformer_layers, w2_loss
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.methods.base import Batch, Given, Method
from aegis_policy.training.projection import project


class Aegis(Method):
    """One forward pass, two backward passes, one projection for each layer of the language model.

        g_task = grad L_flow;  g_ot = grad L_ot (of the same hidden states);  g = project(g_task, g_ot) per layer

    The second pass stops at the language model's parameters: only they are projected, and below them it has no use.
    """

    needs_anchor = True
    records = True

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        assert given.anchor is not None
        self.anchor = given.anchor.to(self.device)
        self.layers = [list(layer.parameters()) for layer in transformer_layers(policy)]

    def compile(self) -> None:
        """As `Method.compile`; the compiled graph keeps its buffers for the second backward pass."""
        import torch._functorch.config as functorch

        functorch.donated_buffer = False
        super().compile()

    def backward(self, batch: Batch) -> dict[str, float]:
        loss, valid, recorded = self.flow_loss(batch)
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
