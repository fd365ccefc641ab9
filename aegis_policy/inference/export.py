"""A checkpoint as ONNX graphs with a manifest, to act and answer without torch (docs/export.md).

    vision    images [B, K, 3, S, S]                              -> seen [B, K*N, W]
    prefix    seen, ids and valid [B, T]                          -> token [B], keys and values of the P = K*N + T read
    step      noisy [B, H, A], time [B, H], state [B, S],
              valid [B, P], keys and values                       -> velocity [B, H, A]
    guide     noisy [B, H, A], time [B], actions [B, H, A],
              hold [B, H], state, valid, keys and values          -> velocity and pull [B, H, A]
    decode    token [B], place [B], valid [B, Q+1],
              past keys and values of Q                           -> token [B], keys and values of Q + 1

`guide` is a step towards what is pending (`model.real_time.pull`), of a policy that was not trained to be given it.
Weights lie beside the graphs in one file, once each, however many graphs use them: the language model is in two.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import onnxscript  # noqa: F401 - torch's exporter needs it: told at once, before anything is written
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from aegis_policy.inference.derivative import TRACING, export_derivative
from aegis_policy.inference.manifest import GUIDE, TOKENIZER, WEIGHTS, Graph, Manifest, Value, graph_file, sha256
from aegis_policy.inference.onnx_policy import OnnxPolicy
from aegis_policy.inference.torch_policy import TorchPolicy
from aegis_policy.model.checkpoint import Checkpoint, load
from aegis_policy.model.expert import KeysValues, primed_cache
from aegis_policy.model.policy import AegisPolicy
from aegis_policy.model.real_time import pull
from aegis_policy.policy import Observation, Pending

log = logging.getLogger(__name__)

ALIGNMENT = 4096
"""Weights begin at multiples of so many bytes, so that they can be mapped into memory."""
SMALL = 1024
"""Bytes; constants up to this size stay in their graph."""
TOLERANCE, PROBES, QUESTION, INSTRUCTION = 1e-3, 4, "what is there?", "pick it up"
"""Standard deviations that an action may differ from torch's, in so many tries with noise for images."""
PACKAGES = ("aegis-policy", "torch", "transformers", "onnx", "onnxscript")


def export_policy(source: str | Path | None, output: Path) -> float:
    """Write a policy's graphs, weights, words and manifest to a new folder, which appears whole or not at all.

    Before it does, onnxruntime acts and answers with it: the largest difference of its actions from torch's is
    returned, in standard deviations.

    Args:
        source: as `aegis_policy.model.checkpoint.load`.
        output: the folder to make.

    Raises:
        ValueError: `output` is there already, or onnxruntime does not do what torch does.
        OSError, ValueError: what `load` refuses.
    """
    if output.exists():
        raise ValueError(f"{output}: is there already; choose another folder")
    checkpoint = load(source)
    partial = output.absolute().with_name(f".{output.absolute().name}.partial")
    if partial.exists():  # of a process that was killed
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        _write(checkpoint, partial)
        difference = _compare(checkpoint, partial)
        partial.rename(output)  # no need to flush it to the disk: a reader checks every file
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return difference


