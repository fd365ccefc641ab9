"""Pre-train the small VLM that ships: PaliGemma 2's architecture, question sets in, a backbone that answers out.

What made a model of this size learn (found together, not one by one): a livelier initialisation than transformers' own,
several questions packed on one image, mosaics for the vision tower, and auxiliary losses: each patch says where it is
and what it shows, each name of an object where that is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from aegis_policy.data.mosaic import Mosaics
from aegis_policy.data.packing import IGNORE, Packed, pack
from aegis_policy.data.vqa import Legend, Question, VQASet
from aegis_policy.model.backbone import Backbone, new_vlm
from aegis_policy.model.checkpoint import load_backbone
from aegis_policy.model.config import tiny_vlm
from aegis_policy.model.processor import IMAGE, Processor, word_tokenizer
from aegis_policy.model.tensors import open_up, save_tensors
from aegis_policy.training import state
from aegis_policy.training.anchor import LayerRecorder, transformer_layers
from aegis_policy.training.config import PretrainConfig
from aegis_policy.training.device import autocast, default_device
from aegis_policy.training.grounding import GroundingHead, Named, Names
from aegis_policy.training.patches import Patches, PatchHeads
from aegis_policy.training.vqa_eval import VQAScore, check_answers, held_out, score

FAMILY_WEIGHTS = {"count": 2.0, "left": 3.0, "what-left": 2.5, "where": 2.0, "exists": 1.5, "held": 8.0, "point": 1.5}
"""How much more often the hard families are asked in training (1 for the others)."""
PACKED_LENGTH = 104
"""Text tokens in a packed row: eight questions, seldom fewer."""
VISION_STEPS = 2**31
"""Batches of the vision tower's own steps are numbered from here."""
LOG_EVERY = 50
HEADS = "heads.safetensors"


