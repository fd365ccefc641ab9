"""Pre-train the small VLM that ships: PaliGemma 2's architecture, question sets in, a backbone that answers out.

What made a model of this size learn at all (each found necessary): a livelier initialisation than transformers' own,
several questions packed on one image, and an auxiliary loss that makes each patch say where it is and what it shows.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from aegis_policy.data.packing import IGNORE, Packed, pack
from aegis_policy.data.vqa import Question, VQASet
from aegis_policy.model.backbone import Backbone, new_vlm
from aegis_policy.model.config import tiny_vlm
from aegis_policy.model.processor import Processor, word_tokenizer
from aegis_policy.training.vqa_eval import VQAScore, score

log = logging.getLogger(__name__)

FAMILY_WEIGHTS = {"count": 2.0, "left": 2.0, "what-left": 2.0, "where": 1.5, "exists": 1.5, "point": 3.0}
"""How much more often the hard families are asked in training (1 for the others)."""
PACKED_LENGTH = 104
"""Text tokens in a packed row: eight questions, seldom fewer."""


@dataclass(frozen=True)
class PretrainConfig:
    """Recipe of `aegis pretrain`.

    Attributes:
        steps: optimizer steps; `vision_steps` steps of the vision tower alone come before them.
        rows, questions: images in a step, and questions packed on each.
        two_cameras: share of the steps that show a second camera (where a set has one).
        learning_rate: peak; warm-up, then cosine to 4%.
        final_share: this last share of the steps asks one question an image, under PaliGemma's exact mask.
        auxiliary: weight of the per-patch losses.
    """

    steps: int = 8000
    vision_steps: int = 400
    rows: int = 24
    questions: int = 8
    two_cameras: float = 0.3
    learning_rate: float = 1.2e-3
    final_share: float = 0.1
    auxiliary: float = 0.15
    eval_every: int = 500
    seed: int = 0
    compile: bool = False


class PatchHeads(nn.Module):
    """What each image token should know: where it is (two numbers in [-1, 1]) and what it shows (a class)."""

    def __init__(self, width: int, classes: int, grid: int):
        super().__init__()
        self.place = nn.Linear(width, 2)
        self.shows = nn.Linear(width, classes)
        self.grid = grid
        axis = torch.linspace(-1, 1, grid)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        self.xy = nn.Buffer(torch.stack([x, y], dim=-1).reshape(1, grid * grid, 2))
        weight = torch.ones(classes)
        weight[0] = 0.15  # most patches show the table
        self.weight = nn.Buffer(weight)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """[B, N, W] image tokens and [B, N] classes -> loss."""
        features = features.float()
        place = F.mse_loss(self.place(features), self.xy.expand(len(features), -1, -1))
        shows = F.cross_entropy(self.shows(features).flatten(0, 1), labels.flatten(), weight=self.weight)
        return 2 * place + shows

    def patch_labels(self, labels: np.ndarray) -> Tensor:
        """uint8 [..., S, S] pixel classes -> [..., N]: the object that covers most of a patch, if it covers an eighth."""
        side = labels.shape[-1] // self.grid
        tiles = torch.as_tensor(labels).long().unflatten(-1, (self.grid, side)).unflatten(-3, (self.grid, side))
        tiles = tiles.movedim(-2, -3).flatten(-2).flatten(-3, -2)  # (..., N, side*side)
        counts = F.one_hot(tiles, self.weight.numel()).sum(dim=-2)
        counts[..., 0] = side * side // 8
        return counts.argmax(dim=-1)


def initialise(backbone: Backbone) -> None:
    """Start livelier than transformers does: with its defaults a model of this size stays at the answers' prior."""
    with torch.no_grad():
        language = backbone.language_model
        language.embed_tokens.weight.normal_(0, 0.1)
        backbone.vlm.model.multi_modal_projector.linear.weight.mul_(5)
        for layer in language.layers:
            layer.post_attention_layernorm.weight.fill_(-0.7)
            layer.post_feedforward_layernorm.weight.fill_(-0.7)


