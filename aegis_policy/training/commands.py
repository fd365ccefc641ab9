"""The commands that train: `aegis pretrain`, `aegis anchor` and `aegis train`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from aegis_policy.training.config import PretrainConfig, TrainConfig

log = logging.getLogger(__name__)


def pretrain(
    config: Annotated[PretrainConfig, tyro.conf.OmitArgPrefixes] = PretrainConfig(),  # noqa: B008 - it is frozen
    *,
    output: Path | None = None,
    resume: Path | None = None,
) -> None:
    """Pre-train a small VLM on question sets, or go on with one.

    Writes DIR/checkpoints/<step>/pretrained_model, in the layout PaliGemma is published in, `last` pointing to the
    newest, and DIR/metrics.jsonl. A killed run goes on with --resume DIR.

    Args:
        config: the recipe.
        output: training folder DIR to make.
        resume: training folder DIR to go on with; the recipe is the one it was started with.
    """
    if resume is not None and (config != PretrainConfig() or output not in (None, resume)):
        raise ValueError("--resume goes on with the recipe in DIR/train_config.json: give no other option with it")
    folder = resume or output
    if folder is None:
        raise ValueError("where to? name a training folder with --output, or one to go on with, by --resume")
    from aegis_policy.training.pretrain import pretrain as run

    config = replace(
        config,
        vqa=_absolute(config.vqa),
        holdout=_absolute(config.holdout),
        checkpoint=_absolute_if_here(config.checkpoint),
    )
    print(run(config, folder, resume=resume is not None))


def anchor(
    *,
    vqa: tuple[Path, ...] = (),
    checkpoint: str | None = None,
    output: Path = Path("anchor.safetensors"),
    questions: int = 3000,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Measure what a VLM's hidden states look like before fine-tuning: the anchor that `aegis train` holds it to.

    Args:
        vqa: question sets (HDF5); the ones that ship with this package if left out.
        checkpoint: VLM or policy, as folder or hub name; the policy that ships if left out.
        output: file to write.
        questions: how many images with a question, over all sets.
        seed: which of them.
        threads: of torch on the CPU.
    """
    import torch

    from aegis_policy.model.checkpoint import load_backbone
    from aegis_policy.training.anchor import anchor_of_sets
    from aegis_policy.training.device import default_device

    if questions < 1:
        raise ValueError(f"--questions {questions}: expected 1 or more")
    if output.is_dir():
        raise IsADirectoryError(f"{output}: a folder; name a file")
    torch.set_num_threads(threads)
    sets = vqa or _shipped_questions()
    if not sets:
        raise ValueError(
            "no question set: name at least one file with --vqa ('aegis record --task questions' makes one)"
        )
    backbone, processor = load_backbone(checkpoint)
    result = anchor_of_sets(backbone.to(default_device()), processor, sets, questions, seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    result.save(output)
    log.info("wrote %s: %d layers, %d channels, %d tokens", output, *result.mean.shape, result.tokens)


def train(
    config: Annotated[TrainConfig, tyro.conf.OmitArgPrefixes] = TrainConfig(),  # noqa: B008 - it is frozen
    *,
    output: Path | None = None,
    resume: Path | None = None,
) -> None:
    """Fine-tune a policy, or a VLM, on demonstrations.

    Writes DIR/checkpoints/<step>/pretrained_model, `last` pointing to the newest, and DIR/metrics.jsonl and
    DIR/tensorboard on the way. A killed run goes on with --resume DIR.

    Args:
        config: the recipe.
        output: training folder DIR to make.
        resume: training folder DIR to go on with; the recipe is the one it was started with.
    """
    if resume is not None:
        if config != TrainConfig() or output not in (None, resume):
            raise ValueError("--resume goes on with the recipe in DIR/train_config.json: give no other option with it")
        from aegis_policy.training.train import resume as go_on

        _print_once(go_on(resume))
        return
    if output is None:
        raise ValueError("where to? name a training folder with --output, or one to go on with, by --resume")
    from aegis_policy.training.train import train as run

    config = replace(
        config,
        dataset=_absolute(config.dataset),
        vqa=_absolute(config.vqa or _shipped_questions()),
        checkpoint=_absolute_if_here(config.checkpoint),
        anchor=_absolute_if_here(config.anchor),
        replay=_absolute(config.replay),
    )
    _print_once(run(config, output))


def _print_once(path: Path) -> None:
    """However many processes have trained."""
    from aegis_policy.training import world

    if world.is_first():
        print(path)


def merge(
    *,
    checkpoint: Path,
    pretrained: str,
    weight: float = 0.4,
    output: Path,
) -> None:
    """Take a fine-tuned policy's backbone part of the way back to what it was before.

    What it forgot comes back, and some of what it learnt goes: then fit the expert alone to the merged backbone, by
    'aegis train --method stop-gradient --checkpoint DIR'.

    Args:
        checkpoint: the policy; checkpoint or training folder.
        pretrained: the VLM or policy that its training began with; folder or hub name.
        weight: of the fine-tuned backbone: 1 leaves it, 0 goes all the way back.
        output: folder DIR to make; a checkpoint.
    """
    from aegis_policy.training.merge import merge as run

    run(checkpoint, pretrained, weight, output)
    print(output)


def _shipped_questions() -> list[Path]:
    """The small held-out question sets inside the package."""
    from aegis_policy.model.checkpoint import asset

    return sorted(asset("questions").glob("*.hdf5"))


def _absolute(paths: Iterable[str | Path]) -> tuple[str, ...]:
    """So that a run can be resumed from another working directory."""
    return tuple(str(Path(path).resolve()) for path in paths)


def _absolute_if_here(source: str | None) -> str | None:
    """A path that exists, made absolute; a hub name as it is."""
    return str(Path(source).resolve()) if source and Path(source).exists() else source
