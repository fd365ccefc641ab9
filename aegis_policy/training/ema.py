"""A running average of the weights that train: it steadies what the last steps of training throw about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aegis_policy.training.shards import like, local, whole

_AVERAGE, _RAW = "average/", "raw/"


class Average:
    """average <- decay * average + (1 - decay) * weights, after each step; it begins at the weights.

    At step n the decay is (1 + n) / (10 + n) at most, as in TensorFlow's average with `num_updates`. Of the start, .999
    would else leave a share of .61 after 500 steps; where an expert is fresh, that is noise.

    Args:
        parameters: the weights, by name; they may be shards.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self.parameters, self.decay = parameters, decay
        self.values = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [local(value) for value in self.values.values()]
        weights = [local(parameter) for parameter in self.parameters.values()]
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within its block the policy has the average's weights."""
        raw = {name: local(parameter).detach().clone() for name, parameter in self.parameters.items()}
        self._fill({name: local(value) for name, value in self.values.items()})
        try:
            yield
        finally:
            self._fill(raw)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            local(parameter).copy_(values[name])

    def state(self) -> dict[str, Tensor]:
        """Both the average and the weights, whole: the finished policy has merged or averaged the latter away."""
        return whole(
            {_AVERAGE + name: value for name, value in self.values.items()}
            | {_RAW + name: parameter for name, parameter in self.parameters.items()}
        )

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave, the weights too."""
        for name, parameter in self.parameters.items():
            self.values[name] = like(tensors[_AVERAGE + name], parameter).clone()
            local(parameter).copy_(local(like(tensors[_RAW + name], parameter)))