def _compare(checkpoint: Checkpoint, folder: Path) -> float:
    """How far onnxruntime's actions are from torch's, in standard deviations. Raises ValueError if that is too far."""
    info, stats, rng = checkpoint.info, checkpoint.norm_stats, np.random.default_rng(0)
    torches, exported = TorchPolicy(checkpoint, "cpu"), OnnxPolicy(folder, "cpu")
    worst = 0.0
    for seed, instruction in zip(range(PROBES), cycle(info.instructions or (INSTRUCTION,)), strict=False):
        images = {each.name: rng.integers(0, 256, (each.height, each.width, 3), np.uint8) for each in info.cameras}
        state = (stats.state.mean + stats.state.std * rng.normal(size=len(info.state))).astype(np.float32)
        first = Observation(images, state, instruction)
        both = [first]
        if torches.info.max_delay:
            both.append(replace(first, pending=Pending(torches.act(first, seed=seed).actions[1:], 1)))
        for seen in both:
            ours, theirs = (policy.act(seen, seed=seed).actions for policy in (exported, torches))
            worst = max(worst, float(np.abs((ours - theirs) / stats.actions.scale).max()))
        answers = ["".join(policy.ask(images, QUESTION)) for policy in (exported, torches)]
        if not worst < TOLERANCE or answers[0] != answers[1]:
            raise ValueError(
                f"nothing was exported: for '{instruction}', onnxruntime's actions are {worst:.2g} standard deviations "
                f"from torch's, and it answers '{answers[0]}', torch '{answers[1]}'"
            )
    return worst


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    models = {name: _trace(name, case) for name, case in _cases(checkpoint.policy).items()}
    tokenizer, expert = checkpoint.processor.tokenizer, checkpoint.policy.expert.config
    tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    graphs = {name: Graph(_values(model.graph.inputs), _values(model.graph.outputs)) for name, model in models.items()}
    _save(models, folder)
    Manifest(
        info=TorchPolicy(checkpoint, "cpu").info,
        norm_stats=checkpoint.norm_stats,
        image_size=checkpoint.processor.image_size,
        bos=tokenizer.bos_token_id,
        eos=checkpoint.policy.eos,
        pad=tokenizer.pad_token_id,
        denoising_steps=expert.denoising_steps,
        temperature=expert.temperature,
        graphs=graphs,
        files={name: sha256(folder / name) for name in (*map(graph_file, graphs), WEIGHTS, TOKENIZER)},
        opset=models["step"].opset_imports[""],
        versions={package: version(package) for package in PACKAGES},
    ).save(folder)


class _Graph(nn.Module):
    """Tensors in, tensors out, for one graph of `policy`."""

    def __init__(self, policy: AegisPolicy):
        super().__init__()
        self.policy = policy


class _Vision(_Graph):
    def forward(self, images: Tensor) -> Tensor:
        return self.policy.see(images)


