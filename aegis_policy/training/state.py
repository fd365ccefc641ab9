"""Checkpoints of a training run that a kill at any moment leaves whole, and what it takes to go on from one.

    DIR/train_config.json
    DIR/metrics.jsonl                            live
    DIR/tensorboard/
    DIR/checkpoints/000500/pretrained_model/     the policy, with train_config.json and metrics.jsonl so far
    DIR/checkpoints/000500/training_state/       optimizer, if need be method and ema.safetensors, state.json
    DIR/checkpoints/last -> 000500

A checkpoint is written under a hidden name beside its place, flushed to disk and renamed: a name of digits is a whole
checkpoint. Batches are a function of seed and step, so there is no random state to keep.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from aegis_policy.model.tensors import save_tensors
from aegis_policy.training.shards import like

CHECKPOINTS, LAST = "checkpoints", "last"
MODEL, STATE = "pretrained_model", "training_state"
METRICS, CONFIG = "metrics.jsonl", "train_config.json"
_OPTIMIZER, _PROGRESS = "optimizer.safetensors", "state.json"


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a training folder, oldest first."""
    folder = run / CHECKPOINTS
    found = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def write_checkpoint(run: Path, step: int, fill: Callable[[Path], None], keep: int = 0) -> Path:
    """Let `fill` write a checkpoint, then make it the last one, all at once.

    Args:
        fill: writes into the folder it is given.
        keep: how many of the newest checkpoints to keep; 0 keeps all.
    """
    folder = run / CHECKPOINTS
    if folder.is_dir():
        _sweep(folder)
    place = folder / f"{step:06d}"
    write_whole(place, fill)
    _link(folder, place.name)
    for old in checkpoints(run)[:-keep] if keep else []:
        doomed = folder / f".{old.name}.partial"  # first it stops looking whole
        old.rename(doomed)
        shutil.rmtree(doomed)
    return place


def write_whole(place: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into the folder it is given, which then is at `place`, all at once."""
    partial = place.with_name(f".{place.name}.partial")
    if partial.exists():  # of a process that was killed
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        fill(partial)
    except OSError:  # a full disk has room again
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _flush(partial)
    partial.rename(place)
    _flush_folder(place.parent)


def adopt_newest(run: Path) -> Path | None:
    """The newest whole checkpoint, `last` pointing to it: a kill may have come between its rename and its link."""
    found = checkpoints(run)
    if not found:
        return None
    _sweep(run / CHECKPOINTS)
    _link(run / CHECKPOINTS, found[-1].name)
    return found[-1]


def write_text(path: Path, text: str) -> None:
    """Replace a file's content, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    _flush_file(partial)
    partial.replace(path)
    _flush_folder(path.parent)


def moments(optimizer: torch.optim.Optimizer, names: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """The optimizer's state by parameter name, "name/exp_avg" and so on."""
    return {
        f"{name}/{key}": value for name, parameter in names for key, value in optimizer.state.get(parameter, {}).items()
    }


def save_training_state(
    folder: Path,
    step: int,
    optimizer: dict[str, Tensor],
    began: Mapping[str, str] | None = None,
    **others: dict[str, Tensor],
) -> None:
    """Write the number of steps done, the optimizer's `moments`, and whatever else has a state that is not empty.

    Args:
        began: digests of what the run began with, by what it is, for `check_begun`.
    """
    folder.mkdir(parents=True)
    for name, tensors in {"optimizer": optimizer, **others}.items():
        if tensors or name == "optimizer":
            stored = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            save_tensors(stored, folder / f"{name}.safetensors")
    (folder / _PROGRESS).write_text(json.dumps({"step": step, **(began or {})}) + "\n")


def digest(files: Iterable[str | Path]) -> str:
    """SHA-256 of what is in `files`, in this order."""
    found = hashlib.sha256()
    for path in files:
        with Path(path).open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


BEGAN = {
    "data": "the demonstrations are not those",
    "start": "the --checkpoint is not the one",
    "replay": "the --replay sets are not those",
    "vqa": "the --vqa sets are not those",
    "holdout": "the --holdout sets are not those",
}
"""What a run began with, and how another one is called."""


def recipe(run: Path) -> str:
    """The text of a training folder's recipe.

    Raises:
        FileNotFoundError, ValueError: there is no run in `run`, or it is not a training folder but a checkpoint in one.
    """
    if (run / "config.json").is_file():
        runs = f"the run, {run.resolve().parents[2]}" if run.name == MODEL else "the folder of its run"
        raise ValueError(f"{run}: a checkpoint; go on with {runs} (--resume), or start another from it (--checkpoint)")
    if not (run / CONFIG).is_file():
        raise FileNotFoundError(f"{run}: no training run here ({CONFIG} is missing)")
    return (run / CONFIG).read_text()


def check_begun(folder: Path, began: Mapping[str, str]) -> None:
    """Raise ValueError if the run that saved its state here began with something else than has these digests."""
    known = json.loads((folder / _PROGRESS).read_text())
    for what, found in began.items():
        if known.get(what, found) != found:  # runs of earlier versions do not say
            raise ValueError(
                f"{folder.parents[2]}: {BEGAN[what]} that this run began with: put back what was there, or start a new "
                f"run from its newest checkpoint (--checkpoint)"
            )


def load_other_state(folder: Path, name: str) -> dict[str, Tensor]:
    """What `save_training_state` was given under a name, empty if that was."""
    path = folder / f"{name}.safetensors"
    return load_file(path) if path.exists() else {}


def load_training_state(
    folder: Path, optimizer: torch.optim.Optimizer, names: Iterable[tuple[str, nn.Parameter]]
) -> int:
    """Put the moments back and return the number of steps done.

    Raises:
        ValueError: the state is of other parameters.
    """
    parameters = dict(names)
    for name, value in load_file(folder / _OPTIMIZER).items():
        name, _, key = name.rpartition("/")
        if name not in parameters or (value.dim() and value.shape != parameters[name].shape):
            raise ValueError(f"{folder / _OPTIMIZER}: '{name}' {list(value.shape)} is not a parameter of this policy")
        parameter = parameters[name]
        optimizer.state[parameter][key] = like(value, parameter) if value.dim() else value.to(parameter.device)
    return int(json.loads((folder / _PROGRESS).read_text())["step"])


def _sweep(folder: Path) -> None:
    """Remove what a killed process left half done."""
    for path in folder.glob(".*.partial"):
        path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)


def _link(folder: Path, name: str) -> None:
    partial = folder / f".{LAST}.partial"
    partial.unlink(missing_ok=True)
    partial.symlink_to(name)
    partial.replace(folder / LAST)
    _flush_folder(folder)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            _flush_folder(path)
        else:
            _flush_file(path)
    _flush_folder(folder)


def _flush_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