class QuestionSampler:
    """Draws training rows: the batch of step s is the same whenever it is asked for."""

    def __init__(self, sets: Sequence[VQASet], config: PretrainConfig):
        self.sets, self.config = sets, config
        self.by_family = [[_by_family(row) for row in dataset.questions] for dataset in sets]

    def batch(self, step: int, questions: int, rows: int) -> tuple[np.ndarray, np.ndarray, list[list[Question]]]:
        """Images uint8 [B, K, S, S, 3], label images [B, K, S, S], and B rows of questions."""
        rng = np.random.default_rng([self.config.seed, step])
        two = rng.random() < self.config.two_cameras
        usable = [i for i, dataset in enumerate(self.sets) if len(dataset.cameras) > 1] if two else []
        usable = usable or list(range(len(self.sets)))
        sizes = np.array([len(self.sets[i]) for i in usable], float)
        shares = rng.multinomial(rows, sizes / sizes.sum())
        images, labels, asked = [], [], []
        for i, share in zip(usable, shares, strict=True):
            dataset = self.sets[i]
            chosen = rng.integers(len(dataset), size=share)
            cameras = dataset.cameras[: 2 if two else 1]
            images.append(dataset.stack(chosen, cameras))
            labels.append(dataset.stack(chosen, cameras, labels=True))
            asked += [_draw(self.by_family[i][row], questions, rng) for row in chosen]
        return np.concatenate(images), np.concatenate(labels), asked


def _by_family(row: Sequence[Question]) -> dict[str, list[Question]]:
    families: dict[str, list[Question]] = {}
    for question in row:
        families.setdefault(question.family, []).append(question)
    return families


