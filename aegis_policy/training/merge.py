"""Weights between two backbones: the cheapest answer to forgetting, after training (RETAIN, arXiv 2512.08333)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from aegis_policy.model import checkpoint as checkpoints
from aegis_policy.training import anchor as anchors
from aegis_policy.training import state


def merge(policy: str | Path, pretrained: str | Path, weight: float, output: Path) -> None:
    """Write a checkpoint: backbone pretrained + weight * (policy - pretrained), all else the policy's.

    Args:
        policy: checkpoint or training folder; pretrained: VLM or policy, folder or hub name.
        weight: from 0, the pre-trained backbone, to 1, the policy's.
        output: folder to make.

    Raises:
        ValueError: the weight is no share, the output is there, or the backbones are not of one architecture.
        OSError: there is nothing to load.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"--weight is a share, from 0 to 1, got {weight}")
    if output.exists():
        raise ValueError(f"{output}: is there already; choose another folder")
    tuned = checkpoints.load(policy)
    ours = tuned.policy.vlm.state_dict()
    theirs = checkpoints.load_backbone(pretrained)[0].vlm.state_dict()
    if differing := [name for name in ours if name not in theirs or ours[name].shape != theirs[name].shape]:
        raise ValueError(f"{pretrained}: of another architecture than {policy}: {differing[0]} differs")
    tuned.policy.vlm.load_state_dict({name: torch.lerp(theirs[name], ours[name], weight) for name in ours})
    own_anchor = Path(checkpoints.resolve(policy), anchors.FILE)

    def fill(folder: Path) -> None:
        checkpoints.save(replace(tuned, info=replace(tuned.info, model=output.resolve().name)), folder)
        if own_anchor.is_file():
            shutil.copy(own_anchor, folder)

    state.write_whole(output.absolute(), fill)
