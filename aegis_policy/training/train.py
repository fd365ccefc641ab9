"""Fine-tuning: demonstrations and a start in, a folder of checkpoints out.

The loop is the same for every method; `methods` makes the gradients, `batches` the data, `state` what survives a kill,
`world` one training of several processes.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PaliGemmaForConditionalGeneration

from aegis_policy.data.demonstrations import Demonstrations
from aegis_policy.model import checkpoint as checkpoints
from aegis_policy.model.checkpoint import Checkpoint
from aegis_policy.model.policy import AegisPolicy
from aegis_policy.model.processor import Processor
from aegis_policy.policy import PolicyInfo
from aegis_policy.training import anchor as anchors
from aegis_policy.training import state, world
from aegis_policy.training.anchor import Anchor
from aegis_policy.training.batches import Batches, Replay
from aegis_policy.training.card import model_card
from aegis_policy.training.config import TrainConfig
from aegis_policy.training.device import autocast, default_device
from aegis_policy.training.ema import Average
from aegis_policy.training.methods import Batch, Given, Method, make_method, method_class
from aegis_policy.training.metrics import Metrics
from aegis_policy.training.prefetch import prefetched
from aegis_policy.training.recompute import recompute_layers
from aegis_policy.training.shards import free, full, shard, whole
from aegis_policy.training.vqa_eval import held_out, score

log = logging.getLogger(__name__)

FINAL_RATE = 0.04
HORIZON = 10
MEASURED = "measured.json"
"""Beside a policy: what `aegis eval --card` found, before its training and after."""


class ForgettingError(ValueError):
    """VQA has lost more than --max-vqa-drop allows; says which set, how much, and where the last good checkpoint is."""


def train(config: TrainConfig, output: Path) -> Path:
    """Fine-tune, and return the folder of the trained policy.

    Args:
        output: training folder; new, or without a run in it.

    Raises:
        ValueError, OSError: a setting or a file is wrong; nothing has been written then.
        MemoryError: the GPU has too little memory.
    """
    if state.checkpoints(output) or (output / state.CONFIG).exists():
        raise ValueError(f"{output}: holds a training run; go on with it (--resume {output}) or choose another folder")
    if config.checkpoint is not None:  # the very one: what a training folder calls its newest may change
        config = replace(config, checkpoint=checkpoints.resolve(config.checkpoint))
    if config.strength is None and (strength := method_class(config.method).strength):
        config = replace(config, strength=strength)  # what a later version takes may be another
    return _run(config, output, None)


def resume(output: Path) -> Path:
    """Go on with the run in `output` where its newest checkpoint left off, as if it had never stopped.

    Raises:
        ValueError, OSError: there is no run in `output`, or what it needs is gone.
    """
    config = TrainConfig.from_json(state.recipe(output))
    with world.joined():
        if world.is_first():
            state.adopt_newest(output)
        world.wait()
        return _run(config, output, next(reversed(state.checkpoints(output)), None))


def _run(config: TrainConfig, output: Path, newest: Path | None) -> Path:
    with world.joined():
        config.check(world.size())
        try:
            Trainer(config, output, newest).run()
        except torch.OutOfMemoryError as error:
            reason = str(error).split(". ")[0]
            raise MemoryError(
                f"the GPU's memory does not suffice ({reason}): take the batch in parts (--accumulate 4), keep less of "
                f"each layer (--gradient-checkpointing), or let the expert alone learn (--method stop-gradient); "
                f"docs/method.md has what each method needs. As other settings make another run, name a new --output"
            ) from error
    return output / state.CHECKPOINTS / state.LAST / state.MODEL


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up times a cosine from 1 to FINAL_RATE."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / max(1, warmup)) * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


def make_optimizer(method: Method, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what the method trains, at a learning rate of 0; its groups know their `name` and their `peak`."""
    groups = [
        {"params": method.backbone, "name": "learning_rate", "peak": config.learning_rate},
        {"params": method.expert, "name": "expert_learning_rate", "peak": config.expert_learning_rate},
    ]
    # No weight decay: it would pull the backbone away from what it knows.
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )


