"""The anchor of AEGIS: what the hidden states of the pre-trained VLM look like, layer by layer (arXiv 2604.16067).

For each transformer layer of the language model, the mean and the standard deviation of every channel over the valid
tokens of many (images, question) prefixes: a diagonal Gaussian, computed once before fine-tuning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm

from aegis_policy.data.vqa import Sample, VQASet
from aegis_policy.model.backbone import Backbone
from aegis_policy.model.processor import Processor
from aegis_policy.model.tensors import save_tensors
from aegis_policy.training import world
from aegis_policy.training.device import autocast

FILE = "anchor.safetensors"
_SMALLEST_VARIANCE = 1e-12
_SAMPLED = 1009  # one weight in so many tells one backbone from another


@dataclass(frozen=True)
class Anchor:
    """Mean and standard deviation of W channels after each of L layers, float32 [L, W], over `tokens` tokens.

    `backbone` is the `fingerprint` of the backbone that was measured; files from before there was one do not tell.
    """

    mean: Tensor
    std: Tensor
    tokens: int
    backbone: str | None = None

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        save_tensors(
            {"mean": self.mean.contiguous(), "std": self.std.contiguous()},
            path,
            metadata={"format": "pt", "anchor": json.dumps({"tokens": self.tokens, "backbone": self.backbone})},
        )

    @classmethod
    def load(cls, path: str | Path) -> Anchor:
        """Read an anchor file.

        Raises:
            ValueError: the file is not an anchor.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such anchor; make one with 'aegis anchor'")
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["anchor"])
                return cls(file.get_tensor("mean"), file.get_tensor("std"), about["tokens"], about.get("backbone"))
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not an anchor file: {error!r}") from error

    def check(self, backbone: Backbone) -> None:
        """Raise ValueError unless the anchor is of a backbone with as many layers and channels."""
        text = backbone.vlm.config.text_config
        expected = (text.num_hidden_layers, text.hidden_size)
        if tuple(self.mean.shape) != expected or tuple(self.std.shape) != expected:
            raise ValueError(
                f"the anchor is of another backbone: {list(self.mean.shape)} layers and channels, "
                f"this backbone has {list(expected)}; make its own with 'aegis anchor'"
            )

    def __getitem__(self, layers: slice) -> Anchor:
        """Of some of the layers."""
        return Anchor(self.mean[layers], self.std[layers], self.tokens)

    def to(self, device: torch.device) -> Anchor:
        return replace(self, mean=self.mean.to(device), std=self.std.to(device))


def fingerprint(backbone: Backbone) -> str:
    """SHA-256 of a sample of a backbone's weights: two that were trained apart differ in nearly all of them."""
    digest = hashlib.sha256()
    for parameter in backbone.vlm.parameters():
        digest.update(parameter.detach().flatten()[::_SAMPLED].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def transformer_layers(backbone: Backbone) -> nn.ModuleList:
    """The layers of the language model that have an anchor."""
    layers = backbone.language_model.layers
    assert isinstance(layers, nn.ModuleList)
    return layers


class LayerRecorder:
    """Within its block, each forward pass leaves the outputs of `layers` in one list: [B, P, W] each, with graph.

    It hangs up the same hooks and fills the same list every time, as a compiled forward pass needs.
    """

    def __init__(self, layers: nn.ModuleList):
        self.layers = layers
        self.outputs: list[Tensor] = []
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> list[Tensor]:
        self._hooks = [self.layers[0].register_forward_pre_hook(self._begin)]
        self._hooks += [layer.register_forward_hook(self._keep) for layer in self.layers]
        return self.outputs

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: object) -> None:
        self.outputs.clear()

    def _keep(self, module: nn.Module, args: object, output: Tensor) -> None:
        self.outputs.append(output)


