"""What benchmarks/latency.py sets the engine beside: each takes one call's work another way, and gives its seconds."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from aegis_policy import Observation
from aegis_policy.inference.text import MAX_ANSWER_TOKENS
from aegis_policy.inference.torch_policy import TorchPolicy
from aegis_policy.model.checkpoint import Checkpoint
from aegis_policy.model.expert import primed_cache

PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.convolution.default,
}
SQUARE, REPEATS = 1024, 5
"""Of the matrices with which the machine's rate is measured, and how often in one go."""


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


class Plain:
    """The checkpoint's model without an engine around it: images and words are turned into tensors beforehand."""

    def __init__(self, checkpoint: Checkpoint, seen: Observation, question: str):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.policy, self.checkpoint = checkpoint.policy.to(self.device).eval(), checkpoint
        views = torch.stack([checkpoint.processor.images(seen.images[each.name]) for each in checkpoint.info.cameras])
        self.images = views[None].to(self.device)
        self.instruction = self._words(seen.instruction)
        expert = self.policy.expert.config
        self.noise = torch.randn(1, expert.horizon, expert.action_dim, device=self.device)
        self.state = torch.randn(1, expert.state_dim, device=self.device)
        ids, _ = self._words(question)
        images = torch.full((1, len(views) * self.policy.image_tokens), self.policy.vlm.config.image_token_id)
        self.read = torch.cat([images.to(self.device), ids], dim=1)

    def _words(self, text: str) -> tuple[Tensor, Tensor]:
        ids, valid = self.checkpoint.processor.prompt([text])
        return ids.to(self.device), valid.to(self.device)

    @torch.inference_mode()
    def re_encode(self) -> Tensor:
        """Euler steps that each read images and instruction anew."""
        steps = self.policy.expert.config.denoising_steps
        x = self.noise[:, None]
        for step in range(steps):
            prefix = self.policy.encode(self.images, *self.instruction)
            time_left = x.new_full(x.shape[:2], 1 - step / steps)
            cache = primed_cache(prefix.keys_values)
            x = x - self.policy.expert(cache, prefix.valid, self.state, x, time_left) / steps
        return x

    def generate(self) -> str:
        """The answer, by transformers."""
        return self.checkpoint.processor.text(self.generated())

    @torch.inference_mode()
    def generated(self) -> list[int]:
        """Its tokens."""
        found = self.policy.vlm.generate(
            input_ids=self.read,
            pixel_values=self.images[0],
            attention_mask=torch.ones_like(self.read),
            token_type_ids=torch.zeros_like(self.read),
            do_sample=False,
            max_new_tokens=MAX_ANSWER_TOKENS,
            pad_token_id=self.checkpoint.processor.tokenizer.pad_token_id,
        )
        return found[0, self.read.shape[1] :].tolist()


class Products:
    """The matrix products of one call, and nothing else of it.

    Attributes:
        flops: of all of them.
    """

    def __init__(self, call: Callable[[], object]):
        with FlopCounterMode(display=False) as counter, _Recorder() as recorder:
            call()
        self.flops = counter.get_total_flops()
        kept: dict[str, Any] = {}
        self._calls = [
            (operator, kept.setdefault(str((operator, arguments)), _tensors(arguments)))
            for operator, arguments in recorder.calls
        ]

    @torch.inference_mode()
    def run(self) -> None:
        for operator, arguments in self._calls:
            operator(*arguments)


class _Recorder(TorchDispatchMode):
    """Notes which products are taken, of what shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in PRODUCTS:
            self.calls.append((func, tuple(_shape(each) for each in args)))
        else:
            with self:  # in inference mode, linear and matmul come whole: ask what they consist of
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        return func(*args, **(kwargs or {}))


class _Shape(tuple[tuple[int, ...], tuple[int, ...], torch.dtype, torch.device]):
    """Of a tensor: sizes, strides, dtype, device."""


def _shape(value: Any) -> Any:
    return _Shape((tuple(value.shape), value.stride(), value.dtype, value.device)) if torch.is_tensor(value) else value


def _tensors(arguments: tuple[Any, ...]) -> list[Any]:
    made = []
    for each in arguments:
        if isinstance(each, _Shape):
            shape, strides, dtype, device = each
            made.append(torch.empty_strided(shape, strides, dtype=dtype, device=device).normal_())
        else:
            made.append(each)
    return made


def rate() -> float:
    """This machine's floating-point operations a second in a large product of float32 matrices."""
    one = torch.randn(SQUARE, SQUARE, device="cuda" if torch.cuda.is_available() else "cpu")

    def repeated() -> None:
        for _ in range(REPEATS):
            one @ one

    return REPEATS * 2 * SQUARE**3 / timed(repeated)


class LeRobot:
    """PI0 of the same sizes, in a process of a Python of its own."""

    def __init__(self, python: Path, sizes: dict[str, Any]):
        line = [python, Path(__file__).with_name("latency_lerobot.py"), json.dumps(sizes)]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.parameters = int(self._said()["parameters"])
        self.peak_mb = 0.0

    def seconds(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("act\n")
        self._process.stdin.flush()
        said = self._said()
        self.peak_mb = said["peak_mb"]
        return said["seconds"]

    def _said(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("lerobot's process ended; what it said is above")
        return json.loads(line)

    def close(self) -> None:
        with suppress(OSError):
            self._process.communicate()


def answer(policy: TorchPolicy | Any, seen: Observation, question: str) -> str:
    return "".join(policy.ask(seen.images, question))
