"""AEGIS as published: one projection for each layer (arXiv 2604.16067)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor, nn

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training import world
from aegis_policy.training.anchor import transformer_layers, w2_loss
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.methods.base import Batch, Given, Method
from aegis_policy.training.projection import project
from aegis_policy.training.shards import parameters_in_use


class Aegis(Method):
    """One forward pass, two backward passes, one projection for each layer of the language model.

        g_task = grad L_flow;  g_ot = grad L_ot (of the same hidden states);  g = project(g_task, g_ot) per layer

    The second pass stops at the language model's parameters: only they are projected, and below them it has no use.
    With several micro-batches and processes it is the means of both gradients that are projected, once a step.
    """

    needs_anchor = True
    records = True

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        assert given.anchor is not None
        self.anchor = given.anchor.to(self.device)
        self.sharded = config.shard
        self._restoring: list[Tensor | None] | None = None  # g_ot so far, in the order of `layers`

    @cached_property
    def layers(self) -> list[list[nn.Parameter]]:
        """Parameters of each layer that is projected."""
        return [list(layer.parameters()) for layer in transformer_layers(self.policy)]

    def compile(self) -> None:
        """As `Method.compile`; the compiled graph keeps its buffers for the second backward pass."""
        import torch._functorch.config as functorch

        functorch.donated_buffer = False
        super().compile()

    def add_gradient(self, batch: Batch, share: float) -> dict[str, float]:
        in_layers = [parameter for layer in self.layers for parameter in layer]
        watched = transformer_layers(self.policy) if self.sharded else ()
        with parameters_in_use(watched) as gathered:
            loss, valid, recorded = self.flow_loss(batch)
        drift = w2_loss(recorded, valid, self.anchor)
        (share * loss).backward(retain_graph=True)
        task = _exchange(in_layers, self._restoring or [None] * len(in_layers))
        (share * drift).backward(inputs=gathered or in_layers)
        self._restoring = _exchange(in_layers, task)
        return {"loss": loss.item(), "anchor_loss": drift.item()}

    def finish(self) -> dict[str, float]:
        assert self._restoring is not None
        world.average(gradient for gradient in self._restoring if gradient is not None)
        restoring, self._restoring = iter(self._restoring), None
        shed, projected = [], 0
        for layer in self.layers:
            result = project([p.grad for p in layer], [next(restoring) for _ in layer])
            for parameter, bent in zip(layer, result.gradients, strict=True):
                parameter.grad = bent
            shed.append(result.shed)
            projected += result.projected
        return {"shed_mean": sum(shed) / len(shed), "shed_max": max(shed), "layers_projected": projected / len(shed)}


def _exchange(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Put gradients where others are gathered, and return those."""
    old = [parameter.grad for parameter in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return old