def initialise(backbone: Backbone) -> None:
    """Start livelier than transformers does: with its defaults a model of this size stays at the answers' prior.

    The vision tower starts out local: positions are sines and cosines, and queries look for keys like themselves (after
    "mimetic initialisation", Trockman and Kolter, arXiv 2305.09828).
    """
    vision, width = backbone.vlm.model.vision_tower, backbone.vlm.config.vision_config.hidden_size
    grid = math.isqrt(backbone.image_tokens)
    y, x = torch.meshgrid(torch.arange(grid).float(), torch.arange(grid).float(), indexing="ij")
    frequencies = math.pi * 0.05 ** torch.linspace(0, 1, width // 4)
    waves = [wave(axis.reshape(-1, 1) * frequencies) for axis in (x, y) for wave in (torch.sin, torch.cos)]
    with torch.no_grad():
        vision.embeddings.position_embedding.weight.copy_(0.5 * torch.cat(waves, dim=1))
        for layer in vision.encoder.layers:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        backbone.vlm.get_input_embeddings().weight.normal_(0, 0.1)
        backbone.vlm.model.multi_modal_projector.linear.weight.mul_(5)
        for layer in backbone.vlm.model.language_model.layers:
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
    """A backbone, its heads and its optimizer on some question sets, in a training folder.

    Args:
        config: the recipe.
        output: the training folder; `state` says what lies where.
        resume: whole checkpoint in it to go on from; None begins at the start.
    """

    def __init__(self, config: PretrainConfig, output: Path, resume: Path | None):
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config, self.output, self.device = config, output, default_device()
        self.done, self._metrics = 0, ""
        self.began = {name: state.digest(files) for name, files in (("vqa", config.vqa), ("holdout", config.holdout))}
        sets = [VQASet(path) for path in config.vqa]
        source = config.checkpoint if resume is None else str(resume / state.MODEL)
        self.backbone, self.processor = _fresh(sets) if source is None else load_backbone(source)
        check_answers(sets, self.processor)
        self.samples = held_out(config.holdout, self.processor, config.holdout_questions)
        self.backbone.to(self.device).train()
        legend = _one_legend(sets)
        self.names = Names(self.processor.tokenizer, legend)
        text, self.grid = self.backbone.vlm.config.text_config, math.isqrt(self.backbone.image_tokens)
        # Places are told after two thirds of the layers and on, so that the rest, and an action expert, can use them.
        grounded = transformer_layers(self.backbone)[math.ceil(text.num_hidden_layers * 2 / 3) - 1 :]
        self.recorder = LayerRecorder(grounded)
        self.heads = nn.ModuleDict(
            {
                "patches": PatchHeads(text.hidden_size, legend, self.grid),
                "grounding": nn.ModuleList(GroundingHead(text.hidden_size) for _ in grounded),
            }
        ).to(self.device)
        self.vision_steps = config.vision_steps if source is None else 0
        self.mosaics = Mosaics(sets)
        self.sampler = QuestionSampler(sets, config)
        self.parameters = [*self.backbone.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.98), fused=True)
        self.forward: Callable[..., tuple[Tensor, Tensor, Tensor]] = self._forward
        self.look: Callable[..., Tensor] = self._look
        if config.compile:
            self.forward = torch.compile(self._forward, dynamic=False)
            self.look = torch.compile(self._look, dynamic=False)
        if resume is not None:
            state.check_begun(resume / state.STATE, self.began)
            self.done = state.load_training_state(resume / state.STATE, self.optimizer, self._named())
            self.heads.load_state_dict(load_file(resume / state.STATE / HEADS))
            self._metrics = (resume / state.MODEL / state.METRICS).read_text()

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.backbone.named_parameters()
        yield from self.heads.named_parameters(prefix="heads")

    def run(self) -> None:
        """Train to the end, evaluating and saving on the way."""
        config = self.config
        state.write_text(self.output / state.METRICS, self._metrics)
        state.write_text(self.output / state.CONFIG, config.to_json())
        if self.vision_steps:
            with tqdm(total=self.vision_steps, desc="vision tower", unit="step") as bar:
                for step in range(self.vision_steps):
                    bar.set_postfix(loss=f"{self.vision_step(step):.3f}")
                    bar.update()
            state.write_checkpoint(self.output, 0, self._fill, keep=2)
        shown: dict[str, str] = {}
        with tqdm(total=config.steps, initial=self.done, desc="pretrain", unit="step") as bar:
            for step in range(self.done, config.steps):
                row: dict[str, Any] = {"step": step + 1, **self.step(step)}
                self.done = step + 1
                evaluate = self.done % config.eval_every == 0 or self.done == config.steps
                if evaluate:
                    scores = self._evaluate()
                    row["vqa"] = {name: asdict(result) for name, result in scores.items()}
                    shown = {name: f"{result.accuracy:.1%}" for name, result in scores.items()}
                if evaluate or self.done % LOG_EVERY == 0:
                    with (self.output / state.METRICS).open("a") as file:
                        file.write(json.dumps(row) + "\n")
                if evaluate:
                    state.write_checkpoint(self.output, self.done, self._fill, keep=2)
                bar.update()
                bar.set_postfix(loss=f"{row['loss']:.3f}", **shown)

    def vision_step(self, step: int) -> float:
        """Teach the vision tower alone: three steps of four on mosaics, the fourth on scenes as they are."""
        number, rows = VISION_STEPS + step, 2 * self.config.rows
        if step % 4:
            loss = self._mosaic_loss(number, rows)
        else:
            images, labels, _ = self.sampler.batch(number, 0, rows)
            loss = self._patch_loss(images, labels, number)
        progress = step / self.config.vision_steps
        return self._update(loss, 1.5e-3 * min(1, (step + 1) / 50) * (1 - 0.7 * progress))

    def _mosaic_loss(self, number: int, rows: int) -> Tensor:
        rng = np.random.default_rng([self.config.seed, number])
        return self._patch_loss(*self.mosaics.batch(rng, rows), number)

    def _patch_loss(self, images: np.ndarray, labels: np.ndarray, number: int) -> Tensor:
        """Of the vision tower alone on images uint8 [B, K, S, S, 3] and their label images."""
        patches = Patches.of(labels, self.grid).to(self.device)
        pixels = self._pixels(images, number).flatten(0, 1)
        with autocast(self.device):
            return self.look(pixels, patches)

    def _look(self, pixels: Tensor, patches: Patches) -> Tensor:
        return self.heads["patches"](self.backbone.vlm.get_image_features(pixels).pooler_output, patches)

    def step(self, step: int) -> dict[str, float]:
        """One update on questions; returns its metrics."""
        config = self.config
        final = step >= config.steps * (1 - config.final_share)
        questions, rows = (1, 2 * config.rows) if final else (config.questions, config.rows)
        images, labels, asked = self.sampler.batch(step, questions, rows)
        n = images.shape[1] * self.backbone.image_tokens
        packed = pack(asked, self.processor, n, length=0 if final else PACKED_LENGTH)
        named = self.names.find(packed.ids, labels).to(self.device)
        patches = Patches.of(labels, self.grid).to(self.device)
        forward = self._forward if final else self.forward  # its shapes are not worth compiling for
        with autocast(self.device), self.recorder:  # entered inside, they would break a compiled graph
            answers, shown, grounded = forward(self._pixels(images, step), packed.to(self.device), patches, named)
        mosaics = self._mosaic_loss(step, config.rows // 2)  # or the tower loses what they taught it
        rate = learning_rate(config, step)
        self._update(answers + config.auxiliary * (shown + grounded + mosaics), rate)
        losses = {"loss": answers, "patch_loss": shown, "mosaic_loss": mosaics, "grounding_loss": grounded}
        return {**{name: loss.item() for name, loss in losses.items()}, "learning_rate": rate}

    def _forward(self, images: Tensor, packed: Packed, patches: Patches, named: Named) -> tuple[Tensor, Tensor, Tensor]:
        n = images.shape[1] * self.backbone.image_tokens
        embeds = self.backbone.embed(images, packed.ids)
        hidden = self.backbone.read(embeds, packed.allowed, packed.place)
        logits = self.backbone.logits(hidden[:, n:])
        answers = F.cross_entropy(logits.flatten(0, 1), packed.labels.flatten(), ignore_index=IGNORE)
        tokens = embeds[:, :n].unflatten(1, (images.shape[1], -1)).flatten(0, 1)  # (B*K, N, W)
        recorded = zip(self.heads["grounding"].children(), list(self.recorder.outputs), strict=True)
        grounded = torch.stack([head(states[:, n:], named) for head, states in recorded]).mean()
        return answers, self.heads["patches"](tokens, patches), grounded

    def _pixels(self, images: np.ndarray, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([self.config.seed, step]).generate_state(1)[0])
        )
        return augment(self.processor.images(images), generator).to(self.device)

    def _update(self, loss: Tensor, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        if not math.isfinite(nn.utils.clip_grad_norm_(self.parameters, 1.0).item()):
            raise FloatingPointError(f"step {self.done + 1}: the gradient is not finite; try a lower --learning-rate")
        self.optimizer.step()
        return loss.item()

    def _evaluate(self) -> dict[str, VQAScore]:
        with autocast(self.device):
            return {name: score(self.backbone, self.processor, each) for name, each in self.samples.items()}

    def _fill(self, folder: Path) -> None:
        model = folder / state.MODEL
        self.backbone.vlm.save_pretrained(model)
        for weights in model.glob("*.safetensors"):
            open_up(weights)
        self.processor.save_pretrained(model)
        (model / state.METRICS).write_text((self.output / state.METRICS).read_text())
        (model / state.CONFIG).write_text(self.config.public().to_json())
        moments = state.moments(self.optimizer, self._named())
        state.save_training_state(folder / state.STATE, self.done, moments, self.began)
        save_tensors(self.heads.state_dict(), folder / state.STATE / HEADS)


def _one_legend(sets: Sequence[VQASet]) -> Legend:
    """What the sets' label images show.

    Raises:
        ValueError: a set does not name them, or two sets differ.
    """
    first = sets[0]
    for each in sets:
        if not (each.labels and each.legend.objects):
            raise ValueError(f"{each.path}: pre-training needs label images, and 'colours' and 'shapes' behind them")
        if each.legend != first.legend:
            raise ValueError(f"{each.path}: other colours, shapes or others behind its labels than in {first.path}")
    return first.legend


def _fresh(sets: Sequence[VQASet]) -> tuple[Backbone, Processor]:
    """aegis-tiny with fresh weights, and a tokenizer of the sets' words."""
    tokenizer = word_tokenizer(text for dataset in sets for text in dataset.texts())
    config = tiny_vlm(len(tokenizer), tokenizer.convert_tokens_to_ids(IMAGE))
    backbone = Backbone(new_vlm(config))
    initialise(backbone)
    return backbone, Processor(tokenizer, config.vision_config.image_size)


def pretrain(config: PretrainConfig, output: Path, *, resume: bool = False) -> Path:
    """Pre-train, and return the folder of the VLM, in the layout PaliGemma is published in.

    Args:
        output: training folder; `resume` goes on with the run in it, otherwise it must hold none.

    Raises:
        ValueError, OSError: a setting or a file is wrong; nothing has been written then.
    """
    if resume:
        config = PretrainConfig.from_json(state.recipe(output))
    elif state.checkpoints(output) or (output / state.CONFIG).exists():
        raise ValueError(f"{output}: holds a training run; go on with it (--resume {output}) or choose another folder")
    config.check()
    Pretrainer(config, output, state.adopt_newest(output) if resume else None).run()
    return output / state.CHECKPOINTS / state.LAST / state.MODEL