def anchor_of_sets(
    backbone: Backbone, processor: Processor, paths: Sequence[str | Path], questions: int, seed: int = 0
) -> Anchor:
    """The anchor over `questions` questions, drawn evenly from some question sets, one image each."""
    samples = [sample for path in paths for sample in VQASet(path).samples(max(1, questions // len(paths)), seed)]
    return compute_anchor(backbone, _prefixes(processor, samples))


def _prefixes(
    processor: Processor, samples: Sequence[Sample], size: int = 32
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in tqdm(range(0, len(samples), size), desc="anchor", unit="batch"):
        batch = samples[start : start + size]
        images = torch.stack([processor.images(sample.images) for sample in batch])  # sets may differ in size
        yield images, *processor.prompt([sample.question.text for sample in batch])


@torch.no_grad()
def compute_anchor(backbone: Backbone, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Anchor:
    """The anchor of a backbone.

    Args:
        batches: images [B, K, 3, S, S], prompt ids [B, T] and valid [B, T], as `Backbone.encode` takes them.
    """
    was_training = backbone.training
    backbone.eval()
    text = backbone.vlm.config.text_config
    device = next(backbone.parameters()).device
    total = torch.zeros(text.num_hidden_layers, text.hidden_size, dtype=torch.float64, device=device)
    squares, tokens = torch.zeros_like(total), 0
    with LayerRecorder(transformer_layers(backbone)) as outputs:
        for images, ids, valid in batches:
            with autocast(device):
                prefix = backbone.encode(images.to(device), ids.to(device), valid.to(device))
            for layer, hidden in enumerate(outputs):
                seen = hidden[prefix.valid].double()  # (tokens, W)
                total[layer] += seen.sum(dim=0)
                squares[layer] += seen.square().sum(dim=0)
            tokens += int(prefix.valid.sum())
    backbone.train(was_training)
    if not tokens:
        raise ValueError("no question to compute the anchor from")
    mean = total / tokens
    std = (squares / tokens - mean.square()).clamp_min(0).sqrt()
    return Anchor(mean.float().cpu(), std.float().cpu(), tokens, fingerprint(backbone))


def w2_loss(recorded: Sequence[Tensor], valid: Tensor, anchor: Anchor) -> Tensor:
    """Squared Wasserstein-2 distance of diagonal Gaussians, summed over layers.

        L_ot = sum_l ||mu^_l - mu_l||^2 + ||sigma^_l - sigma_l||^2                              (arXiv 2604.16067)

    The statistics are of the whole batch, whatever process has its samples, or, with --accumulate, of a micro-batch.
    A channel that is constant over it has no gradient through its deviation, where that of the root is infinite.

    Args:
        recorded: outputs of the L layers, [B, P, W] each.
        valid: [B, P] bool, tokens that count.
        anchor: the fixed side, on the same device.
    """
    precision = torch.promote_types(recorded[0].dtype, torch.float32)
    weight = (valid.to(precision) / world.total(valid.sum())).flatten()  # (B*P,)
    states = [hidden.to(precision).flatten(0, 1) for hidden in recorded]  # (B*P, W) each
    return _W2.apply(weight, anchor.mean, anchor.std, *states)


class _W2(torch.autograd.Function):
    """The distance and its gradient in closed form, which needs no copy of the states.

    dL/dh_n = w_n (2 (mu^ - mu) + 2 (sigma^ - sigma) / sigma^ * (h_n - mu^))
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mean: Tensor, std: Tensor, *states: Tensor) -> Tensor:
        mu = world.total(torch.stack([weight @ h for h in states]))  # (L, W)
        variance = world.total(torch.stack([weight @ (h - m).square_() for h, m in zip(states, mu, strict=True)]))
        sigma = variance.clamp_min(_SMALLEST_VARIANCE).sqrt()
        slope = torch.where(variance > _SMALLEST_VARIANCE, 2 * (sigma - std) / sigma, 0)
        ctx.save_for_backward(weight, slope, 2 * (mu - mean) - slope * mu, *states)
        return (mu - mean).square().sum() + (sigma - std).square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, slope, offset, *states = ctx.saved_tensors
        column = (world.total(gradient) * weight)[:, None]
        gradients = (torch.addcmul(o, h, s).mul_(column) for o, h, s in zip(offset, states, slope, strict=True))
        return None, None, None, *gradients
