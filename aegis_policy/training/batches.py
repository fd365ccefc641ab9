"""Training batches. The batch of a step is a function of seed and step alone, so a resumed run sees the same ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.data.normalize import NormStats
from aegis_policy.model.policy import sample_time
from aegis_policy.model.processor import Processor
from aegis_policy.training.methods import Batch

GAIN, SHIFT = 0.1, 0.05
"""Deviations of an image's random contrast and brightness, where images span [-1, 1]."""


class Batches:
    """Shuffled passes over a dataset, normalised, with M draws of noise and time for each sample.

    Args:
        batch_size: B; noise_samples: M.
        augment: whether to vary contrast and brightness.
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
        augment: bool = True,
        device: torch.device | None = None,
    ):
        self.dataset, self.processor, self.norm_stats = dataset, processor, norm_stats
        self.batch_size, self.noise_samples = batch_size, noise_samples
        self.seed, self.augment, self.device = seed, augment, device or torch.device("cpu")
        # All instructions padded to one length: a compiled model sees a single shape.
        self._ids, self._valid = processor.prompt(dataset.instructions)
        self._order: tuple[int, np.ndarray] | None = None

    def rows(self, step: int) -> np.ndarray:
        """[B] rows of the dataset: every row once in each pass, in the order of that pass."""
        places = step * self.batch_size + np.arange(self.batch_size)
        epochs, offsets = np.divmod(places, len(self.dataset))
        return np.array([self._pass(int(epoch))[offset] for epoch, offset in zip(epochs, offsets, strict=True)])

    def batch(self, step: int) -> Batch:
        """The batch of a step, on the device."""
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence([self.seed, step]).generate_state(1)[0]))
        images, state, actions, instruction = self.dataset.gather(self.rows(step))
        pixels = self.processor.images(images)
        if self.augment:
            pixels = vary_brightness(pixels, generator)
        chunks = torch.from_numpy(self.norm_stats.actions.normalize(actions))
        draws = (len(chunks), self.noise_samples)
        batch = Batch(
            images=pixels,
            ids=self._ids[instruction],
            valid=self._valid[instruction],
            state=torch.from_numpy(self.norm_stats.state.normalize(state)),
            actions=chunks,
            noise=torch.randn(*draws, *chunks.shape[1:], generator=generator),
            time=sample_time(draws, generator),
        )
        return Batch(**{name: tensor.to(self.device) for name, tensor in vars(batch).items()})

    def _pass(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))
        return self._order[1]


def vary_brightness(images: Tensor, generator: torch.Generator) -> Tensor:
    """Another contrast and brightness for each image of [B, K, 3, S, S] in [-1, 1]; colours and places stay."""
    shape = (*images.shape[:2], 1, 1, 1)
    gain = 1 + GAIN * torch.randn(shape, generator=generator)
    shift = SHIFT * torch.randn(shape, generator=generator)
    return (images * gain + shift).clamp(-1, 1)
