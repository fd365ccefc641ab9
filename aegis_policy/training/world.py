"""The processes that train together, one to a device: one alone, or those that torchrun started, on any machines.

Each has all the weights (or its shard of them, see `shards`), takes its part of every batch, and makes the same step by
the gradients' mean. A loss that is a mean over samples needs nothing of this module; one that is not, because it is
divided by a number of tokens or is not linear in what the samples give, sums over the processes by `total`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from aegis_policy.training.device import default_device

PATIENCE = timedelta(minutes=30)
"""For a process that others wait for: the first one may be writing a checkpoint meanwhile. Then they end too."""
_BUCKET = 2**24
"""Numbers that are averaged at once: one message for many small tensors, without a second copy of all gradients."""


@contextmanager
def joined() -> Iterator[None]:
    """Within its block, the processes that torchrun started are one world; any other process is a world of its own."""
    if dist.is_initialized() or not dist.is_torchelastic_launched():
        yield
        return
    device = default_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    if not is_first():  # what they have to say, the first one says too
        logging.getLogger("aegis_policy").setLevel(logging.ERROR)
    yield
    dist.destroy_process_group()  # only if all went well: a failed process must end, not wait for the others


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0; known before they have joined and after."""
    return int(os.environ["RANK"]) if dist.is_torchelastic_launched() else 0


def is_first() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def wait() -> None:
    """Until every process is here."""
    if size() > 1:
        dist.barrier()


def total(part: Tensor) -> Tensor:
    """Sum over the processes of a tensor that each has its own part of, with the gradient of the sum."""
    return _Total.apply(part) if size() > 1 else part


class _Total(torch.autograd.Function):
    """Every process's loss depends on every process's part; the mean of their gradients is that of the common loss."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return _summed(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(part: Tensor) -> Tensor:
    whole = part.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(whole)
    return whole


@torch.no_grad()
def average(tensors: Iterable[Tensor]) -> None:
    """Make each tensor its mean over the processes, in place; those that are sharded are that already."""
    bucket, length = list[Tensor](), 0
    if size() > 1:
        for tensor in tensors:
            if isinstance(tensor, DTensor):
                continue
            bucket.append(tensor)
            length += tensor.numel()
            if length >= _BUCKET:
                _average(bucket)
                bucket, length = [], 0
        if bucket:
            _average(bucket)


def _average(bucket: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten() for tensor in bucket])
    dist.all_reduce(flat)
    flat /= size()
    for tensor, mean in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def mean(row: dict[str, float]) -> dict[str, float]:
    """Each number's mean over the processes."""
    if size() == 1:
        return row
    numbers = torch.tensor(list(row.values()), dtype=torch.float64, device=default_device())
    dist.all_reduce(numbers)
    return dict(zip(row, (numbers / size()).tolist(), strict=True))


@torch.no_grad()
def agree(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values: what was drawn at random may differ from machine to machine."""
    if size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)
