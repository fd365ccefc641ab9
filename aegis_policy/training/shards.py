"""Weights, gradients and optimizer in shards, one for each process (FSDP2, `fully_shard`; as ZeRO-3, arXiv 1910.02054).

A layer's weights are gathered when it runs and freed afterwards, forward and backward; its gradient is averaged and
scattered when its backward pass is done. Parameters and gradients are then DTensors, which know the whole shape and
hold a shard; what is said of the whole (a norm, an inner product) is a sum over the processes of what each says of its
shard. Nothing here changes a tensor that is not sharded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from aegis_policy.model.policy import AegisPolicy
from aegis_policy.training import world
from aegis_policy.training.anchor import transformer_layers


def shard(policy: AegisPolicy) -> None:
    """Leave each process its shard of a policy, layer by layer; parameters become other objects.

    Raises:
        ValueError: there are no processes to share it.
    """
    if not dist.is_initialized():
        raise ValueError("--shard needs processes to share the weights: start with torchrun (docs/training.md)")
    mesh = init_device_mesh(next(policy.parameters()).device.type, (world.size(),))
    for layer in layers(policy):
        fully_shard(layer, mesh=mesh)
    fully_shard(policy, mesh=mesh)  # what is left: embeddings, projections, norms
    for method in ("encode", "flow_loss", "answer_logits"):
        register_fsdp_forward_method(policy, method)
    transformer_layers(policy)[-1].register_forward_hook(_gather_for_keys_and_values, with_kwargs=True)


def layers(policy: AegisPolicy) -> list[nn.Module]:
    """The transformer layers of vision tower, language model and expert."""
    vision: Any = policy.vlm.model.vision_tower
    return [*vision.encoder.layers, *transformer_layers(policy), *policy.expert.decoder.layers]


def _gather_for_keys_and_values(layer: Any, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
    """Gather a layer's weights when a gradient comes by its keys or values.

    FSDP2 does it when one comes by the output, but nobody reads the last layer's: the expert reads keys and values.
    """
    cache = kwargs.get("past_key_values")
    if cache is None:
        return
    for tensor in (cache.layers[-1].keys, cache.layers[-1].values):
        if tensor.requires_grad:
            tensor.register_hook(lambda _: layer.unshard())


@contextmanager
def parameters_in_use(modules: Iterable[nn.Module]) -> Iterator[list[nn.Parameter]]:
    """Within its block, the modules' parameters as a forward pass sees them, gathered: what autograd knows them by."""
    found: list[nn.Parameter] = []

    def note(module: nn.Module, _: Any) -> None:
        found.extend(module.parameters())

    hooks = [module.register_forward_pre_hook(note) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def free(policy: AegisPolicy) -> None:
    """Free what a forward pass without a backward pass has left gathered."""
    if isinstance(policy, FSDPModule):
        policy.reshard()


def local(tensor: Tensor) -> Tensor:
    """This process's shard, in the same memory; the tensor itself if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, in every process; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(whole: Tensor, parameter: Tensor) -> Tensor:
    """A tensor of a parameter's shape, which every process has whole, on its device and sharded as it is."""
    whole = whole.detach().to(parameter.device)
    if not isinstance(parameter, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def summed(count: Tensor, counted: Iterable[Tensor]) -> Tensor:
    """Of what was counted over local shards, the sum over the processes; the count itself if nothing is sharded."""
    if any(isinstance(tensor, DTensor) for tensor in counted):
        dist.all_reduce(count)
    return count


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, for the first process to write; every process must ask. The others get nothing that is sharded."""
    found = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            found[name] = tensor.detach()
            continue
        gathered = full(tensor.detach())
        if world.is_first():
            found[name] = gathered.cpu()
    return found
