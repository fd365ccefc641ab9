"""The torch backend: a checkpoint behind the `Policy` contract."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from aegis_policy.data.ahead import Ahead, Easing
from aegis_policy.inference.example import EXAMPLE_QUESTION, example_observation
from aegis_policy.inference.text import MAX_ANSWER_TOKENS, spell
from aegis_policy.model.backbone import Prefix
from aegis_policy.model.checkpoint import Checkpoint, load
from aegis_policy.policy import ActionChunk, Observation, PolicyInfo, check_observation, check_question

ONE_THREAD = 50_000_000
"""Models of fewer parameters compute on one CPU thread."""


class TorchPolicy:
    """Acts and answers with a checkpoint's weights. Not thread-safe: one caller at a time.

    Args:
        checkpoint: as `aegis_policy.model.checkpoint.load` gives it.
        device: where to compute; a CUDA GPU where there is one when None.
    """

    def __init__(self, checkpoint: Checkpoint, device: str | torch.device | None = None):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._policy = checkpoint.policy.to(self.device).eval()
        self._processor, self._stats = checkpoint.processor, checkpoint.norm_stats
        self._info = replace(checkpoint.info, max_delay=self._policy.expert.config.most_delay)
        self._easing = Easing(self._info, self._stats.actions) if self._policy.expert.config.max_delay else None

    @classmethod
    def from_pretrained(
        cls, source: str | Path | None = None, device: str | None = None, *, compiled: bool = False
    ) -> TorchPolicy:
        """A folder, a training folder (its newest checkpoint), or None for the policy that ships; see `compile`.

        For a small model on the CPU this sets torch's number of threads, for the whole process, to one, unless
        OMP_NUM_THREADS says otherwise: two gain about a fifth on an idle machine, and wait for one another many times
        over when a simulator or a robot's other processes want the cores as well.
        """
        policy = cls(load(source), device)
        small = sum(parameter.numel() for parameter in policy._policy.parameters()) < ONE_THREAD
        if small and policy.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)
        if compiled:
            policy.compile()
        return policy

    def compile(self) -> None:
        """Compile the model, for any batch, prompt and number of cameras: minutes, so that no caller waits for it.

        Going on from pending actions takes other graphs, which are compiled when it is first asked for.
        """
        model = self._policy
        for part in ("encode", "next_token"):
            setattr(model, part, torch.compile(getattr(model, part), dynamic=True))
        model.expert.compile(dynamic=True)
        seen = example_observation(self._info)
        for batch in (1, 2):  # a batch of one is a case of its own to the compiler, and so is a single camera
            self.act_many([seen] * batch, [0] * batch)
        for cameras in {1, len(seen.images)}:
            for _ in self.ask(dict(list(seen.images.items())[:cameras]), EXAMPLE_QUESTION):
                pass

    @property
    def info(self) -> PolicyInfo:
        return self._info

    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        """See `Policy.act`."""
        return self.act_many([observation], [seed])[0]

    def act_many(self, observations: Sequence[Observation], seeds: Sequence[int | None]) -> list[ActionChunk]:
        """One pass of the model over all of them; see `aegis_policy.act_many`."""
        for observation in observations:
            check_observation(self._info, observation)
        ahead = Ahead.of([seen.pending for seen in observations], self._stats.actions, self._info.horizon)
        with torch.inference_mode() if ahead is None else torch.no_grad():  # guidance takes gradients of its own
            chunks = self._chunks(observations, seeds, ahead)
        actions = self._stats.actions.unnormalize(chunks.cpu().double().numpy()).astype(np.float32)
        ease = self._easing or (lambda chunk, pending: chunk)
        return [
            ActionChunk(ease(chunk, seen.pending), seen.stamp)
            for chunk, seen in zip(actions, observations, strict=True)
        ]

    def _chunks(
        self, observations: Sequence[Observation], seeds: Sequence[int | None], ahead: Ahead | None
    ) -> torch.Tensor:
        """[B, H, A], normalised."""
        prefix = self._encode([seen.images for seen in observations], [seen.instruction for seen in observations])
        noise = torch.stack([self._noise(seed) for seed in seeds])  # (B, H, A)
        states = np.stack([np.asarray(seen.state, np.float64) for seen in observations])
        normal = torch.as_tensor(self._stats.state.normalize(states), dtype=torch.float32, device=self.device)
        if ahead is None:
            return self._policy.denoise(prefix, normal, noise.to(self.device))
        actions, hold = (torch.as_tensor(each, device=self.device) for each in (ahead.actions, ahead.hold))
        return self._policy.go_on(prefix, normal, noise.to(self.device), actions, hold)

    def _noise(self, seed: int | None) -> torch.Tensor:
        """[H, A], drawn on the CPU: a seed means the same on every device and in every batch."""
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return torch.randn(self._info.horizon, len(self._info.actions), generator=generator)

    def ask(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        """See `Policy.ask`. Bad input raises at once, not at the first piece of the answer."""
        check_question(self._info, images, question)
        return self._answer(images, question)

    def _answer(self, images: Mapping[str, np.ndarray], question: str) -> Iterator[str]:
        with torch.inference_mode():
            tokens = self._policy.decode(self._encode([images], [question]), MAX_ANSWER_TOKENS)
        yield from spell(_one_by_one(tokens), self._processor.text)

    def _encode(self, views: Sequence[Mapping[str, np.ndarray]], prompts: Sequence[str]) -> Prefix:
        """B views of the same cameras and as many prompts; cameras in the order of `info`, however they come."""
        pixels = torch.stack([self._pixels(images) for images in views])
        ids, valid = self._processor.prompt(prompts)
        return self._policy.encode(pixels.to(self.device), ids.to(self.device), valid.to(self.device))

    def _pixels(self, images: Mapping[str, np.ndarray]) -> torch.Tensor:
        """[K, 3, S, S]."""
        pictures = [images[camera.name] for camera in self._info.cameras if camera.name in images]
        return torch.stack([self._processor.images(picture) for picture in pictures])


def _one_by_one(tokens: Iterator[torch.Tensor]) -> Iterator[int]:
    """Their numbers, each computed in inference mode, which the caller's code that runs in between is not in."""
    while True:
        with torch.inference_mode():
            token = next(tokens, None)
        if token is None:
            return
        yield int(token)