def _draw(families: dict[str, list[Question]], count: int, rng: np.random.Generator) -> list[Question]:
    names = list(families)
    weights = np.array([FAMILY_WEIGHTS.get(name, 1.0) for name in names])
    drawn = rng.choice(len(names), size=count, p=weights / weights.sum())
    return [families[names[i]][rng.integers(len(families[names[i]]))] for i in drawn]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast, colour cast and noise for images [..., 3, S, S] in [-1, 1]."""
    batch = (len(images), *[1] * (images.dim() - 1))
    cast = (len(images), *[1] * (images.dim() - 4), 3, 1, 1)
    gain = 1 + 0.1 * torch.randn(batch, generator=generator)
    shift = 0.05 * torch.randn(cast, generator=generator)
    noise = 0.02 * torch.randn(images.shape, generator=generator)
    return (images * gain + shift + noise).clamp(-1, 1)


def learning_rate(config: PretrainConfig, step: int) -> float:
    progress = max(0.0, step / config.steps - 0.2) / 0.8
    return config.learning_rate * min(1, (step + 1) / 100) * (0.04 + 0.96 * 0.5 * (1 + math.cos(math.pi * progress)))


class Pretrainer:
    """A backbone, its heads and its optimizer on some question sets."""

    def __init__(self, sets: Sequence[VQASet], config: PretrainConfig, start: tuple[Backbone, Processor] | None):
        torch.manual_seed(config.seed)
        self.config = config
        if start is None:
            tokenizer = word_tokenizer(text for dataset in sets for text in dataset.texts())
            vlm = tiny_vlm(len(tokenizer), tokenizer.image_token_id)
            self.backbone, self.processor = Backbone(new_vlm(vlm)), Processor(tokenizer, vlm.vision_config.image_size)
            initialise(self.backbone)
        else:
            self.backbone, self.processor = start
        classes = 1 + max(int(labels.max()) for dataset in sets for labels in dataset.labels.values())
        width = self.backbone.vlm.config.text_config.hidden_size
        self.heads = PatchHeads(width, classes, math.isqrt(self.backbone.image_tokens))
        self.sampler = QuestionSampler(sets, config)
        self.parameters = [*self.backbone.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, betas=(0.9, 0.98))
        self.generator = torch.Generator().manual_seed(config.seed)
        self.forward: Callable[..., tuple[Tensor, Tensor]] = self._forward
        if config.compile:
            self.forward = torch.compile(self._forward, dynamic=False)

    def _forward(self, images: Tensor, packed: Packed, patches: Tensor) -> tuple[Tensor, Tensor]:
        n = images.shape[1] * self.backbone.image_tokens
        with torch.autocast("cpu", torch.bfloat16):
            embeds = self.backbone.embed(images, packed.ids)
            hidden = self.backbone.read(embeds, packed.allowed, packed.place)
            logits = self.backbone.logits(hidden[:, n:])
        answers = F.cross_entropy(logits.flatten(0, 1), packed.labels.flatten(), ignore_index=IGNORE)
        return answers, self.heads(embeds[:, :n], patches)

    def vision_step(self, step: int) -> float:
        """Teach the vision tower alone where its patches are and what they show."""
        images, labels, _ = self.sampler.batch(-1 - step + 2**31, 0, 2 * self.config.rows)
        pixels = augment(self.processor.images(images), self.generator).flatten(0, 1)
        patches = self.heads.patch_labels(labels).flatten(0, 1)
        with torch.autocast("cpu", torch.bfloat16):
            features = self.backbone.vlm.get_image_features(pixels).pooler_output
        return self._update(self.heads(features, patches), 1.5e-3 * min(1, (step + 1) / 30))

    def step(self, step: int) -> dict[str, float]:
        final = step >= self.config.steps * (1 - self.config.final_share)
        questions, rows = (1, 2 * self.config.rows) if final else (self.config.questions, self.config.rows)
        images, labels, asked = self.sampler.batch(step, questions, rows)
        pixels = augment(self.processor.images(images), self.generator)
        n = images.shape[1] * self.backbone.image_tokens
        packed = pack(asked, self.processor, n, length=16 if final else PACKED_LENGTH)
        answers, patches = self.forward(pixels, packed, self.heads.patch_labels(labels).flatten(1))
        rate = learning_rate(self.config, step)
        self._update(answers + self.config.auxiliary * patches, rate)
        return {"loss": answers.item(), "patch_loss": patches.item(), "learning_rate": rate}

    def _update(self, loss: Tensor, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()


def pretrain(
    sets: Sequence[VQASet],
    holdouts: Sequence[VQASet],
    output: Path,
    config: PretrainConfig,
    start: tuple[Backbone, Processor] | None = None,
) -> dict[str, VQAScore]:
    """Train, write the VLM folder after every evaluation, and return the last scores on the hold-out sets.

    Args:
        sets: training sets with label images; the tokenizer is made of their words.
        holdouts: sets whose scores are logged (metrics.jsonl) every `eval_every` steps.
        output: folder for the checkpoint, in the layout PaliGemma is published in.
        start: a VLM and its processor to go on from; None starts from scratch.
    """
    trainer = Pretrainer(sets, config, start)
    output.mkdir(parents=True, exist_ok=True)
    samples = {dataset.path.stem: dataset.samples(1024) for dataset in holdouts}
    if start is None:
        for step in tqdm(range(config.vision_steps), desc="vision tower", unit="step"):
            trainer.vision_step(step)
    scores: dict[str, VQAScore] = {}
    with open(output / "metrics.jsonl", "a") as metrics, tqdm(total=config.steps, desc="pretrain", unit="step") as bar:
        for step in range(config.steps):
            row = {"step": step + 1, **trainer.step(step)}
            bar.update()
            bar.set_postfix(loss=f"{row['loss']:.3f}")
            if (step + 1) % config.eval_every == 0 or step + 1 == config.steps:
                scores = {name: score(trainer.backbone, trainer.processor, chosen) for name, chosen in samples.items()}
                row["holdout"] = {name: asdict(result) for name, result in scores.items()}
                bar.set_postfix(loss=f"{row['loss']:.3f}", **{k: f"{v.accuracy:.3f}" for k, v in scores.items()})
                trainer.backbone.vlm.save_pretrained(output)
                trainer.processor.save_pretrained(output)
            if (step + 1) % 50 == 0 or "holdout" in row:
                metrics.write(json.dumps(row) + "\n")
                metrics.flush()
    return scores
