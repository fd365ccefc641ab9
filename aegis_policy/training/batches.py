"""Training batches. The batch of a step is a function of seed and step alone, so a resumed run sees the same ones.

Micro-batches and processes each take a part of it: part p of N has the samples p, p + N, p + 2N, ... and with them the
noise and the times that they have in the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aegis_policy.data.ahead import CHANGES
from aegis_policy.data.begun import begin, push
from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.data.normalize import NormStats
from aegis_policy.data.packing import pack
from aegis_policy.data.vqa import UNSCORED, Question, VQASet
from aegis_policy.model.policy import Begun, sample_time
from aegis_policy.model.processor import Processor
from aegis_policy.training.methods import Asked, Batch
from aegis_policy.training.order import Order
from aegis_policy.training.vqa_eval import check_answers

GAIN, SHIFT = 0.1, 0.05
"""Deviations of an image's random contrast and brightness, where images span [-1, 1]."""

PACKED = 8
"""Questions on a replayed picture, as in pre-training. The gradient of one alone is mostly noise."""


class Batches:
    """Shuffled passes over a dataset, normalised, with M draws of noise and time for each sample.

    Args:
        batch_size: B; noise_samples: M.
        weights: of each of the dataset's paths, see `Order`.
        augment: whether to vary contrast and brightness.
        max_delay: the most actions that a draw is given, any number up to it as often as any other; 0 for none ever.
        replay: pictures with questions and answers for each batch, if any.
        held: how many samples, the first of a batch, distil-features holds to what was before.

    Raises:
        ValueError: a weight is too small to be seen.
    """

    def __init__(
        self,
        dataset: Demonstrations,
        processor: Processor,
        norm_stats: NormStats,
        *,
        batch_size: int,
        noise_samples: int,
        seed: int,
        weights: Sequence[float] = (),
        augment: bool = True,
        max_delay: int = 0,
        device: torch.device | None = None,
        replay: Replay | None = None,
        held: int = 0,
    ):
        self.replay, self.held = replay, held
        self.dataset, self.processor, self.norm_stats = dataset, processor, norm_stats
        self.batch_size, self.noise_samples = batch_size, noise_samples
        self.seed, self.augment, self.device = seed, augment, device or torch.device("cpu")
        self.max_delay, self._reach = max_delay, np.abs(dataset.actions).max(axis=0)  # [A]
        # All instructions padded to one length: a compiled model sees a single shape.
        self._ids, self._valid = processor.prompt(dataset.instructions)
        self._order = Order(dataset.sizes, weights, seed)

    def rows(self, step: int) -> np.ndarray:
        """[B] rows of the dataset."""
        return self._order.rows(step, self.batch_size)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """The batch of a step, or one of so many parts of it, on the device."""
        generator, ours = _generator(self.seed, step), slice(part, None, parts)
        rows = self.rows(step)[ours]
        images, state, actions, instruction = self.dataset.gather(rows)
        pixels = torch.stack([self.processor.images(each) for each in images], dim=1)  # (B, K, 3, S, S)
        if self.augment:
            gain, shift = brightness(self.batch_size, pixels.shape[1], generator)
            pixels = vary(pixels, gain[ours], shift[ours])
        chunks = self._normal(actions)
        draws = (self.batch_size, self.noise_samples)
        noise, time = torch.randn(*draws, *chunks.shape[1:], generator=generator), sample_time(draws, generator)
        delay = torch.randint(self.max_delay + 1, draws, generator=generator) if self.max_delay else None
        return Batch(
            images=pixels,
            ids=self._ids[instruction],
            valid=self._valid[instruction],
            state=torch.from_numpy(self.norm_stats.state.normalize(state)),
            actions=chunks,
            noise=noise[ours],
            time=time[ours],
            begun=None if delay is None else self._begun(rows, actions, delay[ours], step, ours),
            asked=None if self.replay is None else self.replay.batch(step, part, parts),
            held=len(range(self.held)[ours]),
        ).to(self.device)

    def _begun(self, rows: np.ndarray, labels: np.ndarray, delay: Tensor, step: int, ours: slice) -> Begun:
        rng, draws = np.random.default_rng([self.seed, step, 3]), (self.batch_size, self.noise_samples)
        executed, unit = self.dataset.executed(rows), self.norm_stats.actions.std * self.dataset.displaced
        pushed = push(executed, unit, rng, draws, ours)
        change = CHANGES * self.norm_stats.actions.std
        chunks = begin(labels, executed, delay.numpy(), pushed, self._reach, self.dataset.displaced, change)
        return Begun(delay, self._normal(chunks))

    def _normal(self, actions: np.ndarray) -> Tensor:
        return torch.from_numpy(self.norm_stats.actions.normalize(actions))


class Replay:
    """Pictures with questions and true answers, others in each step: the same ones for a seed and a step.

    Args:
        paths: question sets, drawn from evenly; of a scene, the first camera's picture.
        image_tokens: N, of one image.
        count: pictures in a step.
        augment: in another contrast and brightness each time.

    Raises:
        ValueError: a set has no question whose answer counts.
    """

    def __init__(
        self,
        paths: Sequence[str],
        processor: Processor,
        image_tokens: int,
        count: int,
        seed: int,
        augment: bool = True,
    ):
        self.sets = [(source, _scored(source)) for source in map(VQASet, paths)]
        check_answers((source for source, _ in self.sets), processor)
        self.processor, self.image_tokens, self.count, self.seed = processor, image_tokens, count, seed
        self.augment = augment

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Asked:
        """The questions of a step, or one of so many parts of them."""
        rng = np.random.default_rng([self.seed, step, 2])
        chosen, rows = list[tuple[VQASet, int]](), []
        for which in rng.integers(len(self.sets), size=self.count):
            source, scored = self.sets[which]
            row, asked = scored[int(rng.integers(len(scored)))]
            rows.append([asked[i] for i in rng.permutation(len(asked))[:PACKED]])
            chosen.append((source, row))
        gain, shift = brightness(self.count, 1, _generator(self.seed, step))
        ours = slice(part, None, parts)
        pictures = [source.stack(np.array([row]), source.cameras[:1])[0] for source, row in chosen[ours]]
        pixels = torch.stack([self.processor.images(picture) for picture in pictures])  # sets may differ in size
        if self.augment:
            pixels = vary(pixels, gain[ours], shift[ours])
        return Asked(pixels, pack(rows[ours], self.processor, self.image_tokens))


def _scored(source: VQASet) -> list[tuple[int, list[Question]]]:
    """The rows of a set that have questions whose answers count, with these."""
    rows = enumerate([question for question in row if question.family != UNSCORED] for row in source.questions)
    found = [(row, questions) for row, questions in rows if questions]
    if not found:
        raise ValueError(f"{source.path}: no question to learn from")
    return found


def _generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))


def brightness(count: int, cameras: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Another gain and shift, [B, K, 1, 1, 1] each, for each image of each sample."""
    shape = (count, cameras, 1, 1, 1)
    return 1 + GAIN * torch.randn(shape, generator=generator), SHIFT * torch.randn(shape, generator=generator)


def vary(images: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Images [B, K, 3, S, S] in [-1, 1] in another contrast and brightness; colours and places stay."""
    return (images * gain + shift).clamp(-1, 1)
