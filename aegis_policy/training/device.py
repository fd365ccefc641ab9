"""Which device trains, and in which precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

_assumed: ContextVar[bool | None] = ContextVar("assumed", default=None)


def default_device() -> torch.device:
    """CUDA where there is one, else the CPU; of several, the one that torchrun means for this process."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 for the matrix products where the device computes in it, else a context that changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16(device))


def in_its_precision(frozen: nn.Module, device: torch.device) -> None:
    """Keep as bfloat16 the weights that `autocast` makes it for every product: the same results, half the memory."""
    if computes_in_bfloat16(device):
        for module in frozen.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):  # anew, as `to` refuses tensors that `cost` counts
                for name, parameter in module.named_parameters(recurse=False):
                    setattr(module, name, nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether `autocast` makes a difference on the device."""
    assumed = _assumed.get()
    if assumed is not None:
        return assumed
    return {"cuda": _gpu_has_bf16, "cpu": _cpu_has_bf16}.get(device.type, bool)()


@contextmanager
def assume_bfloat16(supported: bool) -> Iterator[None]:
    """Within its block `autocast` takes every device to compute in bfloat16, or none: to count for another machine."""
    token = _assumed.set(supported)
    try:
        yield
    finally:
        _assumed.reset(token)


def _gpu_has_bf16() -> bool:
    """Whether the GPU multiplies bfloat16 in hardware, as from Ampere on."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
