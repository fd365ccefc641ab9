"""The ONNX backend: an exported policy behind the `Policy` contract, by onnxruntime, without torch or transformers."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from aegis_policy.data.ahead import Ahead, Easing, guidance
from aegis_policy.data.pixels import scale
from aegis_policy.inference.manifest import GUIDE, TOKENIZER, WEIGHTS, Graph, Manifest, graph_file
from aegis_policy.inference.noise import randn
from aegis_policy.inference.text import MAX_ANSWER_TOKENS, check_prompt, spell
from aegis_policy.policy import ActionChunk, Observation, PolicyInfo, check_observation, check_question

log = logging.getLogger(__name__)

Device = Literal["cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}
"""onnxruntime would round to 10 bits before it multiplies on a GPU, and ten Euler steps add up."""
ONE_THREAD = 200_000_000
"""Models of fewer bytes compute on one CPU thread (`TorchPolicy.from_pretrained` says why)."""

Values = dict[str, ort.OrtValue]
"""Tensors on the device, by name."""


class OnnxPolicy:
    """Acts and answers with the graphs of `aegis export`. Not thread-safe: one caller at a time.

    Args:
        folder: what `aegis export` wrote.
        device: where to compute; on a CUDA GPU where there is one and onnxruntime can use it when None.

    Raises:
        FileNotFoundError, ValueError: the folder is not what was exported, or onnxruntime does not work on `device`.
    """

    def __init__(self, folder: str | Path, device: Device | None = None):
        folder = Path(folder)
        self._manifest = manifest = Manifest.load(folder)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self.device: Device = device or best_device()
        if self.device == "cuda":
            ort.preload_dlls()  # CUDA and cuDNN as pip installs them, which the system's loader does not look for
        options = ort.SessionOptions()
        if (folder / WEIGHTS).stat().st_size < ONE_THREAD:
            options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0])
        self._graphs = {
            name: _Graph(folder / graph_file(name), graph, self.device, options)
            for name, graph in manifest.graphs.items()
        }
        self._easing = None if GUIDE in self._graphs else Easing(self.info, manifest.norm_stats.actions)
        log.info("%s: onnxruntime %s, %s", folder, ort.__version__, self.provider)

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graphs, as onnxruntime names it."""
        return self._graphs["step"].provider

    @property
    def info(self) -> PolicyInfo:
        return self._manifest.info

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        """See `Policy.act`."""
        return self.act_many([observation], [seed])[0]

    def act_many(self, observations: Sequence[Observation], seeds: Sequence[int | None]) -> list[ActionChunk]:
        """One pass of the graphs over all of them; see `aegis_policy.act_many`."""
        for observation in observations:
            check_observation(self.info, observation)
        valid, _, read = self._read([seen.images for seen in observations], [seen.instruction for seen in observations])
        stats = self._manifest.norm_stats
        states = np.stack([np.asarray(seen.state, np.float64) for seen in observations])
        normal = stats.state.normalize(states).astype(np.float32)
        noise = np.stack([randn(seed, self.info.horizon, len(self.info.actions)) for seed in seeds])
        x = np.float32(self._manifest.temperature) * noise
        given = {"in_state": self._place(normal), "in_valid": self._place(valid)} | _inputs(read)
        ahead = Ahead.of([seen.pending for seen in observations], stats.actions, self.info.horizon)
        if ahead is not None and GUIDE in self._graphs:
            chunks = self._guided(x, given, ahead)
        else:
            chunks = self._denoise(x, given, ahead)
        actions = stats.actions.unnormalize(chunks.astype(np.float64)).astype(np.float32)
        ease = self._easing or (lambda chunk, pending: chunk)
        return [
            ActionChunk(ease(chunk, seen.pending), seen.stamp)
            for chunk, seen in zip(actions, observations, strict=True)
        ]

    def _denoise(self, x: np.ndarray, given: Values, ahead: Ahead | None) -> np.ndarray:
        """`AegisPolicy.denoise`, or `real_time.conditioned`: [B, H, A] -> [B, H, A].

        What is given stays where it is from step to step.
        """
        steps, call = self._manifest.denoising_steps, _Call(self._graphs["step"], given)
        hold, actions = (np.zeros(x.shape[:2]), x) if ahead is None else (ahead.hold, ahead.actions)
        committed = hold == 1
        for step in range(steps):
            x = np.where(committed[..., None], actions, x)
            time = np.where(committed, 0, 1 - step / steps).astype(np.float32)
            velocity = call.run({"in_noisy": self._place(x), "in_time": self._place(time)}, ["velocity"])["velocity"]
            x = x - velocity.numpy() / np.float32(steps)
        return np.where(committed[..., None], actions, x)

    def _guided(self, x: np.ndarray, given: Values, ahead: Ahead) -> np.ndarray:
        """`real_time.guided`: [B, H, A] -> [B, H, A]."""
        steps = self._manifest.denoising_steps
        pending = {"in_actions": self._place(ahead.actions), "in_hold": self._place(ahead.hold)}
        call = _Call(self._graphs[GUIDE], given | pending)
        for step in range(steps):
            time = np.full(len(x), 1 - step / steps, np.float32)
            found = call.run({"in_noisy": self._place(x), "in_time": self._place(time)})
            pull = np.float32(guidance(1 - step / steps, steps)) * found["pull"].numpy()
            x = x - (found["velocity"].numpy() - pull) / np.float32(steps)
        return x

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        """See `Policy.ask`. Bad input raises at once, not at the first piece of the answer."""
        check_question(self.info, images, question)
        return spell(self._decode(images, question), self._text)

    def _decode(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[int]:
        """Greedy answer tokens, as `Backbone.decode`."""
        valid, token, read = self._read([images], [question])
        for place in range(valid.sum(), valid.sum() + MAX_ANSWER_TOKENS):
            yield int(token.numpy()[0])
            if token.numpy()[0] == self._manifest.eos:
                return
            valid = np.concatenate([valid, np.ones((1, 1), bool)], axis=1)
            inputs = {"in_token": token, "in_place": self._place(np.array([place + 1])), "in_valid": self._place(valid)}
            token, read = _first(_Call(self._graphs["decode"], inputs | _inputs(read)).run({}))

    def _read(
        self, views: Sequence[Mapping[str, np.ndarray]], prompts: Sequence[str]
    ) -> tuple[np.ndarray, ort.OrtValue, Values]:
        """B views of the same cameras and as many prompts -> valid [B, P], first tokens [B], keys and values."""
        cameras = [camera.name for camera in self.info.cameras if camera.name in views[0]]
        size = self._manifest.image_size
        pixels = np.stack([[scale(images[name], size) for name in cameras] for images in views])
        seen = _Call(self._graphs["vision"], {"in_images": self._place(pixels)}).run({})["seen"]
        ids, valid = self._prompt(prompts)
        words = {"in_ids": self._place(ids), "in_valid": self._place(valid)}
        token, read = _first(_Call(self._graphs["prefix"], {"in_seen": seen} | words).run({}))
        return np.concatenate([np.ones(seen.shape()[:2], bool), valid], axis=1), token, read

    def _prompt(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `Processor.prompt`."""
        rows = [
            [self._manifest.bos, *self._tokenizer.encode(text.strip() + "\n", add_special_tokens=False).ids]
            for text in texts
        ]
        for text, tokens in zip(texts, rows, strict=True):
            check_prompt(text.strip(), len(tokens))
        ids = np.full((len(rows), max(map(len, rows))), self._manifest.pad, np.int64)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids, np.arange(ids.shape[1]) < np.array([[len(tokens)] for tokens in rows])

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _place(self, array: np.ndarray) -> ort.OrtValue:
        """On the device; on the CPU that is the array itself, not a copy."""
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device, 0)


class _Graph:
    """One graph, loaded, on the device that was asked for and on no other."""

    def __init__(self, file: Path, values: Graph, device: Device, options: ort.SessionOptions):
        self.device, self.outputs = device, list(values.outputs)
        try:
            provider = (_PROVIDERS[device], _OPTIONS[device])
            self.session = ort.InferenceSession(file, options, providers=[provider])
        except Exception as error:  # onnxruntime has no exception of its own that tells a bad graph from a bad library
            raise ValueError(f"{file}: onnxruntime {ort.__version__} cannot load it on {device}: {error}") from error
        self.provider = self.session.get_providers()[0]
        if self.provider != _PROVIDERS[device]:  # onnxruntime falls back to the CPU with no more than a line in its log
            raise ValueError(
                f"onnxruntime {ort.__version__} was to run on {_PROVIDERS[device]} and took {self.provider}: a GPU, or "
                'the CUDA or cuDNN that it needs, is missing; install "aegis-policy[onnx-gpu]" in place of '
                "[onnx], or hide the GPU with CUDA_VISIBLE_DEVICES=''"
            )


class _Call:
    """A graph with some of its inputs bound, once for as many runs as there are."""

    def __init__(self, graph: _Graph, given: Values):
        self._graph, self._given = graph, dict(given)  # held: a binding does not keep its tensors alive
        self._binding = graph.session.io_binding()
        for name, value in given.items():
            self._binding.bind_ortvalue_input(name, value)

    def run(self, inputs: Values, outputs: Sequence[str] | None = None) -> Values:
        """The graph's outputs, or those named, on its device."""
        outputs = outputs or self._graph.outputs
        for name, value in inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in outputs:
            self._binding.bind_output(name, self._graph.device)
        self._graph.session.run_with_iobinding(self._binding)
        return dict(zip(outputs, self._binding.get_outputs(), strict=True))


def best_device() -> Device:
    """A CUDA GPU where this onnxruntime can use one and the driver shows one, else the CPU."""
    return "cuda" if _PROVIDERS["cuda"] in ort.get_available_providers() and _gpus() else "cpu"


def _gpus() -> int:
    """How many CUDA GPUs the driver shows this process, which CUDA_VISIBLE_DEVICES has a say in."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def _first(outputs: Values) -> tuple[ort.OrtValue, Values]:
    """The token, and the keys and values."""
    return outputs["token"], {name: value for name, value in outputs.items() if name != "token"}


def _inputs(read: Values) -> Values:
    """Keys and values under their names as inputs."""
    return {f"in_{name}": value for name, value in read.items()}
