"""What a step of fine-tuning costs in bytes and operations, for any method and size: the step itself, without data.

It runs on fake tensors, which have shapes and no memory. Every byte that it would allocate is counted from when it is
made to when it is freed, so there is no formula for the code to outgrow. Not counted are what a kernel needs inside
itself, fragmentation, and what a GPU's driver takes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

from aegis_policy.data.packing import pack
from aegis_policy.data.vqa import Question
from aegis_policy.model.backbone import new_vlm
from aegis_policy.model.config import ExpertConfig
from aegis_policy.model.policy import AegisPolicy, sample_time
from aegis_policy.model.processor import Processor, word_tokenizer
from aegis_policy.training.anchor import Anchor
from aegis_policy.training.batches import PACKED
from aegis_policy.training.config import MethodName, TrainConfig
from aegis_policy.training.device import assume_bfloat16
from aegis_policy.training.methods import Asked, Batch, Given, Method, make_method, method_class
from aegis_policy.training.train import make_optimizer

UNCOUNTED: tuple[MethodName, ...] = ("lora",)
"""Methods that do not run without data: peft moves its adapters' memory."""
QUESTION, ANSWER = "what color is the cube", "red"


@dataclass(frozen=True)
class StepCost:
    """Bytes, but for the last; of aegis without a conflict, where one may take a layer's gradient and moments more.

    Attributes:
        weights: of what is there before the first step: parameters, buffers, and what a method holds beside them.
        gradients, moments: of the parameters that train, when a step has ended.
        activations: what the forward pass keeps for the backward pass; with bfloat16, copies of the weights too.
        peak: the most that is there at once, all of that included. Gradients come while activations go, so it may be
            less than the sum.
        flops: floating-point operations in matrix products and convolutions.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    peak: int
    flops: int


def count_step(
    config: TrainConfig,
    vlm: PaliGemmaConfig,
    expert: ExpertConfig,
    *,
    cameras: int = 2,
    prompt: int = 16,
    bfloat16: bool = True,
) -> StepCost:
    """What a step of `aegis train` costs with a model of these sizes, of which not a weight is made.

    Args:
        config: its method, batch size B, noise draws M, and what else makes a difference.
        cameras: K; prompt: T, tokens of the instruction, padding included.
        bfloat16: whether the device computes in it, as GPUs do; weights, gradients and moments are float32 anyway.

    Raises:
        ValueError: one of UNCOUNTED.
    """
    if config.method in UNCOUNTED:
        raise ValueError(f"what {config.method} costs cannot be counted without data: measure it")
    with assume_bfloat16(bfloat16), FakeTensorMode():

        def make() -> Method:
            before = new_vlm(vlm) if method_class(config.method).needs_before else None
            return new_method(config, AegisPolicy(new_vlm(vlm), expert), before)

        return measure_step(make, lambda policy: random_batch(config, policy, cameras, prompt), config)


def measure_step(
    make: Callable[[], Method], batch_for: Callable[[AegisPolicy], Batch], config: TrainConfig
) -> StepCost:
    """What a step costs whose tensors may be real or fake.

    Args:
        make, batch_for: are called where what they make is counted.
    """
    with LiveBytes() as live:
        method = make()
        weights, saved = live.now, _Saved(live)
        batch, optimizer = batch_for(method.policy), make_optimizer(method, config)
        live.peak = live.now
        with saved_tensors_hooks(saved.pack, saved.unpack), FlopCounterMode(display=False) as flops:
            method.backward(batch)
        peak = live.peak
        nn.utils.clip_grad_norm_(method.policy.parameters(), config.clip).item()
        optimizer.step()
        moments = _bytes(value for state in optimizer.state.values() for value in state.values())
        return StepCost(
            weights=weights,
            gradients=_bytes(parameter.grad for parameter in method.policy.parameters()),
            moments=moments,
            activations=saved.bytes,
            peak=max(peak + moments, live.peak),  # the moments are there from the second step on
            flops=flops.get_total_flops(),
        )


def new_method(
    config: TrainConfig, policy: AegisPolicy, before: PaliGemmaForConditionalGeneration | None = None
) -> Method:
    """A method with an anchor of zeros and ones."""
    text = policy.vlm.config.text_config
    shape = (text.num_hidden_layers, text.hidden_size)
    anchor = Anchor(torch.zeros(shape), torch.ones(shape), 1)
    return make_method(config, policy.train(), Given(anchor, before))


def random_batch(config: TrainConfig, policy: AegisPolicy, cameras: int, prompt: int) -> Batch:
    """Noise of the shapes that a batch of `config` has for `policy`, all prompts `prompt` tokens long."""
    expert, size = policy.expert.config, policy.vlm.config.vision_config.image_size
    b, m = config.batch_size - config.replayed, config.noise_samples
    processor, asked = _processor(size), None
    if config.replayed:
        rows = [[Question(QUESTION, ANSWER, "")] * PACKED] * config.replayed
        asked = Asked(torch.rand(config.replayed, 1, 3, size, size), pack(rows, processor, policy.image_tokens))
    return Batch(
        images=torch.rand(b, cameras, 3, size, size) * 2 - 1,
        ids=torch.ones(b, prompt, dtype=torch.long),
        valid=torch.ones(b, prompt, dtype=torch.bool),
        state=torch.randn(b, expert.state_dim),
        actions=torch.randn(b, expert.horizon, expert.action_dim),
        noise=torch.randn(b, m, expert.horizon, expert.action_dim),
        time=sample_time((b, m)),
        asked=asked,
        held=config.held(processes=1),
    )


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors made within its block.

    Whoever asks a fake tensor for its value is told 1, or False.

    Attributes:
        now: alive at this moment.
        peak: the most since it was last set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._storages = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return args[0].dtype is not torch.bool
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._count, made)
        return made

    def storages(self) -> list[UntypedStorage]:
        """Those that are alive."""
        return list(self._storages)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._storages:
            return
        self._storages[storage] = True
        weakref.finalize(storage, self._freed, storage.nbytes()).atexit = False
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _freed(self, size: int) -> None:
        self.now -= size


class _Saved:
    """Hooks that add up what a graph keeps, except what was there before."""

    def __init__(self, before: LiveBytes):
        self.bytes = 0
        self._seen = WeakIdKeyDictionary(dict.fromkeys(before.storages(), True))

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen[storage] = True
            self.bytes += storage.nbytes()
        return tensor.detach()  # or an output that is kept for its own gradient would keep itself

    def unpack(self, tensor: Tensor) -> Tensor:
        return tensor


def _bytes(tensors: Iterable[Tensor | None]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors if tensor is not None)


def _processor(image_size: int) -> Processor:
    return Processor(word_tokenizer([f"{QUESTION} {ANSWER}"]), image_size)