class _Prefix(_Graph):
    def forward(self, seen: Tensor, ids: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        prefix = self.policy.encode_seen(seen, ids, valid)
        return self.policy.first_token(prefix), *_flat(prefix.keys_values)


class _Step(_Graph):
    def forward(self, noisy: Tensor, time: Tensor, state: Tensor, valid: Tensor, read: list[Tensor]) -> Tensor:
        return self.policy.expert(primed_cache(_paired(read)), valid, state, noisy[:, None], time[:, None])[:, 0]


class _Guide(_Graph):
    def forward(
        self, noisy: Tensor, time: Tensor, actions: Tensor, hold: Tensor, state: Tensor, valid: Tensor, *read: Tensor
    ) -> tuple[Tensor, Tensor]:
        def field(x: Tensor, time: Tensor) -> Tensor:
            return self.policy.expert(primed_cache(_paired(read)), valid, state, x, time)

        velocity, bend = pull(field, noisy[:, None], time[:, None], actions, hold)
        return velocity[:, 0], bend[:, 0]


class _Decode(_Graph):
    def forward(self, token: Tensor, place: Tensor, valid: Tensor, read: list[Tensor]) -> tuple[Tensor, ...]:
        cache = primed_cache(_paired(read))
        following = self.policy.next_token(token, place, valid, cache)
        return following, *_flat([(layer.keys, layer.values) for layer in cache.layers])


def _flat(keys_values: KeysValues) -> list[Tensor]:
    return [tensor for layer in keys_values for tensor in layer]


def _paired(flat: Sequence[Tensor]) -> KeysValues:
    return list(zip(flat[::2], flat[1::2], strict=True))


class _Case(NamedTuple):
    """What to trace: a module, inputs for it, which of their dimensions are free, and names for the outputs."""

    module: nn.Module
    example: dict[str, Any]
    free: dict[str, Any]
    outputs: list[str]

    def program(self) -> ExportedProgram:
        module = self.module.eval()
        if not isinstance(module, _Guide):
            options: dict[str, Any] = {"dynamic_shapes": self.free, **TRACING}
            return torch.export.export(module, (), self.example, **options)
        single = [key for key in self.example if key != "read"]
        return export_derivative(
            module,
            [*(self.example[key] for key in single), *self.example["read"]],
            [*(self.free[key] for key in single), *self.free["read"]],
        )


def _cases(policy: AegisPolicy) -> dict[str, _Case]:
    """By graph. What has been read is one list, keys and values of one layer after the other."""
    text, vision, expert = policy.vlm.config.text_config, policy.vlm.config.vision_config, policy.expert.config
    batch, past = Dim("batch"), Dim("past")
    rows, tokens, seen = 2, 5, 2 * policy.image_tokens  # sizes that no two dimensions share by chance
    ids, valid = torch.ones(rows, tokens, dtype=torch.long), torch.ones(rows, seen, dtype=torch.bool)
    pairs = _pairs(text.num_hidden_layers)
    read = [torch.randn(rows, text.num_key_value_heads, seen, text.head_dim) for _ in pairs]
    rows_alone = {0: batch}
    free_read = [{0: batch, 2: past}] * len(pairs)
    images = torch.rand(rows, 3, 3, vision.image_size, vision.image_size)
    words = {0: batch, 1: Dim("words")}
    motion = {
        "noisy": torch.randn(rows, expert.horizon, expert.action_dim),
        "time": torch.rand(rows, expert.horizon),
        "state": torch.randn(rows, expert.state_dim),
    }
    pending = {
        "actions": torch.randn(rows, expert.horizon, expert.action_dim),
        "hold": torch.rand(rows, expert.horizon),
    }
    guided = {"noisy": motion["noisy"], "time": torch.rand(rows)} | pending | {"state": motion["state"]}
    cases = {
        "vision": _Case(_Vision(policy), {"images": images}, {"images": {0: batch, 1: Dim("cameras")}}, ["seen"]),
        "prefix": _Case(
            _Prefix(policy),
            {"seen": torch.randn(rows, seen, text.hidden_size), "ids": ids, "valid": ids > 0},
            {"seen": {0: batch, 1: Dim("image_tokens")}, "ids": words, "valid": words},
            ["token", *pairs],
        ),
        "step": _Case(
            _Step(policy),
            motion | {"valid": valid, "read": read},
            {**dict.fromkeys(motion, rows_alone), "valid": {0: batch, 1: past}, "read": free_read},
            ["velocity"],
        ),
        "decode": _Case(
            _Decode(policy),
            {"token": ids[:, 0], "place": ids[:, 1], "valid": torch.cat([valid, valid[:, :1]], dim=1), "read": read},
            {"token": rows_alone, "place": rows_alone, "valid": {0: batch, 1: past + 1}, "read": free_read},
            ["token", *pairs],
        ),
    }
    if not expert.max_delay:
        cases[GUIDE] = _Case(
            _Guide(policy),
            guided | {"valid": valid, "read": read},
            {**dict.fromkeys(guided, rows_alone), "valid": {0: batch, 1: past}, "read": free_read},
            ["velocity", "pull"],
        )
    return cases


def _pairs(layers: int) -> list[str]:
    return [f"{kind}_{layer}" for layer in range(layers) for kind in ("keys", "values")]


def _trace(name: str, case: _Case) -> ir.Model:
    """One graph. Its inputs are called in_NAME: it has names of its own inside, which an input must not have."""
    log.info("exporting %s", name)
    inputs = [key for key in case.example if key != "read"] + _pairs(len(case.example.get("read", ())) // 2)
    with _quietly(), torch.no_grad():
        exported = torch.onnx.export(
            case.program(),  # if left to torch.onnx.export, it fixes a dimension that it cannot keep free
            dynamo=True,
            input_names=[f"in_{name}" for name in inputs],
            output_names=case.outputs,
            dynamic_shapes=case.free,
            verbose=False,
        )
    if exported is None:
        raise RuntimeError(f"torch.onnx.export gave nothing for {name}")
    ClearMetadataAndDocStringPass()(exported.model)  # tracebacks, with paths of this machine
    return exported.model


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not needed and on names of dimensions."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnx_ir", "onnxscript")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _values(values: Sequence[ir.Value]) -> dict[str, Value]:
    return {
        str(value.name): Value(
            value.dtype.numpy().name, tuple(size if isinstance(size, int) else str(size) for size in value.shape)
        )
        for value in values
        if value.dtype is not None and value.shape is not None
    }


def _save(models: Mapping[str, ir.Model], folder: Path) -> None:
    """Write the graphs, and the weights of all into one file."""
    places: dict[bytes, int] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for name, model in models.items():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes <= SMALL:
                    continue
                data = tensor.tobytes()
                digest = hashlib.sha256(data).digest()
                if digest not in places:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    places[digest] = file.tell()
                    file.write(data)
                value.const_value = ir.ExternalTensor(
                    WEIGHTS,
                    places[digest],
                    len(data),
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=str(value.name),
                    base_dir=folder,
                )
            ir.save(model, folder / graph_file(name))
