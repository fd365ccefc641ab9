"""AEGIS as published: one projection for each layer (arXiv 2604.16067)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor, nn

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training import world
from aegis_policy.training.anchor import transformer_layers, w2_loss
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.methods.base import Batch, Given, Method
from aegis_policy.training.projection import project
from aegis_policy.training.shards import parameters_in_use


class Aegis(Method):
    """One forward pass, two gradients, one projection for each layer of the language model.

        g_task = grad L_flow;  g_ot = grad L_ot (of the same hidden states);  g = project(g_task, g_ot) per layer

    Both gradients go down through the graph of one layer and are projected, then that graph and g_ot are freed: there
    is never more than one layer of g_ot. Below the lowest layer nothing is projected, so g_ot goes no further.

    With several micro-batches or processes it is the means of both gradients that are projected, once a step, and g_ot
    is whole until then; so it is where the layers are in shards or compiled, whose graph is not to be had by the layer.
    """

    needs_anchor = True
    records = True

    def __init__(self, policy: AegisPolicy, config: TrainConfig, given: Given):
        super().__init__(policy, config, given)
        assert given.anchor is not None
        self.anchor = given.anchor.to(self.device)
        self.sharded, self.compiled = config.shard, False
        self._restoring: list[Tensor | None] | None = None  # g_ot so far, in the order of `layers`
        self._shed: list[float] = []  # of the layers so far
        self._projected = 0

    @cached_property
    def layers(self) -> list[list[nn.Parameter]]:
        """Parameters of each layer that is projected."""
        return [list(layer.parameters()) for layer in transformer_layers(self.policy)]

    def compile(self) -> None:
        """As `Method.compile`; the compiled graph keeps its buffers for the second backward pass."""
        import torch._functorch.config as functorch

        functorch.donated_buffer = False
        self.compiled = True
        super().compile()

    def add_gradient(self, batch: Batch, share: float) -> dict[str, float]:
        self._shed, self._projected = [], 0
        alone = share == 1 and world.size() == 1 and not (self.sharded or self.compiled)
        return self._walk(batch) if alone else self._add(batch, share)

    def finish(self) -> dict[str, float]:
        if self._restoring is not None:
            world.average(gradient for gradient in self._restoring if gradient is not None)
            restoring, self._restoring = iter(self._restoring), None
            for layer in self.layers:
                self._project(layer, [next(restoring) for _ in layer])
        count = len(self._shed)
        mean, most, projected = sum(self._shed) / count, max(self._shed), self._projected / count
        return {"shed_mean": mean, "shed_max": most, "layers_projected": projected}

    def _walk(self, batch: Batch) -> dict[str, float]:
        """Both gradients of a whole step, projected, from the top layer down."""
        prefix, states = self.read(batch)
        seam = prefix.detach()
        for leaf in chain(*seam.keys_values):
            leaf.requires_grad_()
        loss = self.flow(seam, batch)
        loss.backward()  # through the expert, down to the seam
        drift, in_layers = loss.new_zeros(()), set(chain(*self.layers))
        task = anchor = None  # gradients of the two losses with respect to a layer's output, as far as layers read it
        for number, layer in reversed(list(enumerate(self.layers))):
            output, below = states.pop(), states[-1:]
            read = zip(prefix.keys_values.pop(), seam.keys_values.pop(), strict=True)
            under = below or [parameter for parameter in self.backbone if parameter not in in_layers]
            seeds = [(output, task), *((tensor, leaf.grad) for tensor, leaf in read)]
            g = _gradients(seeds, [*layer, *under], retain_graph=True)
            distance = w2_loss([output], prefix.valid, self.anchor[number : number + 1])
            g_ot = _gradients([(output, anchor), (distance, torch.ones_like(distance))], [*layer, *below])
            _leave(layer, g)
            self._project(layer, [next(g_ot) for _ in layer])
            if below:
                task, anchor = next(g), next(g_ot)
            else:
                _leave(under, g)
            drift += distance.detach()
        return {"loss": loss.item(), "anchor_loss": drift.item()}

    def _add(self, batch: Batch, share: float) -> dict[str, float]:
        """Add both gradients of a part of a step, to be projected when it is finished."""
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

    def _project(self, layer: Sequence[nn.Parameter], g_ot: Sequence[Tensor | None]) -> None:
        result = project([parameter.grad for parameter in layer], g_ot)
        _leave(layer, result.gradients)
        self._shed.append(result.shed)
        self._projected += result.projected


def _gradients(
    seeds: Iterable[tuple[Tensor, Tensor | None]], inputs: Sequence[Tensor], retain_graph: bool = False
) -> Iterator[Tensor | None]:
    """Of the sum of <tensor, seed> with respect to each input; None for one that has no part in it."""
    tensors, gradients = zip(*((tensor, seed) for tensor, seed in seeds if seed is not None), strict=True)
    return iter(torch.autograd.grad(tensors, inputs, gradients, retain_graph, allow_unused=True))


def _leave(parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Put a gradient into the `.grad` of each parameter, in its layout, which is what a fused optimizer reads it in."""
    for parameter, gradient in zip(parameters, gradients, strict=False):
        if gradient is not None and gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        parameter.grad = gradient


def _exchange(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Put gradients where others are gathered, and return those."""
    old = [parameter.grad for parameter in parameters]
    _leave(parameters, gradients)
    return old