class Trainer:
    """A policy, its optimizer and its data in a training folder.

    Args:
        config: the recipe.
        output: the training folder.
        resume: whole checkpoint in it to go on from; None begins at the start.
    """

    def __init__(self, config: TrainConfig, output: Path, resume: Path | None):
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)  # for a fresh expert's weights; batches have seeds of their own
        self.config, self.output, self.device = config, output, default_device()
        dataset = Demonstrations(config.dataset, config.horizon or HORIZON)
        source = config.checkpoint if resume is None else resume / state.MODEL
        told = tuple(dataset.instructions) if resume is None else ()  # what was begun knows its own
        self.start = self._start(source, dataset, output.resolve().name, told)
        dataset.horizon, self.began = self.start.info.horizon, {"data": dataset.digest()}
        if resume is None and config.horizon not in (None, kept := self.start.info.horizon):
            raise ValueError(
                f"--horizon {config.horizon}: the start is a policy, which keeps its own, {kept}; leave the option "
                f"out, or start from a VLM"
            )
        _warn_of_unknown_words(self.start.processor, dataset.instructions)
        self.anchor = _anchor(source, config.anchor if resume is None else None, self.start.policy)
        measured = config.vqa if config.eval_every else ()
        self.samples = held_out(measured, self.start.processor, config.vqa_questions)
        self.began |= {
            name: state.digest(sets) for name, sets in (("vqa", measured), ("replay", config.replay)) if sets
        }
        self.policy = self.start.policy.to(self.device).train()
        self.method = make_method(config, self.policy, Given(self.anchor, self._before()))
        if resume is not None:
            self.method.load_own_state(state.load_other_state(resume / state.STATE, "method"))
        world.agree(self.policy.parameters())
        if config.gradient_checkpointing:
            recompute_layers(self.policy)
        if config.shard:
            shard(self.policy)
        if config.compile:
            self.method.compile()
        self.trained = {name: p for name, p in self.policy.named_parameters() if p.requires_grad}
        self.average = None if config.ema is None else Average(self.trained, config.ema)
        self.optimizer = make_optimizer(self.method, config)
        self.batches = Batches(
            dataset,
            self.start.processor,
            self.start.norm_stats,
            batch_size=config.batch_size - config.replayed,
            noise_samples=config.noise_samples,
            seed=config.seed,
            weights=config.dataset_weights,
            augment=config.augment,
            max_delay=self.policy.expert.config.max_delay,
            device=self.device,
            replay=self._replay(),
            held=config.held(world.size()),
        )
        self._measured = _measured(source, "after" if resume is None else "before")
        self.done = 0
        if resume is not None:
            if self.average is not None:
                self.average.load(state.load_other_state(resume / state.STATE, "ema"))
            state.check_begun(resume / state.STATE, self.began)
            self.done = state.load_training_state(resume / state.STATE, self.optimizer, self.trained.items())
        self.metrics = Metrics(output, "" if resume is None else (resume / state.MODEL / state.METRICS).read_text())

    def _start(
        self, source: str | Path | None, dataset: Demonstrations, name: str, instructions: tuple[str, ...]
    ) -> Checkpoint:
        info = PolicyInfo(
            model=name,
            cameras=tuple(dataset.cameras),
            state=dataset.state_features,
            actions=dataset.action_features,
            horizon=dataset.horizon,
            control_hz=dataset.control_hz,
            instructions=instructions,
            checkpoint="",
        )
        fresh = dataset.norm_stats(self.config.normalization or "mean-std")
        start = checkpoints.start_policy(source, info, fresh)
        if self.config.normalization not in (None, kept := start.norm_stats.actions.normalization):
            raise ValueError(
                f"--normalization {self.config.normalization}: the start is a policy, which keeps its own, {kept}; "
                f"leave the option out, or start from a VLM"
            )
        chosen: dict[str, Any] = {"temperature": self.config.temperature, "max_delay": self.config.max_delay}
        expert = start.policy.expert
        expert.config = replace(expert.config, **{name: value for name, value in chosen.items() if value is not None})
        if expert.config.max_delay >= expert.config.horizon:
            raise ValueError(
                f"--max-delay {expert.config.max_delay}: a chunk has {expert.config.horizon} actions, and needs one to "
                f"learn: at most {expert.config.horizon - 1}"
            )
        for kind, features in (("state", info.state), ("actions", info.actions)):
            outside = getattr(start.norm_stats, kind).outside(getattr(fresh, kind))
            if outside.any():
                names = [feature.name for feature, is_out in zip(features, outside, strict=True) if is_out]
                log.warning(
                    "%s %s: this data lies far outside what the policy was normalised for; a fresh expert "
                    "(start from its VLM) may learn better",
                    *(kind, ", ".join(names)),
                )
        return start

    def _before(self) -> PaliGemmaForConditionalGeneration | None:
        """The backbone where fine-tuning began, for a method that needs it; a resumed run loads it anew."""
        if not method_class(self.config.method).needs_before:
            return None
        backbone = checkpoints.load_backbone(self.config.checkpoint)[0]
        self.began["start"] = anchors.fingerprint(backbone)
        return backbone.vlm.to(self.device)

    def _replay(self) -> Replay | None:
        config = self.config
        if not config.replayed:
            return None
        return Replay(
            *(config.replay, self.start.processor, self.policy.image_tokens, config.replayed, config.seed),
            augment=config.augment,
        )

    def run(self) -> None:
        """Train to the end, evaluating and saving on the way."""
        config = self.config
        world.wait()  # until all have seen that there is no other run here
        self.metrics.open(self.done)
        if world.is_first():
            state.write_text(self.output / state.CONFIG, config.to_json())
        if self.done == 0:
            self._evaluate()
        steps, silent = range(self.done, config.steps), not world.is_first()
        with (
            tqdm(total=config.steps, initial=self.done, desc=config.method, unit="step", disable=silent) as bar,
            closing(prefetched(self.parts, steps)) as batches,
        ):
            for step in steps:
                row = self.step(step, batches)
                self.done = step + 1
                last = self.done == config.steps
                if self.done % config.log_every == 0 or last:
                    self.metrics.step(self.done, row)
                measured = last or (config.eval_every > 0 and self.done % config.eval_every == 0)
                if measured:
                    self._evaluate()
                if config.max_vqa_drop is not None and measured:
                    self._refuse_forgetting(config.max_vqa_drop)
                    self.save()
                elif config.max_vqa_drop is None and (last or self.done % config.save_every == 0):
                    self.save()
                bar.update()
                shown = {name: f"{now:.1%}" for name, (_, now) in self.metrics.accuracy.items()}
                bar.set_postfix(loss=f"{row['loss']:.3f}", **shown)
        self.metrics.close()

    def parts(self, step: int) -> list[Batch]:
        """This process's part of each micro-batch of a step.

        Micro-batch m of A has the samples m, m + A, ... of the batch, however many processes share it.
        """
        count = self.config.accumulate
        return [self.batches.batch(step, m + count * world.rank(), count * world.size()) for m in range(count)]

    def step(self, step: int, batches: Iterator[list[Batch]]) -> dict[str, float]:
        """One update, by the next of `batches`; returns its metrics. `data_seconds` is how long it waited for that."""
        began = time.perf_counter()
        parts = next(batches)
        loaded = time.perf_counter()
        metrics = self.method.backward(*parts)
        norm = full(nn.utils.clip_grad_norm_(self.trained.values(), self.config.clip)).item()
        if not math.isfinite(norm):
            rates = " and ".join(f"--{group['name'].replace('_', '-')}" for group in self.optimizer.param_groups)
            raise FloatingPointError(f"step {step + 1}: the gradient is not finite; try a lower {rates}")
        factor = rate_factor(step, self.config.steps, self.config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimizer.step()
        if self.average is not None:
            self.average.update(step)
        return {
            **metrics,
            "gradient_norm": norm,
            **{group["name"]: group["lr"] for group in self.optimizer.param_groups},
            "data_seconds": loaded - began,
            "seconds": time.perf_counter() - began,
        }

    def _refuse_forgetting(self, limit: float) -> None:
        """Raise ForgettingError if VQA, as last measured, has lost more than `limit` percentage points since step 0."""
        for name, (before, now) in self.metrics.accuracy.items():
            if 100 * (before - now) > limit + 1e-9:  # rounding is no question more
                good = state.checkpoints(self.output)
                where = f"the last good checkpoint is {good[-1] / state.MODEL}" if good else "no checkpoint was good"
                raise ForgettingError(
                    f"step {self.done}: VQA on {name} fell from {before:.1%} to {now:.1%}, {100 * (before - now):.1f} "
                    f"points, limit {limit:g}: {where}; forget less with a lower --learning-rate, --freeze-vision or "
                    f"--method stop-gradient"
                )

    def _evaluate(self) -> None:
        """VQA on the hold-out sets, of the average where there is one; every process, as all have to gather weights."""
        if not self.samples:
            return
        with autocast(self.device), self.average.in_place() if self.average else nullcontext():
            scores = {name: score(self.policy, self.start.processor, each) for name, each in self.samples.items()}
        free(self.policy)
        self.metrics.vqa(self.done, scores)

    def save(self) -> None:
        """Write a checkpoint and make it the last one. Every process gathers what the first one writes."""
        average = self.average
        weights = self.method.finished({} if average is None else average.values)
        others = {"method": self.method.own_state(), "ema": {} if average is None else average.state()}
        moments = whole(state.moments(self.optimizer, self.trained.items()))

        def fill(folder: Path) -> None:
            self._fill(folder / state.MODEL, weights)
            state.save_training_state(folder / state.STATE, self.done, moments, self.began, **others)

        if world.is_first():
            state.write_checkpoint(self.output, self.done, fill, self.config.keep)

    def _fill(self, model: Path, weights: dict[str, Tensor]) -> None:
        checkpoints.save(self.start, model, weights)
        if self.anchor is not None:
            self.anchor.save(model / anchors.FILE)
        metrics = self.metrics.text
        (model / state.METRICS).write_text(metrics)
        (model / state.CONFIG).write_text(self.config.public().to_json())
        if self._measured:
            (model / MEASURED).write_text(json.dumps({"before": self._measured, "after": {}}, indent=1) + "\n")
        (model / "README.md").write_text(model_card(self.start.info, self.config, self.done, metrics))


def _warn_of_unknown_words(processor: Processor, instructions: Sequence[str]) -> None:
    unknown = processor.tokenizer.unk_token_id
    unread = [text for text in instructions if unknown in processor.prompt_ids(text)]
    if unread:
        log.warning("the tokenizer does not know every word of: %s", "; ".join(unread[:5]))


def _measured(source: str | Path | None, when: str) -> dict[str, Any]:
    """What `aegis eval --card` measured of a checkpoint, "before" its training or "after"; {} if nothing."""
    file = Path(checkpoints.resolve(source), MEASURED)
    return json.loads(file.read_text())[when] if file.is_file() else {}


def _anchor(source: str | Path | None, file: str | None, policy: AegisPolicy) -> Anchor | None:
    """The anchor in `file`, or the one that lies in the folder of the start, `policy`, if any.

    Raises:
        ValueError: what is in `file` is known to be neither of the start's backbone nor of what that was tuned from.
    """
    folder = checkpoints.resolve(source)
    place = Path(folder, anchors.FILE)
    own = Anchor.load(place) if place.is_file() else None
    if file is None:
        return own
    anchor = Anchor.load(file)
    right = {anchors.fingerprint(policy), *([own.backbone] if own else [])}
    tuned_from_unknown = own is None and checkpoints.is_policy(folder)
    if anchor.backbone not in right and None not in {anchor.backbone, *right} and not tuned_from_unknown:
        raise ValueError(
            f"{file}: the anchor is of another backbone than {folder}'s; make its own with 'aegis anchor --checkpoint'"
        )
    return anchor
